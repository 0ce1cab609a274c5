"""Tasks: predictions of their ends, and thresholds set by operators."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "task_predictions",
        sa.Column("asked_at", sa.BigInteger, nullable=False),
        sa.Column("task", _KEY, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("group", sa.Text),
        *(
            sa.Column(name, sa.BigInteger)
            for name in ("defined_at", "median", "low", "high", "ceiling")
        ),
        *(
            sa.Column(name, sa.Double)
            for name in ("jobs", "ended", "failed", "progress", "expected_progress", "confidence")
        ),
        sa.Column("state", sa.Text),
        sa.Column("reasons", sa.Text),
        sa.Column("told_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("task", "asked_at", name="task_predictions_key"),
    )
    op.create_index("task_predictions_asked_at", "task_predictions", ["asked_at"])
    op.create_table(
        "task_thresholds",
        sa.Column("set_at", sa.BigInteger, nullable=False),
        sa.Column("group", _KEY, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.Double, nullable=False),
        sa.Column("set_by", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("group", "name", "set_at", name="task_thresholds_key"),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("task_thresholds")
    op.drop_table("task_predictions")
