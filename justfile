# The commands of development; `.ci/run` runs the same ones. `just` alone lists them.
default:
    @just --list

# Install the locked environment.
install:
    uv sync --locked

# Lint, format check, types and the import contracts.
check:
    uv lock --check
    uv run --no-sync ruff check .
    uv run --no-sync ruff format --check .
    uv run --no-sync mypy
    uv run --no-sync lint-imports

# Format the code and fix what ruff can fix.
format:
    uv run --no-sync ruff check --fix .
    uv run --no-sync ruff format .

# Run the tests; `just test tests/jobs -k swf` runs some.
test *ARGS:
    uv run --no-sync pytest -q {{ARGS}}

# Run units and properties only, without servers: less than 90 s on two cores.
quick *ARGS:
    uv run --no-sync pytest -q -m "not slow" {{ARGS}}

# Build the documentation into site/, strictly; it opens without a server or network.
docs:
    NO_MKDOCS_2_WARNING=1 uv run --no-sync mkdocs build --strict --quiet

# Type the commands of README and of every tutorial and how-to page, servers included: some 15 minutes.
pages *ARGS:
    GRIDCAST_TEST_ALL_PAGES=1 uv run --no-sync pytest -q tests/test_readme.py tests/examples/test_pages.py {{ARGS}}

# Let a shard join so many others, be killed, come back and leave under load, with real predictors: some minutes.
shards COUNT="2" *ARGS:
    GRIDCAST_TEST_SHARDS={{COUNT}} uv run --no-sync pytest -q -n 0 -s tests/services/router/test_under_load.py {{ARGS}}

# Run everything that CI runs.
ci:
    .ci/run

# Run the whole loop on generated jobs.
demo:
    uv run gridcast demo

# Simulate the whole loop under seeded faults, with SEEDS different seeds.
simulate SEEDS="1000":
    uv run --no-sync python -m tests.simulation {{SEEDS}}

# Resolve the newest packages in a copy, run the pins' tests and the main loop on them, and say what breaks.
upgrade:
    .ci/upgrade

# Upgrade a store that COMMIT filled with generated jobs, and compare every value; DATABASE: sqlite or postgresql.
upgrade-from COMMIT="ad4eb9e" DATABASE="sqlite":
    uv run --no-sync python .ci/upgrade-from {{COMMIT}} {{DATABASE}}

# Build wheel and sdist into dist/, install them into an empty environment and run the demo there; PYTHON: 3.11, 3.12 or 3.13.
release PYTHON="3.11":
    .ci/release {{PYTHON}}

# Build the images and run compose and the chart in containers, read-only and as user 10001: 40 minutes, as root.
image *ARGS:
    GRIDCAST_TEST_IMAGE=1 uv run --no-sync pytest -q -n 0 -s tests/infra/test_image.py {{ARGS}}
