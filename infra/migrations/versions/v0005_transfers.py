"""Transfers: a table beside that of jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TEXTS = (
    "user", "group", "activity", "direction", "from_endpoint", "to_endpoint", "link",
    "file_system", "device", "protocol",
)  # fmt: skip
NUMBERS = ("streams", "buffer_bytes", "bytes", "files")


def _key(name: str) -> sa.Column[str]:
    # Both databases must sort keys alike: byte by byte.
    return sa.Column(
        name, sa.Text().with_variant(sa.Text(collation="C"), "postgresql"), nullable=False
    )


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "transfers",
        _key("transfer_id"),
        _key("source"),
        *(sa.Column(name, sa.Text) for name in TEXTS),
        *(sa.Column(name, sa.Double) for name in NUMBERS),
        sa.Column("submitted_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("status", sa.Text),
        sa.Column("duration", sa.Double),
        sa.Column("revision", sa.BigInteger, nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("source", "transfer_id", name="transfers_key"),
    )
    for name in ("submitted_at", "ended_at", "revision"):
        op.create_index(f"transfers_{name}", "transfers", [name])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("transfers")
