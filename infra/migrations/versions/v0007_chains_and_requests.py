"""Chains and requests of tasks, and predictions of their ends."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the previous task and the request to jobs, and the kind to predictions of tasks."""
    for name in ("after_task_id", "request_id"):
        op.add_column("jobs", sa.Column(name, sa.Text))
    with op.batch_alter_table("task_predictions") as table:
        table.add_column(sa.Column("kind", sa.Text, nullable=False, server_default="task"))
        table.add_column(sa.Column("tasks", sa.Double))
        table.drop_constraint("task_predictions_key", type_="primary")
        table.create_primary_key("task_predictions_key", ["kind", "task", "asked_at"])


def downgrade() -> None:
    """Drop them."""
    op.execute("DELETE FROM task_predictions WHERE kind <> 'task'")
    with op.batch_alter_table("task_predictions") as table:
        table.drop_constraint("task_predictions_key", type_="primary")
        table.create_primary_key("task_predictions_key", ["task", "asked_at"])
        table.drop_column("tasks")
        table.drop_column("kind")
    for name in ("request_id", "after_task_id"):
        op.drop_column("jobs", name)
