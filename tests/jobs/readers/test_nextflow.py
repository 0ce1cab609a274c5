"""Nextflow traces, by numbers worked out by hand."""

import pandas as pd
import pytest

MIB, GIB = 1024.0**2, 1024.0**3
RAW = {
    "task_id": "24",
    "hash": "a6/9b83dd",
    "native_id": "nf-a69b83dddf716c8a276cb75c42f16ba8",
    "process": "MAG:FASTQC_RAW",
    "tag": "ERR260271",
    "name": "MAG:FASTQC_RAW (ERR260271)",
    "status": "COMPLETED",
    "exit": "0",
    "cpus": "6",
    "time": "28800000",
    "memory": "38654705664",
    "attempt": "1",
    "submit": "1678701066274",
    "start": "1678701070000",
    "complete": "1678701098000",
    "realtime": "25000",
    "queue": "-",
    "hostname": "cpu06",
    "%cpu": "202.8",
    "peak_rss": "1076924416",
    "rchar": "702253069",
    "wchar": "3849411",
    "read_bytes": "0",
    "write_bytes": "4268032",
    "workdir": "/work/a6/9b83dddf716c8a276cb75c42f16ba8",
}
HUMAN = {
    **RAW,
    "time": "8h",
    "memory": "36 GB",
    "submit": "2023-03-13 09:51:06.274",
    "start": "2023-03-13 09:51:10.000",
    "complete": "2023-03-13 09:51:38.000",
    "realtime": "25s",
    "%cpu": "202.8%",
    "peak_rss": "1 GB",
    "rchar": "669.7 MB",
    "wchar": "3.7 MB",
}

COLUMNS = list(RAW)


def trace(*tasks: dict[str, str], delimiter: str = "\t") -> str:
    return "\n".join(
        [
            delimiter.join(COLUMNS),
            *(delimiter.join(task[name] for name in COLUMNS) for task in tasks),
            "",
        ]
    )


@pytest.mark.parametrize("delimiter", ["\t", ","])
def test_raw_numbers_are_milliseconds_and_bytes(read_text, delimiter):
    outcome = read_text(trace(RAW, delimiter=delimiter), name="mag.csv")
    assert outcome.row("a6/9b83dddf716c8a276cb75c42f16ba8") == {
        "job_id": "a6/9b83dddf716c8a276cb75c42f16ba8",
        "task_id": "mag",
        "source": "nextflow",
        "project": "mag",
        "program": "MAG:FASTQC_RAW",
        "job_name": "ERR260271",
        "host": "cpu06",
        "requested_walltime": 28800.0,
        "requested_cores": 6.0,
        "requested_memory": 36 * GIB,
        "submitted_at": pd.Timestamp("2023-03-13 09:51:06.274", tz="UTC"),
        "started_at": pd.Timestamp("2023-03-13 09:51:10", tz="UTC"),
        "ended_at": pd.Timestamp("2023-03-13 09:51:38", tz="UTC"),
        "status": "completed",
        "cores": 6.0,
        "walltime": 25.0,
        "cpu_time": pytest.approx(50.7),
        "peak_memory": 1076924416.0,
        "read_bytes": 702253069.0,
        "written_bytes": 3849411.0,
    }
    assert outcome.notes == {}


def test_human_forms_mean_the_same(read_text):
    raw, human = (
        read_text(trace(RAW)).row("a6/9b83dddf716c8a276cb75c42f16ba8"),
        read_text(trace(HUMAN)).row("a6/9b83dddf716c8a276cb75c42f16ba8"),
    )
    rounded = {"peak_memory": GIB, "read_bytes": 669.7 * MIB, "written_bytes": 3.7 * MIB}
    assert human == {**raw, **{name: pytest.approx(value) for name, value in rounded.items()}}


def test_local_times_are_read_in_the_zone_given(read_text):
    row = read_text(trace(HUMAN), timezone="Europe/Berlin").row("a6/9b83dddf716c8a276cb75c42f16ba8")
    assert row["submitted_at"] == pd.Timestamp("2023-03-13 08:51:06.274", tz="UTC")


def test_without_realtime_the_walltime_is_from_start_to_complete(read_text):
    assert (
        read_text(trace({**RAW, "realtime": "-"})).row("a6/9b83dddf716c8a276cb75c42f16ba8")[
            "walltime"
        ]
        == 28.0
    )


def test_bytes_at_the_disk_stand_in_where_the_others_are_not_known(read_text):
    row = read_text(trace({**RAW, "rchar": "-", "wchar": "-"})).row(
        "a6/9b83dddf716c8a276cb75c42f16ba8"
    )
    assert (row["read_bytes"], row["written_bytes"]) == (0.0, 4268032.0)


@pytest.mark.parametrize(
    ("without", "job"),
    [
        ("workdir", "a6/9b83dd"),
        ("hash", "nf-a69b83dddf716c8a276cb75c42f16ba8"),
        ("native_id", "24"),
    ],
)
def test_the_job_id_is_the_best_name_the_trace_has(read_text, without, job):
    hidden = dict.fromkeys(
        ("workdir", "hash", "native_id")[: ("workdir", "hash", "native_id").index(without) + 1], "-"
    )
    assert read_text(trace({**RAW, **hidden})).jobs["job_id"].tolist() == [job]


def test_a_start_cut_to_the_second_is_not_before_the_submission(read_text):
    # Kubernetes reports whole seconds: submitted at .274, "started" at .000 of the same second.
    row = read_text(trace({**RAW, "start": "1678701066000"})).row(
        "a6/9b83dddf716c8a276cb75c42f16ba8"
    )
    assert row["started_at"] == row["submitted_at"]
    row = read_text(trace({**RAW, "start": "1678701065000"})).row(
        "a6/9b83dddf716c8a276cb75c42f16ba8"
    )
    assert (
        row["started_at"] < row["submitted_at"]
    )  # more than a second: a fault of the record, left to the schema


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"status": "FAILED"}, "failed"),
        ({"status": "FAILED", "time": "25000"}, "timeout"),
        ({"status": "ABORTED"}, "cancelled"),
        ({"status": "CACHED"}, "completed"),
        ({"status": "HOVERING"}, "unknown"),
    ],
)
def test_how_a_task_ended(read_text, changes, status):
    assert (
        read_text(trace({**RAW, **changes})).row("a6/9b83dddf716c8a276cb75c42f16ba8")["status"]
        == status
    )


def test_retries_cached_tasks_and_new_words_are_noted(read_text):
    tasks = ({**RAW, "attempt": "2"}, {**RAW, "status": "CACHED"}, {**RAW, "status": "HOVERING"})
    assert read_text(trace(*tasks)).notes == {
        "task retried: a later attempt is a job of its own": 1,
        "cached task: it ran in an earlier run": 1,
        "unknown status HOVERING": 1,
    }


def test_an_unreadable_cell_is_left_out_and_takes_no_outcome_with_it(read_text):
    outcome = read_text(
        trace(RAW, {**RAW, "peak_rss": "big"}, {**RAW, "%cpu": "lots"}, {**RAW, "submit": "soon"})
    )
    assert [(reject.line, reject.reason) for reject in outcome.rejects] == [
        (5, "submit is not a time: soon")
    ]
    assert outcome.notes == {
        "peak_rss cannot be read: left out": 1,
        "%cpu cannot be read: left out": 1,
    }
    assert outcome.jobs["walltime"].nunique() == 1
    assert outcome.jobs["walltime"].notna().sum() == 3
    assert outcome.jobs["peak_memory"].isna().tolist() == [False, True, False]
