"""Keys of jobs and transfers and sequences of their revisions, for several writers at once.

The keys are those of the stored rows, on PostgreSQL; SQLite has one writer and leaves them empty.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_RECORDS = {"job": "jobs", "transfer": "transfers"}
_NEWEST = """
    SELECT setval('{record}_revisions', greatest(
        last_value,
        (SELECT coalesce(max(revision), 0) FROM {table}),
        (SELECT coalesce(max(value), 0)::bigint FROM measurements
         WHERE kind = 'retention' AND name = 'revision of {table}')
    )) FROM {record}_revisions
"""


def upgrade() -> None:
    """Add them."""
    for record, table in _RECORDS.items():
        op.create_table(
            f"{record}_keys",
            sa.Column("source", _KEY, nullable=False),
            sa.Column(f"{record}_id", _KEY, nullable=False),
            sa.Column("submitted_at", sa.BigInteger, nullable=False),
            sa.PrimaryKeyConstraint("source", f"{record}_id", name=f"{record}_keys_key"),
        )
        if op.get_bind().dialect.name == "postgresql":
            op.execute(
                f"INSERT INTO {record}_keys SELECT source, {record}_id, submitted_at FROM {table}"
            )
            op.execute(f"CREATE SEQUENCE IF NOT EXISTS {record}_revisions MINVALUE 0")
            op.execute(_NEWEST.format(record=record, table=table))


def downgrade() -> None:
    """Drop them; the numbers of revisions go on from the stored ones."""
    for record in _RECORDS:
        op.drop_table(f"{record}_keys")
        if op.get_bind().dialect.name == "postgresql":
            op.execute(f"DROP SEQUENCE {record}_revisions")
