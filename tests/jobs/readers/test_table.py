"""Any CSV or Parquet through a column map."""

import errno
import gzip
import io
import tracemalloc
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.ingest import read_log
from jobs.readers import ReadError, ReadOptions, detect
from jobs.readers import table as table_reader
from jobs.readers.columns import parse_column_map
from jobs.writers import write_jobs

MAP = parse_column_map(
    [
        "id=job_id",
        "when=submitted_at:epoch_ms",
        "run=walltime:min",
        "mem=peak_memory:mb",
        "who=user",
        "n=cores",
    ]
)
TEXT = (
    "id;when;run;mem;who;n;colour\n7;1678700000250;1.5;2;Ann;4;red\n8;1678700060000;;1e3;-;2;blue\n"
)


def test_columns_are_renamed_and_their_units_converted(read_text):
    outcome = read_text(TEXT, name="mine.csv", columns=MAP)
    assert outcome.row("7") == {
        "job_id": "7",
        "source": "mine",
        "user": "Ann",
        "submitted_at": pd.Timestamp("2023-03-13 09:33:20.250", tz="UTC"),
        "cores": 4.0,
        "walltime": 90.0,
        "peak_memory": 2e6,
    }
    assert set(outcome.row("8")) == {"job_id", "source", "submitted_at", "cores", "peak_memory"}
    assert outcome.notes == {"unknown column colour ignored": 1}


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_the_delimiter_is_found(read_text, delimiter):
    text = "job_id,submitted_at,walltime\na,2023-03-13 10:00:00,5\n".replace(",", delimiter)
    assert read_text(text).row("a")["walltime"] == 5.0


@pytest.mark.parametrize(
    ("unit", "cell", "field", "expected"),
    [
        ("s", "90", "walltime", 90.0),
        ("ms", "90", "walltime", 0.09),
        ("min", "90", "walltime", 5400.0),
        ("h", "1.5", "walltime", 5400.0),
        ("d", "2", "walltime", 172800.0),
        ("hms", "1-02:03:04", "walltime", 93784.0),
        ("", "01:30:00", "walltime", 5400.0),
        ("", "1h 30m", "walltime", 5400.0),
        ("", "90", "walltime", 90.0),
        ("kb", "2", "peak_memory", 2000.0),
        ("kib", "2", "peak_memory", 2048.0),
        ("mib", "2", "peak_memory", 2097152.0),
        ("gb", "2", "peak_memory", 2e9),
        ("gib", "2", "peak_memory", 2147483648.0),
        ("", "2G", "peak_memory", 2147483648.0),
        ("plain", "2", "peak_memory", 2.0),
        ("", "-5", "walltime", -5.0),
        ("", "1e18", "peak_memory", 1e18),
        ("", "inf", "events", float("inf")),
    ],
)
def test_every_unit(read_text, unit, cell, field, expected):
    columns = parse_column_map([f"x={field}:{unit}" if unit else f"x={field}"])
    row = read_text(f"job_id,submitted_at,x\na,2023-03-13,{cell}\n", columns=columns).row("a")
    assert row[field] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("unit", "cell", "timezone", "expected"),
    [
        ("iso", "2023-03-13T10:00:00Z", "UTC", "2023-03-13 10:00"),
        ("iso", "2023-03-13 10:00:00+02:00", "America/New_York", "2023-03-13 08:00"),
        ("iso", "2023-07-13 10:00:00", "Europe/Paris", "2023-07-13 08:00"),
        ("epoch", "1678700000", "Europe/Paris", "2023-03-13 09:33:20"),
        ("epoch_ms", "1678700000000", "Europe/Paris", "2023-03-13 09:33:20"),
        ("elapsed", "86461", "Europe/Paris", "2000-01-02 00:01:01"),
        ("", "1678700000", "UTC", "2023-03-13 09:33:20"),
        ("", "2023-03-13", "UTC", "2023-03-13 00:00"),
    ],
)
def test_times_of_every_kind(read_text, unit, cell, timezone, expected):
    columns = parse_column_map([f"t=submitted_at:{unit}" if unit else "t=submitted_at"])
    row = read_text(f"job_id,t\na,{cell}\n", name="t.csv", columns=columns, timezone=timezone).row(
        "a"
    )
    assert row["submitted_at"] == pd.Timestamp(expected, tz="UTC")


def test_bad_cells_are_left_out_or_reject_their_row_with_the_files_own_column(read_text):
    text = (
        TEXT
        + "9;yesterday;1;1;x;1;y\n10;1678700000000;long;1;x;1;y\n11;1678700000000;1;huge;x;1;y\n12;1;2\n13;1e30;1;1;x;1;y\n"
    )
    outcome = read_text(text, name="mine.csv", columns=MAP)
    assert [(reject.line, reject.reason) for reject in outcome.rejects] == [
        (4, "when is not a time: yesterday"),
        (7, "the row has 3 cells, the header 7"),
        (8, "when is a time that no calendar holds: 1e30"),
    ]
    assert outcome.rejects[0].raw == "9;yesterday;1;1;x;1;y"
    assert outcome.jobs["job_id"].tolist() == ["7", "8", "10", "11"]
    assert outcome.jobs["walltime"].isna().tolist() == [False, True, True, False]
    assert outcome.notes["run cannot be read: left out"] == 1
    assert outcome.notes["mem cannot be read: left out"] == 1


def test_a_mapped_column_that_is_absent_names_file_column_and_field(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("id,when\n1,2\n")
    with pytest.raises(
        ReadError, match=r"mine\.csv has no column run to fill walltime: its columns are id, when"
    ):
        list(detect(path).read(path, ReadOptions(columns=parse_column_map(["run=walltime"]))))
    with pytest.raises(
        ReadError,
        match=r"mine\.csv has no column for submitted_at: say which it is by --map COLUMN=submitted_at",
    ):
        list(detect(path).read(path, ReadOptions(columns=parse_column_map(["id=job_id"]))))


def test_a_column_with_a_fields_own_name_needs_no_map_beside_one(read_text):
    columns = parse_column_map(["job_id=user", "id=job_id"])
    row = read_text("id,job_id,submitted_at,source\n1,ann,2023-03-13,farm\n", columns=columns).row(
        "1"
    )
    assert (row["user"], row["source"]) == ("ann", "farm")
    assert (
        read_text("job_id,submitted_at,source\n1,2023-03-13,farm\n", source="mine").row("1")[
            "source"
        ]
        == "mine"
    )


def test_quoted_cells_may_hold_delimiters_and_line_ends(read_text):
    outcome = read_text(
        'job_id,submitted_at,job_name\na,2023-03-13,"x, ""y""\nz"\nb,2023-03-13,plain\n'
    )
    assert outcome.row("a")["job_name"] == 'x, "y"\nz'
    assert outcome.lines == [2, 4]


def test_a_stray_quote_harms_only_its_own_line(read_text):
    rows = [f"j{n},2023-03-13,name{n}\n" for n in range(300)]
    rows[10] = 'j10,2023-03-13,5" pipe\n'  # every cell is there: the quote is a character
    rows[20] = 'j20,"2023-03-13,lost\n'
    outcome = read_text("job_id,submitted_at,job_name\n" + "".join(rows))
    assert outcome.row("j10")["job_name"] == '5" pipe'
    assert len(outcome.jobs) + len(outcome.rejects) == 300
    assert {reject.line for reject in outcome.rejects} <= {22}
    assert "j21" in set(outcome.jobs["job_id"])


def test_statuses_are_met_in_any_case_and_new_ones_noted(read_text):
    outcome = read_text(
        "job_id,submitted_at,status\na,2023-03-13,Completed\nb,2023-03-13,odd\nc,2023-03-13,\n"
    )
    assert outcome.jobs["status"].fillna("-").tolist() == ["completed", "unknown", "-"]
    assert outcome.notes == {"unknown status odd": 1}


def test_a_name_that_is_not_utf8_is_kept_with_a_mark_and_noted(read_text):
    outcome = read_text(
        b"job_id,submitted_at,user\na,2023-03-13,J\xfcrg\nb,2023-03-13,J\xc3\xbcrg\n"
    )
    assert outcome.jobs["user"].tolist() == ["J\ufffdrg", "Jürg"]
    assert outcome.notes == {"line is not UTF-8: unreadable characters replaced": 1}


@pytest.fixture
def parquet(tmp_path):
    """A Parquet file of typed columns, and its path."""
    table = pa.table(
        {
            "id": pa.array([7, 8, 9], pa.int64()),
            "when": pa.array(
                [
                    datetime(2023, 3, 13, 10, tzinfo=UTC),
                    datetime(2023, 3, 13, 11, tzinfo=UTC),
                    None,
                ],
                pa.timestamp("ns", "UTC"),
            ),
            "local": pa.array([datetime(2023, 3, 13, 12), None, None], pa.timestamp("us")),
            "run": pa.array([timedelta(seconds=90), None, timedelta(0)], pa.duration("ms")),
            "mem": pa.array([Decimal("2.5"), Decimal("3"), None]),
            "who": pa.array(["ann", None, "bob"]).dictionary_encode(),
            "n": pa.array([4, None, 1], pa.int32()),
        }
    )
    path = tmp_path / "mine.parquet"
    pq.write_table(table, path, row_group_size=2)
    return path


PARQUET_MAP = parse_column_map(
    [
        "id=job_id",
        "when=submitted_at",
        "local=started_at",
        "run=walltime",
        "mem=peak_memory:kib",
        "who=user",
        "n=cores",
    ]
)


@pytest.mark.parametrize("batch_rows", [1, 2, 100])
@pytest.mark.parametrize("packed", [False, True])
def test_parquet_is_read_in_its_own_types(parquet, packed, batch_rows):
    if packed:
        parquet.write_bytes(gzip.compress(parquet.read_bytes()))
    batches = list(
        detect(parquet).read(
            parquet,
            ReadOptions(columns=PARQUET_MAP, batch_rows=batch_rows, timezone="Europe/Paris"),
        )
    )
    jobs = pd.concat([batch.jobs for batch in batches], ignore_index=True)
    assert jobs["job_id"].tolist() == ["7", "8", "9"]
    assert jobs["submitted_at"].tolist()[:2] == [
        pd.Timestamp("2023-03-13 10:00", tz="UTC"),
        pd.Timestamp("2023-03-13 11:00", tz="UTC"),
    ]
    assert jobs["started_at"][0] == pd.Timestamp("2023-03-13 11:00", tz="UTC")
    assert jobs["walltime"].fillna(-1).tolist() == [90.0, -1.0, 0.0]
    assert jobs["peak_memory"].fillna(-1).tolist() == [2560.0, 3072.0, -1.0]
    assert jobs["user"].fillna("-").tolist() == ["ann", "-", "bob"]
    assert jobs["cores"].fillna(-1).tolist() == [4.0, -1.0, 1.0]
    assert [int(line) for batch in batches for line in batch.lines] == [1, 2, 3]


def test_a_date_is_midnight(tmp_path):
    path = tmp_path / "d.parquet"
    pq.write_table(pa.table({"job_id": ["a"], "submitted_at": [date(2023, 3, 13)]}), path)
    (batch,) = detect(path).read(path, ReadOptions())
    assert batch.jobs["submitted_at"].tolist() == [pd.Timestamp("2023-03-13", tz="UTC")]


@pytest.mark.parametrize("keep", [5, 0.5, 0.9])
def test_a_cut_parquet_file_is_refused_by_name(parquet, keep):
    content = parquet.read_bytes()
    parquet.write_bytes(content[: int(keep if keep > 1 else len(content) * keep)])
    with pytest.raises(ReadError, match=r"mine\.parquet is not a whole Parquet file"):
        list(detect(parquet).read(parquet, ReadOptions(columns=PARQUET_MAP)))


def test_a_text_repeated_in_parquet_takes_memory_once_and_is_left_out(tmp_path):
    rows, path = 200_000, tmp_path / "bomb.parquet"
    long = pa.DictionaryArray.from_arrays(
        pa.array([0] * rows, pa.int32()), pa.array(["x" * 60_000])
    )
    ids = pa.array([str(i) for i in range(rows)])
    submitted = pa.array([1_700_000_000_000_000] * rows, pa.timestamp("us", "UTC"))
    table = pa.table({"job_id": ids, "submitted_at": submitted, "user": long})
    pq.write_table(table, path, row_group_size=rows)
    arrow_before = pa.default_memory_pool().max_memory()
    tracemalloc.start()
    lines = users = 0
    for batch in detect(path).read(path, ReadOptions()):
        lines += len(batch.lines)
        users += int(batch.jobs["user"].str.len().gt(512).sum())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (lines, users) == (rows, rows)  # the schema leaves the text out
    assert peak < 500e6  # 12 GB if each row had its own
    assert pa.default_memory_pool().max_memory() - arrow_before < 500e6


def test_a_row_group_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "wide.parquet"
    pq.write_table(pa.table({"job_id": ["x" * 100_000], "submitted_at": ["2024-01-01"]}), path)
    monkeypatch.setattr(table_reader, "ROW_GROUP_BYTES", 50_000)
    with pytest.raises(ReadError, match="smaller row groups"):
        list(detect(path).read(path, ReadOptions()))


def test_packed_parquet_that_unpacks_without_end_is_refused_as_it_unpacks(tmp_path, monkeypatch):
    path = tmp_path / "bomb.parquet.gz"
    monkeypatch.setattr(table_reader, "UNPACKED_BYTES", 3 << 20)
    path.write_bytes(gzip.compress(b"PAR1" + bytes(200 << 20)))
    written = []

    class Counted(io.BytesIO):
        def write(self, data):
            written.append(len(data))
            return super().write(data)

    monkeypatch.setattr(table_reader.tempfile, "TemporaryFile", Counted)
    with pytest.raises(ReadError, match="unpacks to more than 3 MB"):
        list(detect(path).read(path, ReadOptions(columns=PARQUET_MAP)))
    assert sum(written) <= 3 << 20


def test_packed_parquet_that_the_disk_has_no_room_for_is_refused_with_the_reason(
    parquet, monkeypatch
):
    parquet.write_bytes(gzip.compress(parquet.read_bytes()))

    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(table_reader.tempfile, "TemporaryFile", Full)
    with pytest.raises(ReadError, match=r"cannot be unpacked into .*: No space left on device"):
        list(detect(parquet).read(parquet, ReadOptions(columns=PARQUET_MAP)))


FACTS = """\
id,submitted,gpus,kind,nodes,level_fs,prio,own,kwh,gpu_h,biome,reads,note
1,2026-01-01,2,a100,4,inf,-7,yes,1.5,0.5,root:Host,1200000,
2,2026-01-02,0,,1,0.5,100,0,,,root:Soil,,x
3,2026-01-03,,,,,,false,,,none,many,
"""
FACTS_MAP = parse_column_map(
    [
        *("id=job_id", "submitted=submitted_at", "gpus=requested_gpus", "kind=gpu_type"),
        *("nodes=nodes", "level_fs=fair_share", "prio=priority", "own=exclusive"),
        *("kwh=energy:kwh", "gpu_h=gpu_time:h", "biome=label:biome"),
        *("reads=label:input_reads:number", "note=label:note"),
    ]
)


def test_facts_of_modern_machines_and_labels_by_a_map(tmp_path):
    path = tmp_path / "jobs.csv"
    path.write_text(FACTS)
    jobs, result = read_log(path, columns=FACTS_MAP)
    assert jobs["requested_gpus"].tolist()[:2] == [2, 0] and np.isnan(jobs["requested_gpus"][2])
    assert jobs["gpu_type"][0] == "a100"
    assert jobs["nodes"].tolist()[:2] == [4, 1]
    assert jobs["fair_share"].tolist()[:2] == [1e6, 0.5]
    assert jobs["priority"].tolist()[:2] == [-7, 100]
    assert jobs["exclusive"].tolist() == [1, 0, 0]
    assert jobs["energy"][0] == 5.4e6
    assert jobs["gpu_time"][0] == 1800
    assert jobs["labels"].tolist()[:2] == [
        '{"biome":"root:Host","input_reads":1200000.0}',
        '{"biome":"root:Soil","note":"x"}',
    ]
    assert pd.isna(jobs["labels"][2])
    assert result.notes["reads cannot be read: left out"] == 1


def test_states_of_slurm_in_a_table_are_statuses(tmp_path):
    words = {
        "NODE_FAIL": "failed",
        "CANCELLED by 1000": "cancelled",
        "out_of_memory": "out_of_memory",
        "TIMEOUT": "timeout",
        "HOVERING": "unknown",
    }
    path = tmp_path / "jobs.csv"
    rows = [f"{n},2026-01-01,{word}\n" for n, word in enumerate(words)]
    path.write_text("job_id,submitted_at,status\n" + "".join(rows))
    jobs, result = read_log(path)
    assert jobs["status"].tolist() == list(words.values())
    assert result.notes == {"unknown status HOVERING": 1}


@pytest.mark.parametrize("name", ["jobs.csv", "jobs.parquet"])
def test_labels_come_back_from_the_files_that_are_written(tmp_path, name):
    path = tmp_path / "facts.csv"
    path.write_text(FACTS.replace("root:Host", "ä" * 256).replace("root:Soil", 'a "b", c'))
    jobs, _ = read_log(path, columns=FACTS_MAP)
    written = write_jobs(jobs, tmp_path / name)
    again, result = read_log(written)
    pd.testing.assert_frame_equal(again, jobs)
    assert not result.rejected


def test_an_object_of_labels_in_a_json_table(tmp_path):
    path = tmp_path / "jobs.json"
    path.write_text(
        '[{"job_id": "1", "submitted_at": "2026-01-01", "labels": {"b": 2, "a": "x", "c": [1]}}]'
    )
    jobs, result = read_log(path)
    assert jobs["labels"].tolist() == ['{"a":"x","b":2.0}']
    assert result.notes["a label that is neither text nor a number: left out"] == 1
