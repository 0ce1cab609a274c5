"""The keys and numbers by which jobs are known."""

from jobs.schema import COLUMNS, OUTCOMES
from models.features import CANDIDATES, KEY_FIELDS, NUMBERS


def test_no_key_and_no_number_is_a_fact_of_a_job_that_ran() -> None:
    read = {*KEY_FIELDS, *NUMBERS}
    assert read <= {*COLUMNS}
    assert not read & {*OUTCOMES, "host", "host_power"}
    assert {name for fields in CANDIDATES for name in fields} <= {*KEY_FIELDS}
