# The chores; `.ci/run` runs the same ones. `just` alone lists them.
default:
    @just --list

# Install the locked environment.
install:
    uv sync --locked

# Lint, format check, types and the contracts of the floors.
check:
    uv lock --check
    uv run --no-sync ruff check .
    uv run --no-sync ruff format --check .
    uv run --no-sync mypy
    uv run --no-sync lint-imports

# Put the code into its one format and mend what ruff can mend.
format:
    uv run --no-sync ruff check --fix .
    uv run --no-sync ruff format .

# Run the tests; `just test tests/jobs -k swf` runs some.
test *ARGS:
    uv run --no-sync pytest -q {{ARGS}}

# Everything that CI does.
ci:
    .ci/run

# The whole loop on generated jobs.
demo:
    uv run gridcast demo

# The whole loop under seeded faults, as many worlds as asked for.
simulate SEEDS="1000":
    uv run --no-sync python -m tests.simulation {{SEEDS}}
