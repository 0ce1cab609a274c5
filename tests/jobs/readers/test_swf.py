"""The Standard Workload Format, by numbers worked out by hand."""

import pandas as pd
import pytest

from jobs.readers import swf

HEADER = """; Version: 2.2
; Computer: Linux cluster
; Installation: Somewhere
;              in the hills
; Information: http://example.org/
; UnixStartTime: 1000000000
; TimeZone: 3600 # deprecated
; MaxNodes: 70  (dual)
; MaxProcs: 140
; Queues: these are classes
; Queue:  1  long queue
; Queue: 2 short
;   Partition:   3   ce01.example.org
;
"""


def test_every_field_of_a_row_in_its_unit(read_text):
    # 4 processors ran 100 s each after 50 s in the queue; 90 s CPU and 2000 kB a processor; 8 asked for with 3000 kB each.
    outcome = read_text(
        HEADER + "17 10 50 100 4 90 2000 8 3600 3000 1 11 12 13 2 3 -1 -1\n", name="site.swf"
    )
    assert outcome.row("17") == {
        "job_id": "17",
        "source": "site",
        "user": "11",
        "group": "12",
        "program": "13",
        "queue": "short",
        "site": "ce01.example.org",
        "requested_walltime": 3600.0,
        "requested_cores": 8.0,
        "requested_memory": 8 * 3000 * 1024.0,
        "submitted_at": pd.Timestamp("2001-09-09 01:46:50", tz="UTC"),
        "started_at": pd.Timestamp("2001-09-09 01:47:40", tz="UTC"),
        "ended_at": pd.Timestamp("2001-09-09 01:49:20", tz="UTC"),
        "status": "completed",
        "cores": 4.0,
        "walltime": 100.0,
        "cpu_time": 360.0,
        "peak_memory": 4 * 2000 * 1024.0,
    }
    assert outcome.lines == [15]


def test_minus_one_is_missing_everywhere(read_text):
    outcome = read_text(HEADER + "1 10" + " -1" * 16 + "\n", name="x.swf")
    assert outcome.row("1") == {
        "job_id": "1",
        "source": "x",
        "submitted_at": pd.Timestamp("2001-09-09 01:46:50", tz="UTC"),
    }


def test_an_unknown_wait_leaves_the_start_open_and_ends_at_submission_plus_run(read_text):
    row = read_text(HEADER + "1 0 -1 60 1 -1 -1 -1 -1 -1 -1 1 1 -1 -1 1 -1 -1\n").row("1")
    assert "started_at" not in row
    assert row["ended_at"] == pd.Timestamp("2001-09-09 01:47:40", tz="UTC")
    assert row["requested_cores"] == 1.0
    assert row["site"] == "1"


def test_a_job_cancelled_in_the_queue_never_started(read_text):
    row = read_text(HEADER + "1 0 500 -1 0 -1 -1 1 -1 -1 5 1 1 -1 2 2 -1 -1\n").row("1")
    assert row["status"] == "cancelled"
    assert row["ended_at"] == pd.Timestamp("2001-09-09 01:55:00", tz="UTC")
    assert not {"started_at", "walltime", "cores"} & set(row)


@pytest.mark.parametrize(
    ("status", "run", "request_", "expected"),
    [
        (0, 50, 100, "failed"),
        (1, 50, 100, "completed"),
        (5, 50, 100, "cancelled"),
        (0, 100, 100, "timeout"),
        (0, 99, 100, "timeout"),
        (0, 98, 100, "failed"),
        (5, 130, 100, "timeout"),
        (1, 130, 100, "completed"),
        (-1, 130, 100, "timeout"),
        (0, 130, -1, "failed"),
        (9, 50, 100, "unknown"),
    ],
)
def test_a_job_that_did_not_complete_and_reached_its_request_is_a_timeout(
    read_text, status, run, request_, expected
):
    row = read_text(HEADER + f"1 0 0 {run} 1 -1 -1 1 {request_} -1 {status} 1 1 1 1 1 -1 -1\n").row(
        "1"
    )
    assert row["status"] == expected


def test_partial_executions_are_skipped_where_the_summary_row_precedes_them(read_text):
    rows = [
        "5 0 10 300 1 -1 -1 1 -1 -1 1",
        "5 0 10 100 1 -1 -1 1 -1 -1 2",
        "5 -1 20 200 1 -1 -1 1 -1 -1 3",
        "6 9 1 7 1 -1 -1 1 -1 -1 4",
    ]
    for batch_rows in (1, 2, 100):
        outcome = read_text(
            "".join(f"{row} 1 1 1 1 1 -1 -1\n" for row in rows), batch_rows=batch_rows
        )
        assert outcome.jobs["job_id"].tolist() == ["5", "6"]
        assert outcome.jobs["walltime"].tolist() == [300.0, 7.0]
        assert outcome.jobs["status"].tolist() == ["completed", "failed"]
        assert outcome.notes["partial execution of a job skipped: its summary row is read"] == 2


def test_without_a_header_times_count_from_2000_and_a_note_says_so(read_text):
    outcome = read_text("  1\t10  5\t60 2 -1 -1 2 -1 -1 1 1 1 1 1 1 -1 -1  \n")
    assert outcome.row("1")["submitted_at"] == pd.Timestamp("2000-01-01 00:00:10", tz="UTC")
    assert outcome.row("1")["queue"] == "1"
    assert outcome.notes == {"no UnixStartTime in the header: times counted from 2000-01-01 UTC": 1}


def test_times_that_are_dates_already_are_taken_as_they_are(read_text):
    assert (
        read_text("1 1000000000 5 60 2 -1 -1 2 -1 -1 1 1 1 1 1 1 -1 -1\n")
        .row("1")["submitted_at"]
        .year
        == 2001
    )


def test_the_header_is_given_to_whoever_replays_the_log(tmp_path):
    path = tmp_path / "a.swf"
    path.write_text(HEADER + "1 10 5 60 2 -1 -1 2 -1 -1 1 1 1 1 1 1 -1 -1\n; MaxProcs: 9\n")
    header = swf.read_header(path)
    assert (header.computer, header.unix_start, header.max_procs, header.max_nodes) == (
        "Linux cluster",
        1e9,
        140,
        70,
    )
    assert header.installation == "Somewhere\nin the hills"
    assert header.queues == {1: "long queue", 2: "short"}
    assert header.partitions == {3: "ce01.example.org"}
    assert header.raw["Information"] == "http://example.org/"
    assert header.raw["TimeZone"] == "3600 # deprecated"


def test_a_header_alone_is_no_error_and_no_job(read_text):
    outcome = read_text(HEADER)
    assert len(outcome.jobs) == 0
    assert outcome.rejects == []


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("1 10 5 60 2", "the line has 5 fields, not 18"),
        ("1 10 5 60 2 -1 -1 2 -1 -1 1 1 1 1 1 1 -1 -1 -1", "the line has 19 fields, not 18"),
        ("1 10 5 abc 2 -1 -1 2 -1 -1 1 1 1 1 1 1 -1 -1", "field 4 (run time) is not a number: abc"),
        ("1 10 5 NaN 2 -1 -1 2 -1 -1 1 1 1 1 1 1 -1 -1", "field 4 (run time) is not a number: NaN"),
        ("1 10 5 inf 2 -1 -1 2 -1 -1 1 1 1 1 1 1 -1 -1", "field 4 (run time) is not a number: inf"),
        (
            "1.5 10 5 60 2 -1 -1 2 -1 -1 1 1 1 1 1 1 -1 -1",
            "field 1 (job number) is not a whole number: 1.5",
        ),
        (
            "1 1000000000000000000 5 6 2 -1 -1 2 -1 -1 1 1 1 1 1 1 -1 -1",
            "submit time is out of range: 1e+18 s",
        ),
    ],
)
def test_a_bad_row_is_rejected_by_the_name_of_its_field(read_text, row, reason):
    good = "{} 10 5 60 2 -1 -1 2 -1 -1 1 1 1 1 1 1 -1 -1\n"
    outcome = read_text(HEADER + good.format(1) + row + "\n" + good.format(2))
    assert [(reject.line, reject.reason, reject.raw) for reject in outcome.rejects] == [
        (16, reason, row)
    ]
    assert outcome.jobs["job_id"].tolist() == ["1", "2"]
    assert outcome.lines == [15, 17]


def test_absurd_values_are_left_to_the_schema(read_text):
    row = read_text(
        HEADER + "1 10 5 -500 2 -1 1000000000000000000 2 -1 -1 1 1 1 1 1 1 -1 -1\n"
    ).row("1")
    assert row["walltime"] == -500.0
    assert row["peak_memory"] == 2e18 * 1024


def test_one_garbage_line_in_ten_gives_every_other_row_exactly(read_text):
    rows = [f"{n} {n} 5 {n % 97} 1 -1 -1 1 -1 -1 1 1 1 1 1 1 -1 -1" for n in range(1, 5001)]
    spoiled = [row if n % 10 else "rubbish " + row[:9] for n, row in enumerate(rows)]
    clean, outcome = read_text("\n".join(rows)), read_text("\n".join(spoiled), batch_rows=700)
    assert len(outcome.rejects) == 500
    expected = clean.jobs[clean.jobs.index % 10 != 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(outcome.jobs, expected)
