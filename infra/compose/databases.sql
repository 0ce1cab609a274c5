-- MLflow and Prefect each want a database to themselves: both own a table alembic_version.
CREATE DATABASE mlflow;
CREATE DATABASE prefect;
