"""What shards of the predictor learned, published for each other."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "shard_publications",
        sa.Column("shards", sa.BigInteger, nullable=False),
        sa.Column("shard", sa.BigInteger, nullable=False),
        sa.Column("model", _KEY, nullable=False),
        sa.Column("outcomes", sa.BigInteger, nullable=False),
        sa.Column("published_at", sa.BigInteger, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("shards", "shard", "model", name="shard_publications_key"),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("shard_publications")
