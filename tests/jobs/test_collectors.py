"""Collectors: windows that overlap, come late, are lost or are repeated leave in the store what one whole reading leaves.

Where a batch system's own program is needed, a script under its name tells from a file what that program tells, with its options; the
real sacct is asked in tests/adapters.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import create_engine, text
from typer.testing import CliRunner

import gridcast
from jobs import collectors
from jobs.collectors import COLLECTORS, CollectError, NoSystemError, collect, named_systems
from jobs.collectors.slurm import WANTED
from jobs.readers import ReadError
from jobs.store import (
    add_measurements,
    count_jobs,
    drop_source,
    read_attempts,
    read_audit,
    read_jobs,
    read_measurements,
    read_rejects,
)

DAY = datetime(2026, 3, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)

SACCT = """#!{python}
import json, pathlib, sys
here = pathlib.Path(__file__).parent
table = json.loads((here / "sacct.json").read_text())
if "--helpformat" in sys.argv:
    print("  ".join(table["columns"]))
    sys.exit()
if (here / "down").exists():
    sys.exit("sacct: error: slurm_persist_conn_open_without_init: failed to open persistent connection to host")
told = dict(word.removeprefix("--").partition("=")[::2] for word in sys.argv[1:])
names = told["format"].split(",")
if unknown := [name for name in names if name not in table["columns"]]:
    sys.exit(f"sacct: fatal: Invalid field requested: {{unknown}}")
print("|".join(names))
latest = {{row["JobID"]: row for row in table["rows"]}}  # without --duplicates it tells no more
for row in table["rows"] if "duplicates" in told else latest.values():
    if row["Submit"] <= told["endtime"] and (row["End"] == "Unknown" or row["End"] >= told["starttime"]):
        print("|".join(row.get(name, "") for name in names))
"""


def stand_in(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / name
    path.write_text(script.format(python=sys.executable))
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def moment(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%S}"


def slurm_row(
    number: int, submitted: datetime, seconds: int, ended: bool = True, **fields: str
) -> dict[str, str]:
    end = submitted + timedelta(seconds=10 + seconds)
    row = {
        "JobID": str(number),
        "JobIDRaw": str(number),
        "Cluster": "testbed",
        "User": "ann",
        "JobName": "reco",
        "Submit": moment(submitted),
    }
    row |= {
        "Start": moment(submitted + timedelta(seconds=10)),
        "ElapsedRaw": str(seconds),
        "TimelimitRaw": "60",
        "AllocCPUS": "1",
    }
    row |= (
        {"End": moment(end), "State": "COMPLETED"}
        if ended
        else {"End": "Unknown", "State": "RUNNING"}
    )
    return row | fields


class Sacct:
    """Slurm's accounting in a file, and the program that tells it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        stand_in(folder, "sacct", SACCT, monkeypatch)

    def holds(self, rows: list[dict[str, str]], columns: tuple[str, ...] = WANTED) -> None:
        (self.folder / "sacct.json").write_text(json.dumps({"columns": columns, "rows": rows}))

    def down(self, so: bool) -> None:
        (self.folder / "down").touch() if so else (self.folder / "down").unlink()


@pytest.fixture
def sacct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sacct:
    return Sacct(tmp_path, monkeypatch)


def test_windows_that_overlap_are_lost_or_repeated_leave_each_job_once_with_its_outcome(
    sqlite_store: Any, sacct: Sacct
) -> None:
    rows = [
        slurm_row(number, DAY + number * timedelta(minutes=7), 1800) for number in range(1, 200)
    ]
    for hour in range(1, 26, 3):
        now = DAY + hour * HOUR
        begun = [row for row in rows if row["Submit"] <= moment(now)]
        sacct.holds(
            [
                row
                if row["End"] <= moment(now)
                else row | {"End": "Unknown", "State": "RUNNING", "ElapsedRaw": "60"}
                for row in begun
            ]
        )
        if hour in (7, 10, 16):
            sacct.down(True)
            with pytest.raises(
                CollectError, match="sacct failed: sacct: error: slurm_persist_conn_open"
            ):
                collect(sqlite_store, "slurm", until=now)
            sacct.down(False)
            continue
        collect(sqlite_store, "slurm", since=DAY if hour == 1 else None, until=now)
        if hour % 2:
            again = collect(sqlite_store, "slurm", until=now)
            assert (again.added, again.updated) == (0, 0)
    assert count_jobs(sqlite_store)[["source", "jobs", "ended"]].to_numpy().tolist() == [
        ["testbed", 199, 199]
    ]
    assert read_jobs(sqlite_store)["walltime"].unique().tolist() == [1800]


def test_what_the_accounting_learns_hours_late_is_in_the_next_window(
    sqlite_store: Any, sacct: Sacct
) -> None:
    early, late = slurm_row(1, DAY, 60), slurm_row(2, DAY, 90)
    sacct.holds([early])
    collect(sqlite_store, "slurm", since=DAY, until=DAY + HOUR)
    sacct.holds([early, late])  # slurmctld could not reach its database until now
    done = collect(sqlite_store, "slurm", until=DAY + 5 * HOUR)
    assert (done.added, done.unchanged) == (1, 1)
    log = read_audit(sqlite_store)
    assert {*log["object"]} == {"slurm all"} and log["records"].sum() == 2


def mark(store: Any) -> datetime:
    """How far Slurm was read."""
    marks = read_measurements(store, "slurm", kind="collected")
    return datetime.fromtimestamp(float(marks["value"].iloc[-1]), UTC)


def test_a_window_whose_records_cannot_be_read_is_asked_for_again(
    sqlite_store: Any, sacct: Sacct, monkeypatch: pytest.MonkeyPatch
) -> None:
    sacct.holds([slurm_row(1, DAY, 60)])
    collect(sqlite_store, "slurm", since=DAY, until=DAY + HOUR)
    with monkeypatch.context() as torn:
        torn.setattr(
            collectors,
            "ingest_file",
            lambda *arguments, **more: (_ for _ in ()).throw(ReadError("the window was cut off")),
        )
        lost = collect(sqlite_store, "slurm", until=DAY + 9 * HOUR)
    assert (lost.lost, lost.errors, mark(sqlite_store)) == (
        True,
        ("the window was cut off",),
        DAY + HOUR,
    )
    assert not collect(sqlite_store, "slurm", until=DAY + 9 * HOUR).lost
    assert mark(sqlite_store) == DAY + 9 * HOUR


def test_a_window_that_a_person_asks_for_moves_the_mark_neither_over_a_gap_nor_back(
    sqlite_store: Any, sacct: Sacct
) -> None:
    sacct.holds([slurm_row(number, DAY + number * HOUR, 60) for number in range(40)])
    collect(sqlite_store, "slurm", since=DAY, until=DAY + 10 * HOUR)
    collect(sqlite_store, "slurm", since=DAY + 20 * HOUR, until=DAY + 22 * HOUR)
    assert mark(sqlite_store) == DAY + 10 * HOUR, "what lies between was not read"
    collect(sqlite_store, "slurm", since=DAY + HOUR, until=DAY + 2 * HOUR)
    assert mark(sqlite_store) == DAY + 10 * HOUR
    collect(sqlite_store, "slurm", until=DAY + 40 * HOUR)
    assert (mark(sqlite_store), count_jobs(sqlite_store)["jobs"].tolist()) == (
        DAY + 40 * HOUR,
        [40],
    )


def test_a_long_absence_is_read_a_day_at_a_time_and_a_failure_half_way_keeps_what_was_read(
    sqlite_store: Any, sacct: Sacct, monkeypatch: pytest.MonkeyPatch
) -> None:
    sacct.holds([slurm_row(number, DAY + number * HOUR, 60) for number in range(96)])
    steps = []

    def stop_half_way(done: Any) -> None:
        steps.append(done.until)
        if len(steps) == 2:
            raise KeyboardInterrupt

    end = DAY + timedelta(days=4)
    with pytest.raises(KeyboardInterrupt):
        collect(sqlite_store, "slurm", since=DAY, until=end, progress=stop_half_way)
    assert (
        read_measurements(sqlite_store, "slurm", kind="collected")["value"].iloc[-1]
        == (DAY + timedelta(days=2)).timestamp()
    )
    done = collect(sqlite_store, "slurm", until=end)
    assert done.since == DAY + timedelta(days=2) - COLLECTORS["slurm"].overlap
    assert count_jobs(sqlite_store)["jobs"].tolist() == [96]


def test_columns_that_are_new_or_gone_are_no_matter_and_a_missing_required_one_is_named(
    sqlite_store: Any, sacct: Sacct
) -> None:
    rows = [slurm_row(1, DAY, 60, Newest="unheard of")]
    sacct.holds(
        rows,
        tuple(name for name in (*WANTED, "Newest") if name not in ("AveRSS", "TRESUsageInTot")),
    )
    done = collect(sqlite_store, "slurm", since=DAY, until=DAY + HOUR)
    assert done.added == 1 and set(done.notes) == {
        "sacct has no column AveRSS",
        "sacct has no column TRESUsageInTot",
    }
    sacct.holds(rows, ("SubmitTime", *(name for name in WANTED if name != "Submit")))
    result = CliRunner().invoke(gridcast.app, ["collect", "slurm", "--since", "2026-11-01"])
    assert isinstance(result.exception, Exception) and "this sacct has no column Submit" in str(
        result.exception
    )


def test_a_bad_record_is_kept_once_however_many_windows_show_it(
    sqlite_store: Any, sacct: Sacct
) -> None:
    for hour in (1, 2, 3):
        more = [
            slurm_row(10 + number, DAY + timedelta(minutes=number), 60) for number in range(hour)
        ]
        sacct.holds([*more, slurm_row(1, DAY, 60, Start="a while")])
        assert (
            collect(
                sqlite_store, "slurm", since=DAY if hour == 1 else None, until=DAY + hour * HOUR
            ).rejected
            == 1
        )
    assert read_rejects(sqlite_store)["file"].tolist() == [
        f"slurm all: sacct {moment(DAY)} to {moment(DAY + HOUR)}"
    ]


def test_a_system_that_is_not_there_is_one_sentence(
    sqlite_store: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for system, where, reason in (
        (
            "slurm",
            "",
            "sacct is not on this machine's PATH: run the collector where Slurm's own commands work",
        ),
        (
            "condor",
            "",
            "condor_history is not on this machine's PATH: run the collector where HTCondor's own commands work",
        ),
        (
            "pbs",
            "",
            "the collector pbs needs the accounting folder: gridcast collect pbs WHERE",
        ),
        ("folder", str(tmp_path / "gone"), f"there is no folder {tmp_path / 'gone'}"),
        ("lsf", "", "there is no collector lsf: choose one of slurm, condor, pbs, panda, folder"),
    ):
        with pytest.raises(NoSystemError) as refused:
            collect(sqlite_store, system, where)
        assert str(refused.value) == reason
        assert refused.value.exit_code == 2
    with pytest.raises(NoSystemError):
        named_systems("slurm,lfs")


CONDOR_HISTORY = """#!{python}
import json, pathlib, sys
here = pathlib.Path(__file__).parent
wanted = sys.argv[sys.argv.index("-attributes") + 1].split(",")
told = []
for ad in reversed(json.loads((here / "history.json").read_text())):
    if "-since" in sys.argv and f"{{ad['ClusterId']}}.{{ad['ProcId']}}" == sys.argv[sys.argv.index("-since") + 1]:
        break
    told.append({{name: ad[name] for name in wanted if name in ad}})
print(json.dumps(told) if told else "")
"""


def test_condors_history_is_read_back_to_where_it_was_read_last_in_whatever_order_jobs_left_the_queue(
    sqlite_store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, "condor_history", CONDOR_HISTORY, monkeypatch)
    ended = DAY.timestamp()
    ads = [
        {
            "ClusterId": number,
            "ProcId": 0,
            "GlobalJobId": f"schedd#{number}",
            "Owner": "ann",
            "QDate": ended - 100,
            "JobStartDate": ended - 60,
        }
        | {
            "CompletionDate": ended - (86400 if number == 4 else 0),
            "JobStatus": 4,
            "RemoteWallClockTime": 60.0,
            "ExitCode": 0,
        }
        | ({"QDate": ended - 90000, "JobStartDate": ended - 86460} if number == 4 else {})
        for number in (
            1,
            2,
            3,
            4,
            5,
        )  # the fourth waited a day in the queue for its output to be fetched
    ]
    for marks, new in ((2, 2), (2, 0), (5, 3), (5, 0)):
        (tmp_path / "history.json").write_text(json.dumps(ads[:marks]))
        done = collect(sqlite_store, "condor")
        assert (done.read, done.added) == (new, new)
    assert sorted(read_jobs(sqlite_store)["job_id"]) == ["1.0", "2.0", "3.0", "4.0", "5.0"]


def test_pbs_accounting_is_read_while_it_is_written(sqlite_store: Any, tmp_path: Path) -> None:
    def record(number: int) -> str:
        return (
            f"03/10/2026 10:0{number}:00;E;{number}.server;user=ann group=atlas queue=long qtime=1773136800 start=1773136900 "
            f"end=177313700{number} Resource_List.walltime=01:00:00 resources_used.walltime=00:01:40 Exit_status=0\n"
        )

    folder = tmp_path / "accounting"
    folder.mkdir()
    file = folder / "20260310"
    file.write_text(record(1) + record(2)[:70])
    now = datetime.fromtimestamp(file.stat().st_mtime, UTC) + timedelta(seconds=1)
    assert collect(sqlite_store, "pbs", str(folder), until=now).added == 1
    file.write_text(record(1) + record(2))
    done = collect(sqlite_store, "pbs", str(folder), until=now + HOUR)
    assert (done.added, done.unchanged, done.rejected) == (1, 1, 0)


def test_packed_pbs_accounting_is_not_cut_in_its_packed_bytes(
    sqlite_store: Any, tmp_path: Path
) -> None:
    lines = "".join(
        f"03/10/2026 10:00:00;E;{n}.server;user=u{n * 7919 % 10007} qtime=1773136800"
        f" start=1773136900 end=1773137000 resources_used.walltime=00:01:40 Exit_status=0\n"
        for n in range(3000)
    )
    packed = gzip.compress(lines.encode())
    assert packed.rfind(b"\n") < len(packed) - 1
    folder = tmp_path / "accounting"
    folder.mkdir()
    (folder / "20260310.gz").write_bytes(packed)
    now = datetime.now(UTC) + timedelta(seconds=1)
    done = collect(sqlite_store, "pbs", str(folder), until=now)
    assert (done.added, done.rejected) == (3000, 0)


def test_slurms_job_names_with_bars_and_line_feeds_are_collected(
    sqlite_store: Any, sacct: Sacct
) -> None:
    names = ["tail log | grep x", "two\nlines|2", "plain"]
    rows = [slurm_row(n, DAY, 60 * n, JobName=name) for n, name in enumerate(names, 1)]
    sacct.holds(rows)
    done = collect(sqlite_store, "slurm", since=DAY, until=DAY + HOUR)
    assert (done.added, done.rejected) == (3, 0)
    jobs = read_jobs(sqlite_store)
    assert jobs["job_name"].tolist() == names
    assert jobs["walltime"].tolist() == [60.0, 120.0, 180.0]


def test_the_earlier_runs_of_slurms_jobs_are_collected(sqlite_store: Any, sacct: Sacct) -> None:
    lost = slurm_row(1, DAY, 60, State="NODE_FAIL")
    sacct.holds([lost, slurm_row(1, DAY + timedelta(minutes=2), 120)])
    for _ in range(2):
        collect(sqlite_store, "slurm", since=DAY, until=DAY + HOUR)
    jobs = read_jobs(sqlite_store)
    assert jobs["walltime"].tolist() == [120.0]
    attempts = read_attempts(sqlite_store, jobs)
    assert attempts[["status", "walltime"]].values.tolist() == [["failed", 60.0]]


def test_a_folders_bad_file_is_named_and_the_others_are_read(
    sqlite_store: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "dumps"
    folder.mkdir()
    (folder / "a.txt").write_text("JobID|State|Elapsed\n1|COMPLETED|60\n")
    (folder / "b.txt").write_text(
        f"JobID|State|Submit|Start|End\n1|COMPLETED|{moment(DAY)}|{moment(DAY)}|{moment(DAY + HOUR)}\n"
    )
    for path in (
        folder.iterdir()
    ):  # moved here with the time of their writing, long before the first window
        os.utime(path, (0, DAY.timestamp() - 86400 * 365))
    (folder / "being-written.txt").write_text("JobID|St")
    done = collect(sqlite_store, "folder", str(folder))
    assert (
        done.added == 1
        and len(done.errors) == 1
        and "a.txt" in done.errors[0]
        and "Submit" in done.errors[0]
    )
    assert collect(sqlite_store, "folder", str(folder)).added == 0
    later = datetime.now(UTC) + 3 * HOUR
    assert (
        collect(sqlite_store, "folder", str(folder), since=later - HOUR, until=later).files == 0
    ), "nothing came or changed since"


def test_pandas_records_are_queried_from_its_database_since_the_mark(
    sqlite_store: Any, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'panda.db'}"
    frame = pd.DataFrame(
        {
            "pandaid": [1, 2, 3],
            "jeditaskid": [7, 7, 8],
            "produsername": "ann",
            "computingsite": "CERN",
            "jobstatus": ["finished", "failed", "finished"],
            "creationtime": "2026-03-10 00:00:00",
            "starttime": "2026-03-10 01:00:00",
            "endtime": ["2026-03-10 02:00:00", "2026-03-10 02:00:00", "2026-03-10 04:00:00"],
            "modificationtime": [
                "2026-03-10 02:10:00",
                "2026-03-10 02:10:00",
                "2026-03-10 04:10:00",
            ],
        }
    )
    elsewhere = create_engine(url)
    with elsewhere.begin() as connection:
        frame.to_sql("jobsarchived4", connection, index=False)
        connection.execute(text("CREATE TABLE empty (modificationtime TEXT)"))
    elsewhere.dispose()
    assert collect(sqlite_store, "panda", url, until=DAY + 3 * HOUR).added == 2
    done = collect(sqlite_store, "panda", url, until=DAY + 5 * HOUR)
    assert (done.added, done.unchanged) == (1, 2)
    assert read_jobs(sqlite_store)["walltime"].tolist() == [3600, 3600, 10800]
    assert collect(sqlite_store, "panda", f"{url}#empty").read == 0
    with pytest.raises(NoSystemError, match="no name of a table"):
        collect(sqlite_store, "panda", f"{url}#jobs; DROP TABLE jobs")
    secret = "postgresql://panda:secret@127.0.0.1:1/panda"
    with pytest.raises(Exception, match="cannot be read") as refused:
        collect(sqlite_store, "panda", secret)
    assert "secret" not in str(refused.value)


def test_a_dropped_source_is_collected_again_from_the_beginning(store: Any, tmp_path: Path) -> None:
    until = datetime.now(UTC) + 3 * HOUR
    for source in ("a", "b"):
        (tmp_path / source).mkdir()
        (tmp_path / source / "jobs.csv").write_text(
            "source,job_id,submitted_at,ended_at\n"
            f"{source},1,2026-03-10T00:00:00Z,2026-03-10T01:00:00Z\n"
        )
        assert collect(store, "folder", str(tmp_path / source), until=until).added == 1
    # Positions accumulate the sources; an empty window changes nothing of them.
    later = until + 5 * HOUR
    assert collect(store, "folder", str(tmp_path / "a"), until=later).files == 0
    with store.begin() as connection:
        old = {"measured_at": pd.Timestamp(until), "kind": "collected", "name": "pbs", "value": 1.0}
        add_measurements(connection, pd.DataFrame([old | {"details": {"newest": ""}}]))

    assert drop_source(store, "a")["measurements"] == 3
    (position,) = read_measurements(store, kind="collected").to_dict("records")
    assert position["segment"].endswith("/b") and position["details"]["sources"] == ["b"]
    assert collect(store, "folder", str(tmp_path / "a"), until=later).added == 1
    assert count_jobs(store)["source"].tolist() == ["a", "b"]
