"""GPUs, nodes, priority, energy and labels of jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

TEXTS = ("gpu_type", "qos", "reservation", "constraint", "labels")
NUMBERS = (
    *("requested_gpus", "requested_nodes", "priority", "fair_share", "exclusive"),
    *("nodes", "energy", "gpu_time", "peak_gpu_memory"),
)


def upgrade() -> None:
    """Add the columns; PostgreSQL adds them to every partition."""
    for name in TEXTS:
        op.add_column("jobs", sa.Column(name, sa.Text))
    for name in NUMBERS:
        op.add_column("jobs", sa.Column(name, sa.Double))


def downgrade() -> None:
    """Drop them."""
    for name in (*NUMBERS, *TEXTS):
        op.drop_column("jobs", name)
