# /// script
# requires-python = ">=3.11,<3.12"
# dependencies = ["snakemake==9.27.1"]
# ///
"""Snakemake in an environment of its own: it needs SQLAlchemy before 2.1, Gridcast 2.1."""

import sys

from snakemake.cli import main

if __name__ == "__main__":
    sys.exit(main())
