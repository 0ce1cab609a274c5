"""From log files to the store: bad lines, repeats, overlaps, kills."""

from __future__ import annotations

import gzip
import os
import random
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from jobs import ingest
from jobs.ingest import IngestResult, ingest_file, ingest_files, read_arguments, read_log
from jobs.readers import ReadError, ReadOptions
from jobs.store import StoreError, count_jobs, open_store, read_jobs, read_rejects
from jobs.workload import generate
from jobs.writers import write_csv, write_swf

HEADER = "; Version: 2.2\n; UnixStartTime: 1767225600\n"  # 2026-01-01 UTC


def swf_line(number: int, submit: float = 0, run: float = 60, **fields: object) -> str:
    """One SWF line: a job that waited 10 s and ran ``run`` s; other fields by their position (1 to 18)."""
    values: list[object] = [
        number,
        submit,
        10,
        run,
        1,
        50,
        1024,
        1,
        600,
        2048,
        1,
        3,
        4,
        5,
        6,
        7,
        -1,
        -1,
    ]
    for position, value in fields.items():
        values[int(position.removeprefix("field")) - 1] = value
    return " ".join(map(str, values))


def write_log(path: Path, lines: list[str]) -> Path:
    text = HEADER + "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def sums(done: IngestResult) -> tuple[int, int, int, int, int]:
    assert done.read == done.added + done.updated + done.unchanged + done.rejected
    return done.read, done.added, done.updated, done.unchanged, done.rejected


def test_a_log_is_stored_and_ingesting_it_again_changes_nothing(store: Any, tmp_path: Path) -> None:
    log = write_log(tmp_path / "site.swf.gz", [swf_line(i, i) for i in range(1, 101)])
    assert sums(ingest_file(store, log)) == (100, 100, 0, 0, 0)
    before = read_jobs(store)
    assert before["source"].unique().tolist() == ["site"]
    assert (before["ended_at"] - before["submitted_at"]).dt.total_seconds().unique().tolist() == [
        70.0
    ]
    assert sums(ingest_file(store, log)) == (100, 0, 0, 100, 0)
    pd.testing.assert_frame_equal(read_jobs(store), before)


def test_a_log_is_read_alike_with_a_store_and_without(sqlite_store: Any, tmp_path: Path) -> None:
    log, columns = tmp_path / "times.csv", tmp_path / "columns.toml"
    log.write_text("id,queued,run\na,2026-07-01 12:00,1.5\nb,2026-07-01 13:00,2\n")
    columns.write_text('[columns]\nid = "job_id"\nqueued = "submitted_at"\nrun = "walltime:min"\n')
    ways = [
        read_arguments(timezone="Europe/Paris", map_file=columns),
        read_arguments(
            "table",
            ["id=job_id", "queued=submitted_at", "run=walltime:min"],
            timezone="Europe/Paris",
        ),
    ]
    for how in ways:
        ingest_file(sqlite_store, log, **how)
        jobs, _ = read_log(log, **how)
        assert jobs["submitted_at"].dt.hour.tolist() == [10, 11]
        assert jobs["walltime"].tolist() == [90, 120]
        pd.testing.assert_frame_equal(jobs, read_jobs(sqlite_store))


def test_how_a_log_is_to_be_read_is_checked_before_it_is_opened(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="given twice"):
        read_arguments(mapping=["id=job_id"], map_file=tmp_path / "columns.toml")
    with pytest.raises(ReadError, match="no time zone Nowhere/Land"):
        read_arguments(timezone="Nowhere/Land")


def test_overlapping_windows_of_a_log_give_each_job_once(sqlite_store: Any, tmp_path: Path) -> None:
    lines = [swf_line(i, i) for i in range(1, 301)]
    for first, last in ((0, 200), (100, 300), (50, 250)):
        ingest_file(
            sqlite_store, write_log(tmp_path / "window.swf", lines[first:last]), source="site"
        )
    assert read_jobs(sqlite_store)["job_id"].astype(int).sort_values().tolist() == list(
        range(1, 301)
    )


def test_a_garbage_tenth_duplicates_and_disorder_cost_nothing_but_the_garbage(
    store: Any, tmp_path: Path
) -> None:
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
    numbers = {
        index + 3: line for index, line in enumerate(lines)
    }  # two header lines, and counting from 1
    assert rejects["line"].tolist() == [
        number for number, line in numbers.items() if line in rubbish
    ]
    assert [numbers[line] for line in rejects["line"]] == rejects["raw"].tolist()
    assert rejects["reason"].str.len().gt(0).all()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"field4": -7}, "walltime is not between"),
        ({"field4": 10**18}, "walltime is not between"),
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


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"field7": 10**18}, "peak_memory"),
        ({"field6": -5}, "cpu_time"),
        ({"field9": 2**31 - 9}, "requested_walltime"),
        ({"field9": 738_738_720}, "requested_walltime"),
    ],
)
def test_an_impossible_optional_number_is_left_out_and_its_job_kept(
    sqlite_store: Any, tmp_path: Path, fields: dict[str, object], name: str
) -> None:
    log = write_log(tmp_path / "site.swf", [swf_line(1), swf_line(2, **fields), swf_line(3)])
    done = ingest_file(sqlite_store, log)
    assert sums(done) == (3, 3, 0, 0, 0)
    assert [note for note in done.notes if note.startswith(f"{name} is not between")]
    jobs = read_jobs(sqlite_store).set_index("job_id")
    assert jobs[name].isna()["2"]
    assert jobs["walltime"].notna().all()


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
    assert (jobs["started_at"] - jobs["submitted_at"]).dt.total_seconds().to_dict() == {
        "1": 3600,
        "2": 300,
    }
    assert jobs["walltime"].to_dict() == {"1": 60, "2": 600}
    assert read_rejects(sqlite_store)["line"].tolist() == [4]


def test_a_bad_file_is_reported_and_the_others_go_on(sqlite_store: Any, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    write_log(folder / "a.swf", [swf_line(1)])
    (folder / "b.swf").write_bytes(b"")
    (folder / "c.swf").write_bytes(random.Random(1).randbytes(5000))
    compressed = gzip.compress(
        (HEADER + "\n".join(swf_line(i, i) for i in range(1, 2000))).encode()
    )
    (folder / "d.swf.gz").write_bytes(compressed[: len(compressed) // 2])
    (folder / ".hidden").write_text("x")
    results = ingest_files(
        sqlite_store,
        [folder, tmp_path / "absent.swf", write_log(tmp_path / "e.swf", [swf_line(1)])],
    )
    assert [result.file.name for result in results] == [
        "a.swf",
        "b.swf",
        "c.swf",
        "d.swf.gz",
        "absent.swf",
        "e.swf",
    ]
    assert [result.error is None for result in results] == [True, False, False, True, False, True]
    assert all(result.file.name in str(result.error) for result in results if result.error)
    assert results[3].rejected == 1  # where the stream broke off
    assert count_jobs(sqlite_store)["source"].tolist() == ["a", "d", "e"]


def test_a_file_that_cannot_be_read_raises_one_sentence(sqlite_store: Any, tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"absent\.swf"):
        ingest_file(sqlite_store, tmp_path / "absent.swf")
    with pytest.raises(ReadError, match="no format nonsense"):
        ingest_file(sqlite_store, write_log(tmp_path / "a.swf", [swf_line(1)]), format="nonsense")


def test_progress_tells_what_is_stored_by_then(
    sqlite_store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = write_log(tmp_path / "site.swf", [swf_line(i, i) for i in range(1, 2001)])
    monkeypatch.setattr("jobs.ingest.ReadOptions", partial(ReadOptions, batch_rows=500))
    progress: list[tuple[int, int]] = []
    ingest_file(
        sqlite_store,
        log,
        progress=lambda done: progress.append(
            (done.added, len(read_jobs(sqlite_store, columns=["job_id"])))
        ),
    )
    assert len(progress) == 5  # 2,002 lines
    assert all(reported == stored for reported, stored in progress)


def test_a_generated_csv_comes_back_from_the_store_as_it_was(store: Any, tmp_path: Path) -> None:
    jobs = generate(500, seed=5).jobs
    ingest_file(store, write_csv(jobs, tmp_path / "log.csv"))
    expected = jobs.sort_values(["submitted_at", "source", "job_id"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(read_jobs(store), expected)


# Reads points from standard input. For each it forks a process that ingests in batches of 500 lines, kills it -9 so many
# seconds after so many acknowledged batches, and tells what had been acknowledged. One import serves all the forks.
KILLER = """
import os, signal, sys, time
from pathlib import Path
import jobs.ingest
from jobs.readers import ReadOptions
from jobs.store import open_store
jobs.ingest.ReadOptions = lambda **options: ReadOptions(batch_rows=500, **options)
for line in sys.stdin:
    batches, delay = line.split()
    theirs, ours = os.pipe()
    child = os.fork()
    if child == 0:
        say = lambda done: os.write(ours, f"{done.added} {done.rejected}\\n".encode())
        jobs.ingest.ingest_file(open_store(sys.argv[1]), Path(sys.argv[2]), progress=say)
        os._exit(0)
    os.close(ours)
    with os.fdopen(theirs) as pipe:
        said = ["0 0", *(pipe.readline() for _ in range(int(batches)))]
        time.sleep(float(delay))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        said += pipe.readlines()
    print([words for words in said if words][-1].strip(), flush=True)
"""


def child_environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


def test_killed_at_any_point_every_acknowledged_row_is_there_once_and_a_rerun_completes(
    store_url: str, tmp_path: Path
) -> None:
    chance = random.Random(11)
    lines = [swf_line(i, i) if i % 50 else f"rubbish {i}" for i in range(1, 6001)]
    log = write_log(tmp_path / "site.swf", lines)
    # A batch is 500 lines of the file, the header's two among them: its jobs and its rejects are stored both, or neither.
    rubbish = [line.startswith("rubbish") for line in lines]
    whole_batches = [
        (end - sum(rubbish[:end]), sum(rubbish[:end])) for end in (0, *range(498, 6000, 500), 6000)
    ]
    engine = open_store(store_url)
    command = [sys.executable, "-c", KILLER, store_url, str(log)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=child_environment()
    ) as killer:
        assert killer.stdin is not None
        assert killer.stdout is not None
        for batches in (0, 0, 0, 1, 2, 3, 5, 7, 9, 11):
            killer.stdin.write(f"{batches} {chance.uniform(0, 0.1)}\n")
            killer.stdin.flush()
            added, rejected = map(int, killer.stdout.readline().split())
            ids, refused = (
                read_jobs(engine, columns=["job_id"])["job_id"],
                read_rejects(engine)["line"],
            )
            assert ids.is_unique
            assert (len(ids), len(refused)) in whole_batches
            assert (len(ids), len(refused)) >= (added, rejected)
        killer.stdin.close()
    assert ingest_file(engine, log).read == 6000
    jobs, rejects = read_jobs(engine), read_rejects(engine)
    engine.dispose()
    calm = open_store(f"sqlite:///{tmp_path / 'calm.db'}")
    ingest_file(calm, log)
    pd.testing.assert_frame_equal(jobs, read_jobs(calm))
    pd.testing.assert_frame_equal(
        rejects.drop(columns="seen_at"), read_rejects(calm).drop(columns="seen_at")
    )
    calm.dispose()


# For N = 1, 2, 3 … a fork ingests into a fresh store and kills itself -9 at SQLite's Nth statement: a begin, one row's insert, a commit.
SUICIDE = """
import itertools, os, shutil, signal, sys
from pathlib import Path
from sqlalchemy import event
import jobs.ingest
from jobs.readers import ReadOptions
from jobs.store import open_store
jobs.ingest.ReadOptions = lambda **options: ReadOptions(batch_rows=8, **options)
folder = Path(sys.argv[1])
for fatal in itertools.count(1):
    store = folder / f"{fatal}.db"
    shutil.copy(folder / "empty.db", store)
    child = os.fork()
    if child == 0:
        engine, statements = open_store(f"sqlite:///{store}"), itertools.count(1)
        engine.dispose()
        trace = lambda statement: os.kill(os.getpid(), signal.SIGKILL) if next(statements) == fatal else None
        event.listen(engine, "connect", lambda connection, record: connection.set_trace_callback(trace))
        jobs.ingest.ingest_file(engine, Path(sys.argv[2]))
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
"""


def test_killed_at_every_statement_a_batch_is_stored_whole_or_not_at_all_and_a_rerun_completes_it(
    tmp_path: Path,
) -> None:
    lines = [swf_line(i, i) if i % 5 else f"rubbish {i}" for i in range(1, 15)]
    log = write_log(tmp_path / "site.swf", lines)
    whole_batches = [
        (end - end // 5, end // 5) for end in (0, 6, 14)
    ]  # eight lines each, the header's two among them
    empty = open_store(f"sqlite:///{tmp_path / 'empty.db'}")
    empty.dispose()
    subprocess.run(
        [sys.executable, "-c", SUICIDE, str(tmp_path), str(log)],
        env=child_environment(),
        timeout=300,
        check=True,
    )
    states = []
    for fatal in range(1, 1 + len(list(tmp_path.glob("[0-9]*.db")))):
        engine = open_store(f"sqlite:///{tmp_path / f'{fatal}.db'}")
        states.append((len(read_jobs(engine)), len(read_rejects(engine))))
        ingest_file(engine, log)
        assert (
            read_jobs(engine)["job_id"].is_unique,
            len(read_jobs(engine)),
            len(read_rejects(engine)),
        ) == (True, 12, 2)
        engine.dispose()
    assert len(states) > 20  # a begin, a look, inserts and a commit for each batch
    assert states == sorted(states)
    assert set(states) == set(whole_batches)


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


def test_a_full_disk_stops_ingest_with_one_sentence_and_it_resumes_when_there_is_space(
    sqlite_url: str, tmp_path: Path
) -> None:
    log = write_swf(generate(4_000, seed=2).jobs, tmp_path / "log.swf")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run(
        [sys.executable, "-c", DISK_FULL, sqlite_url, str(log)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "cannot be written" in run.stderr
    assert len(run.stderr.splitlines()) == 1
    engine = open_store(sqlite_url)
    assert read_jobs(engine).empty
    assert ingest_file(engine, log).added == 4_000
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


def test_rejects_of_a_file_are_bounded_and_all_counted(
    sqlite_store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "MAX_REJECTS", 10)
    log = write_log(tmp_path / "site.swf", [swf_line(1), *["rubbish"] * 25, swf_line(2)])
    done = ingest_file(sqlite_store, log)
    assert sums(done) == (27, 2, 0, 0, 25)
    assert done.notes["only 10 rejects of a file are kept"] == 15
    assert len(read_rejects(sqlite_store)) == 10


def test_rejects_of_a_file_are_bounded_in_bytes(
    sqlite_store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "MAX_REJECT_BYTES", 10_000)
    log = write_log(tmp_path / "site.swf", [swf_line(1), *["é" * 1500] * 25, swf_line(2)])
    done = ingest_file(sqlite_store, log)
    assert sums(done) == (27, 2, 0, 0, 25)
    kept = read_rejects(sqlite_store)
    assert done.notes["only 10,000 bytes of a file's rejects are kept"] == 25 - len(kept)
    sizes = kept["raw"].str.encode("utf-8").str.len()
    assert 0 < sizes.sum() <= 10_000 < sizes.sum() + sizes.iloc[0]
