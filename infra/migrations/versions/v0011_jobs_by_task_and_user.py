"""Indexes by which the page finds the jobs of a task, and the latest jobs of a user."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create both."""
    op.create_index("jobs_task_id", "jobs", ["task_id"])
    op.create_index("jobs_user", "jobs", ["user", "submitted_at"])


def downgrade() -> None:
    """Drop both."""
    op.drop_index("jobs_user", "jobs")
    op.drop_index("jobs_task_id", "jobs")
