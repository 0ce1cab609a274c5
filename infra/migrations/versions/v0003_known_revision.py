"""The store's revision that the predictor had learned at a prediction; missing in earlier ones."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("predictions", sa.Column("known_revision", sa.BigInteger))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("predictions", "known_revision")
