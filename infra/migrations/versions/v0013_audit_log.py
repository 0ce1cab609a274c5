"""The audit log; its rows cannot be changed, but for the counts of repeated changes.

Triggers of the database refuse it, also to other programs than Gridcast.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
TEXTS = ("who", "origin", "address", "action", "object", "before", "after", "why", "result")
REQUIRED = ("who", "origin", "action", "object", "result")
_SAME = {"sqlite": "IS NOT", "postgresql": "IS DISTINCT FROM"}
MESSAGE = "rows of the audit log are not changed"


def upgrade() -> None:
    """Add the table and its trigger."""
    op.create_table(
        "audit",
        sa.Column("change", _KEY, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
        sa.Column("last_at", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.Text, nullable=name not in REQUIRED) for name in TEXTS),
        sa.Column("calls", sa.BigInteger, nullable=False),
        sa.Column("records", sa.BigInteger),
        sa.PrimaryKeyConstraint("change", "number", name="audit_key"),
    )
    op.create_index("audit_changed_at", "audit", ["changed_at"])
    dialect = op.get_bind().dialect.name
    differs = " OR ".join(
        f'NEW."{name}" {_SAME[dialect]} OLD."{name}"'
        for name in ("change", "number", "changed_at", *TEXTS)
    )
    condition = f"NEW.calls <= OLD.calls OR NEW.last_at < OLD.last_at OR {differs}"
    if dialect == "sqlite":
        op.execute(
            f"CREATE TRIGGER audit_unchanged BEFORE UPDATE ON audit WHEN {condition} "
            f"BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END"
        )
        return
    op.execute(
        "CREATE OR REPLACE FUNCTION audit_unchanged() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{MESSAGE}'; END $$"
    )
    op.execute(
        f"CREATE TRIGGER audit_unchanged BEFORE UPDATE ON audit FOR EACH ROW WHEN ({condition}) "
        "EXECUTE FUNCTION audit_unchanged()"
    )


def downgrade() -> None:
    """Drop both."""
    op.drop_table("audit")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION audit_unchanged()")
