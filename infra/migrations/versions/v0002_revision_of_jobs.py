"""The revision of a job: the number of the transaction in which its end was stored."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column: 1 for jobs that have ended, 0 for others."""
    op.add_column("jobs", sa.Column("revision", sa.BigInteger, nullable=False, server_default="0"))
    op.execute("UPDATE jobs SET revision = 1 WHERE ended_at IS NOT NULL")
    op.create_index("jobs_revision", "jobs", ["revision"])


def downgrade() -> None:
    """Drop it."""
    op.drop_index("jobs_revision", "jobs")
    op.drop_column("jobs", "revision")
