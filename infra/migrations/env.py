"""Alembic's entry: runs the migrations on the connection of jobs.store, inside its transaction.

The version table is not ``alembic_version``, which Prefect and MLflow both use.
"""

from alembic import context

VERSION_TABLE = "gridcast_version"

context.configure(
    connection=context.config.attributes["connection"],
    version_table=VERSION_TABLE,
    transactional_ddl=True,  # also on SQLite, against Alembic's default: all or nothing
    render_as_batch=True,  # SQLite alters a table by copying it
)
with context.begin_transaction():
    context.run_migrations()
