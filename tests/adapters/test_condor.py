"""HTCondor's hook and transforms, whose expressions HTCondor's own ClassAd library evaluates.

No daemon runs here: the transforms are applied line by line, and ``userMap``, which only daemons
load, is looked up in the map file.
"""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import adapters
from adapters.gridcast_table import key, translate, write_map
from services.request_policy import MIB, RequestPolicy

classad2 = pytest.importorskip("classad2", reason="HTCondor's Python package has no wheel here")

CONFIG = Path(adapters.__path__[0]) / "condor.config"
AD = 'ClusterId = 7\nOwner = "ann"\nCmd = "/usr/bin/sim"\nArgs = "a \\"b\\""\nPeriodicRelease = false\n'
REQUESTS = "RequestMemory = 4096\nAllowedExecuteDuration = 7200\n"
ACT = RequestPolicy("act", users=("ann",))
COLUMNS = (
    *("key", "jobs", "new", "longest", "walltime", "walltime_low", "walltime_high"),
    *("walltime_kill_limit", "peak_memory_allocation", "peak_memory_allocation_2"),
)


def write(path: Path, policy: RequestPolicy = ACT, age: float = 0) -> Path:
    """A table with a program that uses 500 MiB, or else 900, and ends within 1,000 s."""
    numbers = ("9", "0", "800", "500", "300", "800", "1000", f"{500 * MIB}", f"{900 * MIB}")
    rows = {key("program", "ann", "sim"): numbers, key("all"): numbers}
    head = ["gridcast-table 2", f"{time.time() - age:.0f}", "then", "gridcast/7", "2"]
    lines = ["\t".join((name, *cells)) for name, cells in sorted(rows.items())]
    path.write_text(
        "\n".join(("\t".join(head + policy.cells()), "\t".join(COLUMNS), *lines)) + "\n"
    )
    return path


def value(ad: Any, expression: str) -> Any:
    return classad2.ExprTree(expression).eval(ad)


def hold(ad: Any, reason: str, code: int, subcode: int = 0) -> bool:
    """Hold a job for a reason, as the schedd counts it; whether its PeriodicRelease lets it go."""
    before = value(ad, f"NumHoldsByReason.{reason} ?: 0")
    ad["NumHoldsByReason"] = classad2.ExprTree(f"[ {reason} = {before + 1} ]")
    ad["HoldReasonCode"], ad["HoldReasonSubCode"] = code, subcode
    return value(ad, "PeriodicRelease") is True


def climb(ad: Any, attribute: str, *held: Any) -> list[int]:
    """The values that a job gets by one hold after the other, until it stays held."""
    values = [value(ad, attribute)]
    while hold(ad, *held):
        values.append(value(ad, attribute))
        assert len(values) < 9
    return values


MEMORY, DURATION = ("JobOutOfResources", 34, 102), ("JobExecuteExceeded", 47)


def transformed(text: str, map_file: Path) -> Any:
    """Apply the transforms of condor.config to a job."""
    ad = classad2.parseOne(text)
    entries = re.findall(r'^\* "(.*)" (.*)$', map_file.read_text(), re.MULTILINE)
    of_principal = {re.sub(r"\\(.)", r"\1", name): numbers for name, numbers in entries}
    for body in re.findall(
        r"^JOB_TRANSFORM_\w+ @=end\n(.*?)^@end", CONFIG.read_text(), re.M | re.S
    ):
        requirements, *lines = (line.strip().split(" ", 1) for line in body.splitlines())
        assert requirements[0] == "REQUIREMENTS"
        if value(ad, requirements[1]) is not True:
            continue
        for command, rest in lines:
            name, expression = rest.split(" ", 1)
            if "userMap" in expression:
                # The two look-ups of the config: of user and program, else of the user.
                first = value(
                    ad, re.findall(r'userMap\("Gridcast", (strcat\(.*?\)\))\)', expression)[0]
                )
                numbers = of_principal.get(first, of_principal.get(value(ad, "Owner")))
                expression = "undefined" if numbers is None else f'"{numbers}"'
            if command == "COPY":
                ad[expression] = ad.lookup(name)
            elif command == "SET":
                ad[name] = classad2.ExprTree(expression)
            else:
                assert command == "EVALSET"
                ad[name] = value(ad, expression)
    return ad


@pytest.fixture
def by_map(tmp_path: Path) -> Any:
    """A function that transforms a job by the map of a table with a policy."""

    def transform(text: str, policy: RequestPolicy = ACT, age: float = 0) -> Any:
        write_map(write(tmp_path / "table", policy, age), tmp_path / "map")
        return transformed(text, tmp_path / "map")

    return transform


@pytest.fixture
def by_hook(tmp_path: Path) -> Any:
    """A function that gives a job to the router's hook, with a table of a policy."""

    def transform(text: str, policy: RequestPolicy = ACT, age: float = 0) -> Any:
        return classad2.parseOne(translate(text, write(tmp_path / "table", policy, age)))

    return transform


@pytest.fixture(params=["by_map", "by_hook"])
def adapt(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def test_a_job_has_its_prediction_and_keeps_all_else(adapt: Any) -> None:
    ad = adapt(AD + REQUESTS, RequestPolicy())
    assert (value(ad, "GridcastWalltime"), value(ad, "GridcastWalltimeHigh")) == (500, 800)
    assert (ad["Args"], ad["RequestMemory"], ad["AllowedExecuteDuration"]) == ('a "b"', 4096, 7200)


def test_memory_and_time_climb_from_the_prediction_to_the_jobs_own_request(adapt: Any) -> None:
    ad = adapt(AD + REQUESTS)
    assert (value(ad, "RequestMemory"), value(ad, "AllowedExecuteDuration")) == (500, 1260)
    assert ad["GridcastReason"].startswith("requests memory 500")
    assert list(dict.fromkeys(climb(ad, "RequestMemory", *MEMORY))) == [500, 900, 4096]
    ad = adapt(AD + REQUESTS)
    assert climb(ad, "AllowedExecuteDuration", *DURATION) == [1260, 7200]
    assert not hold(adapt(AD + REQUESTS), "UserRequest", 1), "held by its user"
    assert not hold(adapt(AD + REQUESTS), "JobOutOfResources", 34, 104), "out of disk"


def test_nothing_above_the_request_is_written(adapt: Any) -> None:
    ad = adapt(AD + "RequestMemory = 600\nAllowedExecuteDuration = 1200\n")
    assert set(climb(ad, "RequestMemory", *MEMORY)) == {500, 600}
    assert ad["AllowedExecuteDuration"] == 1200


@pytest.mark.parametrize(
    ("text", "policy", "age"),
    [
        (AD + "GridcastOff = true\n", ACT, 0),
        (AD, replace(ACT, mode="observe"), 0),
        (AD, replace(ACT, mode="suggest"), 0),
        (AD, replace(ACT, users=("bob",)), 0),
        (AD, replace(ACT, queues=("short",)), 0),
        (AD, replace(ACT, least_jobs=10), 0),
        (AD, ACT, 2000),
        (AD.replace("sim", "other"), ACT, 0),
        (AD.replace("= false", "= NumJobStarts < 3"), ACT, 0),
        (AD + 'TransformOnEvict = "RequestMemory"\n', ACT, 0),
    ],
)
def test_a_job_keeps_its_requests_where_it_or_the_site_says_so_or_anything_is_missing(
    adapt: Any, text: str, policy: RequestPolicy, age: float
) -> None:
    ad = adapt(text + REQUESTS, policy, age)
    assert (ad["RequestMemory"], ad["AllowedExecuteDuration"]) == (4096, 7200)
    assert str(ad.lookup("PeriodicRelease")) == str(
        classad2.parseOne(text).lookup("PeriodicRelease")
    )


def test_a_request_that_is_an_expression_or_missing_stays(adapt: Any) -> None:
    expression = "ifThenElse(isUndefined(MemoryUsage), 2000, MemoryUsage)"
    ad = adapt(AD + f"RequestMemory = {expression}\n")
    assert value(ad, "RequestMemory") == 2000
    assert "RequestMemory" not in adapt(AD)
    assert "AllowedExecuteDuration" not in adapt(AD)


def test_a_request_of_which_less_than_a_tenth_would_be_saved_stays(adapt: Any) -> None:
    text = AD + "RequestMemory = {}\nAllowedExecuteDuration = {}\n"
    ad = adapt(text.format(550, 1350))
    assert (ad["RequestMemory"], ad["AllowedExecuteDuration"]) == (550, 1350)
    ad = adapt(text.format(556, 1400))
    assert (value(ad, "RequestMemory"), value(ad, "AllowedExecuteDuration")) == (500, 1260)


def test_the_hook_notes_what_it_would_request_and_why_not(by_hook: Any) -> None:
    ad = by_hook(AD + REQUESTS, replace(ACT, mode="observe"))
    reason = "would request memory 500, 900, 4096 MiB, time 21, 120 min after 9 jobs"
    assert ad["GridcastReason"] == reason
    ad = by_hook(AD + REQUESTS, replace(ACT, least_jobs=10))
    assert ad["GridcastReason"] == "requests unchanged: 9 such jobs, 10 needed"
