"""Earlier attempts of jobs: a table beside that of jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

TEXTS = ("status", "queue", "site", "host")
NUMBERS = (
    "requested_walltime", "requested_cores", "requested_memory",
    "cores", "walltime", "cpu_time", "peak_memory",
)  # fmt: skip


def _key(name: str) -> sa.Column[str]:
    # Both databases must sort keys alike: byte by byte.
    return sa.Column(
        name, sa.Text().with_variant(sa.Text(collation="C"), "postgresql"), nullable=False
    )


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "attempts",
        _key("job_id"),
        _key("source"),
        sa.Column("submitted_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("ended_at", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.Text) for name in TEXTS),
        *(sa.Column(name, sa.Double) for name in NUMBERS),
        sa.PrimaryKeyConstraint("source", "job_id", "ended_at", name="attempts_key"),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("attempts")
