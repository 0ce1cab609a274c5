"""Whether a prediction is the challenger's, which no caller received; missing in earlier ones."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("predictions", sa.Column("shadow", sa.Boolean))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("predictions", "shadow")
