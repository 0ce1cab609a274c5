"""Partitions by month, on PostgreSQL, of the tables that grow with the jobs.

The rows are copied in the transaction of the migration: if it is interrupted, nothing has changed.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_RECORDS = ("submitted_at", "ended_at", "revision")
# The time that a table is partitioned by, its key without it, and its other indexes.
TABLES = {
    "jobs": ("submitted_at", ("source", "job_id"), _RECORDS),
    "transfers": ("submitted_at", ("source", "transfer_id"), _RECORDS),
    "predictions": (
        "asked_at",
        ("source", "job_id", "target", "asked_at", "model_version"),
        ("asked_at",),
    ),
}
_MONTHS = (
    "SELECT DISTINCT date_trunc('month', to_timestamp({} / 1000000) AT TIME ZONE 'UTC') FROM {}"
)
_BEGIN = "(EXTRACT(EPOCH FROM TIMESTAMP '{}') * 1000000)::bigint"


def upgrade() -> None:
    """Partition them."""
    if op.get_bind().dialect.name != "postgresql":
        return
    for name, (moment, key, indexed) in TABLES.items():
        _rename(name, indexed)
        op.execute(
            f"CREATE TABLE {name} (LIKE {name}_before INCLUDING DEFAULTS) "
            f"PARTITION BY RANGE ({moment})"
        )
        for (month,) in (
            op.get_bind().execute(sa.text(_MONTHS.format(moment, f"{name}_before"))).all()
        ):
            later = month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)
            bounds = [
                op.get_bind().execute(sa.text(f"SELECT {_BEGIN.format(at)}")).scalar()
                for at in (month, later)
            ]
            op.execute(
                f"CREATE TABLE {name}_{month:%Y_%m} PARTITION OF {name} "
                f"FOR VALUES FROM ({bounds[0]}) TO ({bounds[1]})"
            )
        _fill(name, key if moment in key else (*key, moment), indexed)


def downgrade() -> None:
    """Make each one table again."""
    if op.get_bind().dialect.name != "postgresql":
        return
    for name, (_, key, indexed) in TABLES.items():
        _rename(name, indexed)
        op.execute(f"CREATE TABLE {name} (LIKE {name}_before INCLUDING DEFAULTS)")
        _fill(name, key, indexed)


def _rename(name: str, indexed: tuple[str, ...]) -> None:
    """Rename a table and drop its indexes, whose names the copy needs."""
    op.execute(f"ALTER TABLE {name} RENAME TO {name}_before")
    op.drop_constraint(f"{name}_key", f"{name}_before", type_="primary")
    for column in indexed:
        op.drop_index(f"{name}_{column}", f"{name}_before")


def _fill(name: str, key: tuple[str, ...], indexed: tuple[str, ...]) -> None:
    """Copy the rows, then make the indexes."""
    op.execute(f"INSERT INTO {name} SELECT * FROM {name}_before")
    op.create_primary_key(f"{name}_key", name, list(key))
    for column in indexed:
        op.create_index(f"{name}_{column}", name, [column])
    op.drop_table(f"{name}_before")
