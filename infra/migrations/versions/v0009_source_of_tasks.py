"""Predictions of tasks are keyed by source: two sources may use the same task name."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
# The source of each stored name, where only one source has jobs of it; otherwise the empty text.
_FILL = """
    UPDATE task_predictions SET source = owners.source
    FROM (SELECT {column} AS name, min(source) AS source FROM jobs WHERE {column} IS NOT NULL
          GROUP BY {column} HAVING count(DISTINCT source) = 1) AS owners
    WHERE task_predictions.task = owners.name AND task_predictions.kind {kinds}
"""


def upgrade() -> None:
    """Add the source, fill it in from the stored jobs, and make it part of the key."""
    op.add_column("task_predictions", sa.Column("source", _KEY, nullable=False, server_default=""))
    if op.get_bind().execute(sa.text("SELECT 1 FROM task_predictions LIMIT 1")).first():
        # A chain is stored under the name of its first task.
        op.execute(_FILL.format(column="task_id", kinds="IN ('task', 'chain')"))
        op.execute(_FILL.format(column="request_id", kinds="= 'request'"))
    with op.batch_alter_table("task_predictions") as table:
        table.drop_constraint("task_predictions_key", type_="primary")
        table.create_primary_key("task_predictions_key", ["kind", "source", "task", "asked_at"])


def downgrade() -> None:
    """Drop the source; of rows that differ only in it the first source's stays."""
    op.execute(
        "DELETE FROM task_predictions WHERE EXISTS (SELECT 1 FROM task_predictions AS twin"
        " WHERE twin.kind = task_predictions.kind AND twin.task = task_predictions.task"
        " AND twin.asked_at = task_predictions.asked_at AND twin.source < task_predictions.source)"
    )
    with op.batch_alter_table("task_predictions") as table:
        table.drop_constraint("task_predictions_key", type_="primary")
        table.create_primary_key("task_predictions_key", ["kind", "task", "asked_at"])
        table.drop_column("source")
