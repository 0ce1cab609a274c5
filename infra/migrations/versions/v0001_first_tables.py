"""First tables: jobs, rejects, predictions, measurements.

Migrations name their columns and do not follow jobs/schema.py; a test compares the result.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

JOB_TEXTS_BEFORE = ("task_id",)
JOB_TEXTS = ("user", "group", "project", "program", "job_name", "queue", "site", "host")
JOB_ASKED = (
    "host_power",
    "requested_walltime",
    "requested_cores",
    "requested_memory",
    "input_bytes",
    "input_files",
    "events",
)
JOB_OUTCOMES = ("cores", "walltime", "cpu_time", "peak_memory", "read_bytes", "written_bytes")


def _key(name: str) -> sa.Column[str]:
    # Both databases must sort keys alike: byte by byte.
    return sa.Column(
        name, sa.Text().with_variant(sa.Text(collation="C"), "postgresql"), nullable=False
    )


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "jobs",
        _key("job_id"),
        *(sa.Column(name, sa.Text) for name in JOB_TEXTS_BEFORE),
        _key("source"),
        *(sa.Column(name, sa.Text) for name in JOB_TEXTS),
        *(sa.Column(name, sa.Double) for name in JOB_ASKED),
        sa.Column("submitted_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("status", sa.Text),
        *(sa.Column(name, sa.Double) for name in JOB_OUTCOMES),
        sa.PrimaryKeyConstraint("source", "job_id", name="jobs_key"),
    )
    op.create_index("jobs_submitted_at", "jobs", ["submitted_at"])
    op.create_index("jobs_ended_at", "jobs", ["ended_at"])
    op.create_table(
        "rejects",
        sa.Column("file", sa.Text, nullable=False),
        sa.Column("line", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("raw", sa.Text),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("file", "line", "reason", name="rejects_key"),
    )
    op.create_table(
        "predictions",
        sa.Column("asked_at", sa.BigInteger, nullable=False),
        _key("source"),
        _key("job_id"),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("model_version", sa.Text, nullable=False),
        sa.Column("cluster", sa.Text),
        *(sa.Column(name, sa.Double) for name in ("point", "median", "low", "high")),
        sa.Column("cold_start", sa.Boolean),
        sa.PrimaryKeyConstraint(
            "source", "job_id", "target", "asked_at", "model_version", name="predictions_key"
        ),
    )
    op.create_index("predictions_asked_at", "predictions", ["asked_at"])
    op.create_table(
        "measurements",
        sa.Column("measured_at", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("segment", sa.Text, nullable=False),
        sa.Column("value", sa.Double),
        sa.Column("details", sa.Text),
        sa.PrimaryKeyConstraint("kind", "name", "segment", "measured_at", name="measurements_key"),
    )
    op.create_index("measurements_measured_at", "measurements", ["measured_at"])


def downgrade() -> None:
    """Drop them again."""
    for name in ("measurements", "predictions", "rejects", "jobs"):
        op.drop_table(name)
