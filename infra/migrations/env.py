"""Alembic's entry: runs the migrations on the connection that jobs.store hands over, inside its transaction.

The version table has a name of its own, because Prefect and MLflow both own a table ``alembic_version``.
"""

from alembic import context

VERSION_TABLE = "gridcast_version"

context.configure(
    connection=context.config.attributes["connection"],
    version_table=VERSION_TABLE,
    transactional_ddl=True,  # SQLite can, though Alembic's default says it cannot: a killed migration leaves nothing behind
    render_as_batch=True,  # SQLite alters a table by copying it
)
with context.begin_transaction():
    context.run_migrations()
