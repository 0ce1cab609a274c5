"""From log files to the store: bad lines, repeats, overlaps, kills."""

from __future__ import annotations

import gzip
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from jobs.ingest import Ingested, ingest_file, ingest_files
from jobs.readers import ReadError
from jobs.store import StoreError, count_jobs, open_store, read_jobs, read_rejects
from jobs.workload import generate
from jobs.writers import write_csv, write_swf

HEADER = "; Version: 2.2\n; UnixStartTime: 1767225600\n"  # 2026-01-01 UTC


def swf_line(number: int, submit: float = 0, run: float = 60, **fields: object) -> str:
    """One SWF line: a job that waited 10 s and ran ``run`` s; other fields by their position (1 to 18)."""
    values: list[object] = [number, submit, 10, run, 1, 50, 1024, 1, 600, 2048, 1, 3, 4, 5, 6, 7, -1, -1]
    for position, value in fields.items():
        values[int(position.removeprefix("field")) - 1] = value
    return " ".join(map(str, values))


def write_log(path: Path, lines: list[str]) -> Path:
    text = HEADER + "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def sums(done: Ingested) -> tuple[int, int, int, int, int]:
    assert done.read == done.added + done.updated + done.unchanged + done.rejected
    return done.read, done.added, done.updated, done.unchanged, done.rejected


def test_a_log_is_stored_and_ingesting_it_again_changes_nothing(store: Any, tmp_path: Path) -> None:
    log = write_log(tmp_path / "site.swf.gz", [swf_line(i, i) for i in range(1, 101)])
    assert sums(ingest_file(store, log)) == (100, 100, 0, 0, 0)
    before = read_jobs(store)
    assert before["source"].unique().tolist() == ["site"]
    assert (before["ended_at"] - before["submitted_at"]).dt.total_seconds().unique().tolist() == [70.0]
    assert sums(ingest_file(store, log)) == (100, 0, 0, 100, 0)
    pd.testing.assert_frame_equal(read_jobs(store), before)


def test_overlapping_windows_of_a_log_give_each_job_once(sqlite_store: Any, tmp_path: Path) -> None:
    lines = [swf_line(i, i) for i in range(1, 301)]
    for first, last in ((0, 200), (100, 300), (50, 250)):
        ingest_file(sqlite_store, write_log(tmp_path / "window.swf", lines[first:last]), source="site")
    assert read_jobs(sqlite_store)["job_id"].astype(int).sort_values().tolist() == list(range(1, 301))


def test_a_garbage_tenth_duplicates_and_disorder_cost_nothing_but_the_garbage(store: Any, tmp_path: Path) -> None:
    chance = random.Random(7)
    good = [swf_line(i, 10 * i) for i in range(1, 901)]
    garbage = [
        "",
        "hello",
        swf_line(1000)[:-9],
        "\x01\x02\x7f ü",
        swf_line(1001, field4="NaN"),
        swf_line(1002, field2="x"),
        "1 2 3",
        "1e999 " * 18,
    ]
    rubbish = [chance.choice(garbage[1:]) for _ in range(100)]
    lines = [*good, *rubbish, *chance.sample(good, 100)]
    chance.shuffle(lines)
    done = ingest_file(store, write_log(tmp_path / "site.swf", lines))
    assert sums(done) == (1100, 900, 0, 100, 100)
    jobs = read_jobs(store)
    assert jobs["submitted_at"].is_monotonic_increasing
    assert sorted(jobs["job_id"].astype(int)) == list(range(1, 901))
    rejects = read_rejects(store)
    numbers = {place + 3: line for place, line in enumerate(lines)}  # two header lines, and counting from 1
    assert rejects["line"].tolist() == [number for number, line in numbers.items() if line in rubbish]
    assert [numbers[line] for line in rejects["line"]] == rejects["raw"].tolist()
    assert rejects["reason"].str.len().gt(0).all()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"field4": -7}, "walltime is not between"),
        ({"field4": 10**18}, "walltime is not between"),
        ({"field7": 10**18}, "peak_memory is not between"),
        ({"field6": -5}, "cpu_time is not between"),
        ({"field2": 10**18}, "out of range"),
        ({"field2": 200 * 366 * 86400}, "submitted_at is in the future"),
        ({"field2": -60 * 366 * 86400}, "submitted_at is before 1980"),
    ],
)
def test_an_impossible_number_is_refused_with_its_line_and_the_rest_is_stored(
    sqlite_store: Any, tmp_path: Path, fields: dict[str, object], reason: str
) -> None:
    log = write_log(tmp_path / "site.swf", [swf_line(1), swf_line(2, **fields), swf_line(3)])
    assert sums(ingest_file(sqlite_store, log)) == (3, 2, 0, 0, 1)
    (reject,) = read_rejects(sqlite_store).to_dict("records")
    assert reject["line"] == 4
    assert reason in reject["reason"]
    assert read_jobs(sqlite_store)["job_id"].tolist() == ["1", "3"]


def test_mixed_time_zones_are_one_utc_in_the_store(sqlite_store: Any, tmp_path: Path) -> None:
    log = tmp_path / "zones.csv"
    log.write_text(
        "job_id,source,submitted_at,started_at,ended_at\n"
        "1,zones,2025-10-26T02:30:00+02:00,2025-10-26T02:30:00+01:00,2025-10-26T02:31:00+01:00\n"  # the hour that comes twice
        "2,zones,2025-10-26T00:45:00Z,2025-10-25T20:50:00-04:00,2025-10-26T01:00:00Z\n"
        "3,zones,2025-10-26T02:59:59+01:00,2025-10-26T02:00:00+02:00,2025-10-26T03:00:00+01:00\n"  # began an hour before it was submitted
    )
    assert sums(ingest_file(sqlite_store, log)) == (3, 2, 0, 0, 1)
    jobs = read_jobs(sqlite_store).set_index("job_id")
    assert (jobs["started_at"] - jobs["submitted_at"]).dt.total_seconds().to_dict() == {"1": 3600, "2": 300}
    assert jobs["walltime"].to_dict() == {"1": 60, "2": 600}
    assert read_rejects(sqlite_store)["line"].tolist() == [4]


def test_a_bad_file_is_reported_and_the_others_go_on(sqlite_store: Any, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    write_log(folder / "a.swf", [swf_line(1)])
    (folder / "b.swf").write_bytes(b"")
    (folder / "c.swf").write_bytes(random.Random(1).randbytes(5000))
    whole = gzip.compress((HEADER + "\n".join(swf_line(i, i) for i in range(1, 2000))).encode())
    (folder / "d.swf.gz").write_bytes(whole[: len(whole) // 2])
    (folder / ".hidden").write_text("x")
    results = ingest_files(sqlite_store, [folder, tmp_path / "absent.swf", write_log(tmp_path / "e.swf", [swf_line(1)])])
    assert [result.file.name for result in results] == ["a.swf", "b.swf", "c.swf", "d.swf.gz", "absent.swf", "e.swf"]
    assert [result.error is None for result in results] == [True, False, False, True, False, True]
    assert all(result.file.name in str(result.error) for result in results if result.error)
    assert results[3].rejected == 1  # where the stream broke off
    assert count_jobs(sqlite_store)["source"].tolist() == ["a", "d", "e"]


def test_a_file_that_cannot_be_read_raises_one_sentence(sqlite_store: Any, tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"absent\.swf"):
        ingest_file(sqlite_store, tmp_path / "absent.swf")
    with pytest.raises(ReadError, match="no format nonsense"):
        ingest_file(sqlite_store, write_log(tmp_path / "a.swf", [swf_line(1)]), format="nonsense")


def test_progress_tells_what_is_stored_by_then(sqlite_store: Any, tmp_path: Path) -> None:
    log = write_csv(generate(60_000, seed=3).jobs, tmp_path / "log.csv")
    told: list[tuple[int, int]] = []
    ingest_file(sqlite_store, log, progress=lambda done: told.append((done.added, len(read_jobs(sqlite_store, columns=["job_id"])))))
    assert len(told) > 1
    assert all(said == stored for said, stored in told)


def test_a_generated_csv_comes_back_from_the_store_as_it_was(store: Any, tmp_path: Path) -> None:
    jobs = generate(500, seed=5).jobs
    ingest_file(store, write_csv(jobs, tmp_path / "log.csv"))
    expected = jobs.sort_values(["submitted_at", "source", "job_id"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(read_jobs(store), expected)


CHILD = """
import sys
from pathlib import Path
import jobs.readers.contract as contract
from jobs.ingest import ingest_file
from jobs.readers import ReadOptions
from jobs.store import open_store
import jobs.ingest
jobs.ingest.ReadOptions = lambda **options: ReadOptions(batch_rows=500, **options)
ingest_file(open_store(sys.argv[1]), Path(sys.argv[2]), progress=lambda done: print(done.added, done.rejected, flush=True))
"""


def start_ingest(url: str, log: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen([sys.executable, "-c", CHILD, url, str(log)], stdout=subprocess.PIPE, text=True, env=environment)


def kill_after(child: subprocess.Popen[str], batches: int, delay: float) -> tuple[int, int]:
    """Kill -9 a child that ingests, ``delay`` s after it acknowledged ``batches``; what it acknowledged: (added, rejected)."""
    assert child.stdout is not None
    said = [line for _, line in zip(range(batches), child.stdout, strict=False)]
    time.sleep(delay)
    os.kill(child.pid, signal.SIGKILL)
    said += child.stdout.readlines()
    child.stdout.close()
    child.wait()
    whole = [line for line in said if line.endswith("\n")]
    added, rejected = whole[-1].split() if whole else (0, 0)
    return int(added), int(rejected)


def test_killed_at_any_point_every_acknowledged_row_is_there_once_and_a_rerun_completes(store_url: str, tmp_path: Path) -> None:
    chance = random.Random(11)
    lines = [swf_line(i, i) if i % 50 else f"rubbish {i}" for i in range(1, 6001)]
    log = write_log(tmp_path / "site.swf", lines)
    # A batch is 500 lines of the file, the header's two among them: its jobs and its rejects are stored both, or neither.
    rubbish = [line.startswith("rubbish") for line in lines]
    whole_batches = [(end - sum(rubbish[:end]), sum(rubbish[:end])) for end in (0, *range(498, 6000, 500), 6000)]
    engine = open_store(store_url)
    points = [(batches, chance.uniform(0, 0.08)) for batches in (0, 1, 2, 4, 7)]
    for batches, delay in points:
        added, rejected = kill_after(start_ingest(store_url, log), batches, delay)
        ids, refused = read_jobs(engine, columns=["job_id"])["job_id"], read_rejects(engine)["line"]
        assert ids.is_unique
        assert (len(ids), len(refused)) in whole_batches
        assert (len(ids), len(refused)) >= (added, rejected)
    final = ingest_file(engine, log)
    assert final.read == 6000
    jobs, rejects = read_jobs(engine), read_rejects(engine)
    engine.dispose()
    calm_url = f"sqlite:///{tmp_path / 'calm.db'}"
    calm = open_store(calm_url)
    ingest_file(calm, log)
    pd.testing.assert_frame_equal(jobs, read_jobs(calm))
    pd.testing.assert_frame_equal(rejects.drop(columns="seen_at"), read_rejects(calm).drop(columns="seen_at"))
    calm.dispose()


def test_sqlite_killed_in_the_middle_of_a_transaction_forgets_it_whole(sqlite_url: str, tmp_path: Path) -> None:
    """The child kills itself from SQLite's own progress callback, after a growing number of its virtual machine's steps."""
    log = write_log(tmp_path / "site.swf", [swf_line(i, i) for i in range(1, 2001)])
    child = """
import os, signal, sys
from pathlib import Path
from sqlalchemy import event
from jobs.ingest import ingest_file
from jobs.store import open_store
engine = open_store(sys.argv[1])
engine.dispose()
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
event.listen(engine, "connect", lambda connection, record: connection.set_progress_handler(die, int(sys.argv[3])))
ingest_file(engine, Path(sys.argv[2]))
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    stored = []
    for steps in (100, 1_000, 10_000, 50_000, 10_000_000):
        run = subprocess.run([sys.executable, "-c", child, sqlite_url, str(log), str(steps)], env=environment, timeout=120, check=False)
        engine = open_store(sqlite_url)
        stored.append((run.returncode, len(read_jobs(engine))))
        engine.dispose()
    assert stored == [(-9, 0)] * 4 + [(0, 2000)]


DISK_FULL = """
import resource, sys
from infra.errors import GridcastError
from jobs.ingest import ingest_file
from jobs.store import open_store
engine = open_store(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
try:
    ingest_file(engine, sys.argv[2])
except GridcastError as error:
    sys.exit(str(error))
"""


def test_a_full_disk_stops_ingest_with_one_sentence_and_it_resumes_when_there_is_space(sqlite_url: str, tmp_path: Path) -> None:
    log = write_swf(generate(20_000, seed=2).jobs, tmp_path / "log.swf")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run(
        [sys.executable, "-c", DISK_FULL, sqlite_url, str(log)], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "cannot be written" in run.stderr
    assert len(run.stderr.splitlines()) == 1
    engine = open_store(sqlite_url)
    assert read_jobs(engine).empty
    assert ingest_file(engine, log).added == 20_000
    engine.dispose()


def test_a_lost_store_stops_all_files(sqlite_url: str, tmp_path: Path) -> None:
    engine = open_store(sqlite_url)
    engine.dispose()
    Path(sqlite_url.removeprefix("sqlite:///")).write_bytes(b"not a database any more" * 1000)
    with pytest.raises(StoreError, match=r"not a database|malformed"):
        ingest_files(engine, [write_log(tmp_path / "a.swf", [swf_line(1)])])
    engine.dispose()


def test_a_real_grid_log_is_stored_whole_and_twice_is_once(traces: Path, sqlite_store: Any) -> None:
    log = traces / "KTH-SP2-1996.swf.gz"
    assert sums(ingest_file(sqlite_store, log)) == (28_481, 28_481, 0, 0, 0)
    assert sums(ingest_file(sqlite_store, log)) == (28_481, 0, 0, 28_481, 0)
    jobs = read_jobs(sqlite_store)
    assert len(jobs) == 28_481
    assert jobs["walltime"].sum() == pytest.approx(252_600_000, rel=0.05)
