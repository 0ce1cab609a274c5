"""What every reader must do, whatever its format: a new one is added to SAMPLES and is tested."""

import contextlib
import gzip
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.readers import READERS, ReadError, ReadOptions, detect, reader_named
from jobs.schema import JOB, conform, derive_fields, split_valid
from jobs.transfers import derive_transfer_fields

READ = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@dataclass(frozen=True)
class Sample:
    """A small file of one format, in parts that tests may cut, double, turn round and spoil; ``missing`` takes a required name out."""

    format: str
    head: str
    records: tuple[str, ...]
    expected: dict[str, tuple[float, str, str]]  # job_id: walltime in s, submission, status
    tail: str = ""
    between: str = ""
    garbage: str = "?? garbage ??\n"
    add_column: Callable[[str], str] | None = None
    missing: tuple[str, str, str] | None = None  # replace this by that; the complaint names this

    def text(self, records: tuple[str, ...] | None = None) -> str:
        return (
            self.head + self.between.join(self.records if records is None else records) + self.tail
        )


def column(delimiter: str) -> Callable[[str], str]:
    def add(text: str) -> str:
        first, *rest = text.splitlines()
        return "\n".join(
            [first + delimiter + "BrandNew", *(line + delimiter + "7" for line in rest), ""]
        )

    return add


def ad(proc: int, submitted: int, walltime: int) -> str:
    end = submitted + 60 + walltime
    return (
        f"ClusterId = 9\nProcId = {proc}\nQDate = {submitted}\nJobStatus = 4\nExitCode = 0\nJobStartDate = {submitted + 60}\n"
        f'CompletionDate = {end}\nRemoteWallClockTime = {walltime}.0\nOwner = "ann"\n'
    )


def ad_json(proc: int, submitted: int, walltime: int) -> str:
    lines = [line.split(" = ") for line in ad(proc, submitted, walltime).splitlines()]
    return "{\n" + ",\n".join(f'  "{name}": {value}' for name, value in lines) + "\n}"


def panda(number: int, hour: int) -> str:
    day = f"2023-03-13T{hour:02}"
    return (
        f'{{"pandaid": {number}, "jeditaskid": 3, "jobstatus": "finished", "computingsite": "CERN", "corecount": 1,'
        f' "creationtime": "{day}:00:00", "starttime": "{day}:01:00", "endtime": "{day}:11:00"}}'
    )


def gridftp(number: int) -> str:
    return (
        f"DATE=20240107100{number}00.500000 HOST=se.example.org PROG=globus-gridftp-server NL.EVNT=FTP_INFO START=20240107100000.500000"
        f" USER=ann FILE=/data/{number} BUFFER=87380 BLOCK=262144 NBYTES={number}000000 VOLUME=/ STREAMS=4 STRIPES=1"
        f" DEST=[192.0.2.7] TYPE=RETR CODE=226\n"
    )


def fts(number: int) -> str:
    begun = 1_700_000_000_000 + number
    return (
        f'{{"tr_id": "t{number}", "vo": "atlas", "src_hostname": "a.org", "dst_hostname": "b.org", "f_size": "{number}000000",'
        f' "tr_timestamp_start": "{begun}", "timestamp_tr_st": "{begun + 1000}", "timestamp_tr_comp": "{begun + 1000 + 60_000 * number}",'
        f' "t_final_transfer_state": "Ok"}}\n'
    )


def rucio(number: int) -> str:
    return (
        f'{{"event_type": "transfer-done", "payload": {{"request-id": "r{number}", "src-rse": "CERN", "dst-rse": "BNL", "bytes": 1,'
        f' "submitted_at": "2024-01-07 10:00:00", "started_at": "2024-01-07 10:01:00",'
        f' "transferred_at": "2024-01-07 10:0{number + 1}:00"}}}}\n'
    )


def gridftp_id(number: int) -> str:
    told = f"20240107100000.500000|20240107100{number}00.500000|se.example.org|[192.0.2.7]|/data/{number}|RETR|{number}000000"
    return hashlib.blake2b(told.encode(), digest_size=12).hexdigest()


SWF_ROWS = tuple(
    f"{n} {10 * n} 5 {run} 2 -1 -1 2 3600 -1 1 7 8 9 1 1 -1 -1\n"
    for n, run in ((1, 100), (2, 200), (3, 300))
)
SACCT = "JobID|State|Submit|Start|End|ElapsedRaw|AllocCPUS|MaxRSS|NTasks\n"
TRACE = "task_id\thash\tnative_id\tprocess\tname\tstatus\tsubmit\tstart\tcomplete\trealtime\t%cpu\tpeak_rss\n"
CONDOR_JOBS = {f"9.{n}": (100.0 * n, f"2023-11-14 22:13:2{n}", "completed") for n in (1, 2, 3)}
PANDA_JOBS = {str(n): (600.0, f"2023-03-13 0{n}:00:00", "completed") for n in (1, 2, 3)}

SAMPLES = (
    Sample(
        "swf",
        "; Version: 2.2\n; UnixStartTime: 1000000000\n",
        SWF_ROWS,
        {
            str(n): (
                100.0 * n,
                f"2001-09-09 01:{46 + (40 + 10 * n) // 60}:{(40 + 10 * n) % 60:02}",
                "completed",
            )
            for n in (1, 2, 3)
        },
    ),
    Sample(
        "slurm",
        SACCT,
        tuple(
            f"{n}|COMPLETED|2024-03-0{n}T10:00:00|2024-03-0{n}T10:01:00|2024-03-0{n}T10:0{n + 1}:00|{60 * n}|4||\n"
            f"{n}.batch|COMPLETED|2024-03-0{n}T10:01:00|2024-03-0{n}T10:01:00|2024-03-0{n}T10:0{n + 1}:00|{60 * n}|4|{n}M|1\n"
            for n in (1, 2, 3)
        ),
        {str(n): (60.0 * n, f"2024-03-0{n} 10:00:00", "completed") for n in (1, 2, 3)},
        add_column=column("|"),
        missing=("Submit", "Posted", "Submit"),
    ),
    Sample(
        "condor",
        "[\n",
        tuple(ad_json(n, 1_700_000_000 + n, 100 * n) for n in (1, 2, 3)),
        CONDOR_JOBS,
        tail="\n]\n",
        between="\n,\n",
        garbage='{ "ClusterId": 9, "ProcId": nonsense }',
        add_column=lambda text: text.replace('"ProcId"', '"BrandNew": {"deep": [1]},\n  "ProcId"'),
        missing=("QDate", "QueueDay", "QDate"),
    ),
    Sample(
        "condor",
        "",
        tuple(ad(n, 1_700_000_000 + n, 100 * n) for n in (1, 2, 3)),
        CONDOR_JOBS,
        between="*** Offset = 0 ClusterId = 9\n",
        add_column=lambda text: text.replace("ProcId", "BrandNew = strcat(Owner, 1)\nProcId"),
        missing=("QDate", "QueueDay", "QDate"),
    ),
    Sample(
        "pbs",
        "",
        tuple(
            f"03/13/2023 10:00:00;E;{n}.srv;user=ann ctime={1_678_700_000 + n} start=1678700100 end={1_678_700_100 + 60 * n} "
            f"Exit_status=0 resources_used.walltime=00:0{n}:00\n"
            for n in (1, 2, 3)
        ),
        {f"{n}.srv": (60.0 * n, f"2023-03-13 09:33:2{n}", "completed") for n in (1, 2, 3)},
        add_column=lambda text: text.replace(" start=", " brand_new=7 start="),
        missing=("ctime=", "dtime=", "ctime"),
    ),
    Sample(
        "panda",
        '{"jobs": [',
        tuple(panda(n, n) for n in (1, 2, 3)),
        PANDA_JOBS,
        tail="]}",
        between=", ",
        garbage='{"pandaid": 4, "creationtime": never}',
        add_column=lambda text: text.replace('"jeditaskid"', '"brandnew": 7, "jeditaskid"'),
        missing=("creationtime", "birthtime", "creationtime"),
    ),
    Sample(
        "panda",
        "",
        tuple(panda(n, n) + "\n" for n in (1, 2, 3)),
        PANDA_JOBS,
    ),
    Sample(
        "panda",
        "PandaID,jediTaskID,jobStatus,computingSite,creationTime,startTime,endTime\n",
        tuple(
            f"{n},3,finished,CERN,2023-03-13 0{n}:00:00,2023-03-13 0{n}:01:00,2023-03-13 0{n}:11:00\n"
            for n in (1, 2, 3)
        ),
        PANDA_JOBS,
        add_column=column(","),
        missing=("creationTime", "birthTime", "creationtime"),
    ),
    Sample(
        "nextflow",
        TRACE,
        tuple(
            f"{n}\tab/00000{n}\t77{n}\tFASTQC\tFASTQC (a)\tCOMPLETED\t"
            f"2023-03-13 10:3{n}:00.000\t2023-03-13 10:3{n}:01.000\t-\t{n}s\t50%\t1 MB\n"
            for n in (1, 2, 3)
        ),
        {f"ab/00000{n}": (float(n), f"2023-03-13 10:3{n}:00", "completed") for n in (1, 2, 3)},
        add_column=column("\t"),
        missing=("submit", "posted", "submit"),
    ),
    Sample(
        "gridftp",
        "",
        tuple(gridftp(n) for n in (1, 2, 3)),
        {gridftp_id(n): (60.0 * n, "2024-01-07 10:00:00", "completed") for n in (1, 2, 3)},
        add_column=lambda text: text.replace(" CODE=", " BRAND.NEW=7 CODE="),
        missing=("START=", "BEGUN=", "START"),
    ),
    Sample(
        "fts",
        "",
        tuple(fts(n) for n in (1, 2, 3)),
        {f"t{n}": (60.0 * n, "2023-11-14 22:13:20", "completed") for n in (1, 2, 3)},
        garbage='{"tr_id": "t4", "t_final_transfer_state": oh}\n',
        add_column=lambda text: text.replace('"vo"', '"brandnew": 7, "vo"'),
        missing=("tr_id", "tr_name", "tr_id"),
    ),
    Sample(
        "rucio",
        "",
        tuple(rucio(n) for n in (1, 2, 3)),
        {f"r{n}": (60.0 * n, "2024-01-07 10:00:00", "completed") for n in (1, 2, 3)},
        garbage='{"event_type": "transfer-done", "payload": oh}\n',
        add_column=lambda text: text.replace('"src-rse"', '"brandnew": 7, "src-rse"'),
        missing=("request-id", "question-id", "request-id"),
    ),
    Sample(
        "table",
        "transfer_id,submitted_at,bytes,duration,status\n",
        tuple(f't{n},2023-03-1{n}T10:00:00Z,1000,{n}.5,"completed"\n' for n in (1, 2, 3)),
        {f"t{n}": (n + 0.5, f"2023-03-1{n} 10:00:00", "completed") for n in (1, 2, 3)},
        add_column=column(","),
        missing=("bytes", "length", "bytes"),
    ),
    Sample(
        "table",
        "job_id,submitted_at,walltime,status\n",
        tuple(f'j{n},2023-03-1{n}T10:00:00Z,{n}.5,"completed"\n' for n in (1, 2, 3)),
        {f"j{n}": (n + 0.5, f"2023-03-1{n} 10:00:00", "completed") for n in (1, 2, 3)},
        add_column=column(","),
        missing=("submitted_at", "posted_at", "submitted_at"),
    ),
)
NAMES = [f"{sample.format}-{place}" for place, sample in enumerate(SAMPLES)]


def samples_with(part: str) -> pytest.MarkDecorator:
    """The samples of formats that have what ``part`` changes."""
    chosen = [
        (sample, name) for sample, name in zip(SAMPLES, NAMES, strict=True) if getattr(sample, part)
    ]
    return pytest.mark.parametrize(
        "sample", [sample for sample, _ in chosen], ids=[name for _, name in chosen]
    )


every_sample = samples_with("format")


@pytest.fixture
def rows(read_text):
    """The rows of a text as job_id: (walltime, submission, status), and the whole outcome."""

    def read(text: str | bytes, **options):
        outcome = read_text(text, **options)
        jobs = (
            derive_fields(outcome.jobs)
            if outcome.record is JOB
            else derive_transfer_fields(outcome.jobs)
        )
        values = zip(
            jobs[outcome.record.identity[1]],
            jobs[outcome.record.elapsed],
            jobs["submitted_at"],
            jobs["status"],
            strict=True,
        )
        return [
            (job, (walltime, submitted.strftime("%Y-%m-%d %H:%M:%S"), status))
            for job, walltime, submitted, status in values
        ], outcome

    return read


def test_every_reader_has_a_sample():
    assert {sample.format for sample in SAMPLES} == {reader.name for reader in READERS}


@every_sample
def test_a_sample_is_recognised_and_read_exactly(sample, rows, tmp_path):
    found, outcome = rows(sample.text())
    assert detect(tmp_path / "log").name == sample.format
    assert found == list(sample.expected.items())
    assert outcome.rejects == []


@every_sample
def test_columns_are_the_schemas_and_the_rows_are_sane(sample, tmp_path):
    path = tmp_path / "log"
    path.write_text(sample.text())
    for batch in detect(path).read(path, ReadOptions()):
        assert set(batch.jobs.columns) <= set(batch.record.columns)
        record = batch.record
    batches = [conform(batch.jobs, record) for batch in detect(path).read(path, ReadOptions())]
    fill = derive_fields if record is JOB else derive_transfer_fields
    accepted, reasons = split_valid(fill(pd.concat(batches, ignore_index=True)), record=record)
    assert len(accepted) == 3, reasons


@every_sample
def test_batches_of_one_row_give_the_same(sample, rows):
    text = sample.text((*sample.records, sample.garbage))
    one, one_outcome = rows(text, batch_rows=1)
    all_at_once, outcome = rows(text)
    assert one == all_at_once
    assert one_outcome.rejects == outcome.rejects
    assert one_outcome.notes == outcome.notes
    assert one_outcome.lines == outcome.lines


@every_sample
def test_gzip_a_byte_order_mark_and_windows_line_ends_change_nothing(sample, rows):
    plain = sample.text().encode()
    expected = list(sample.expected.items())
    for spoiled in (
        gzip.compress(plain),
        b"\xef\xbb\xbf" + plain,
        plain.replace(b"\n", b"\r\n"),
        plain.rstrip(b"\n"),
    ):
        assert rows(spoiled)[0] == expected


@every_sample
def test_garbage_between_records_is_rejected_and_the_rest_read(sample, rows):
    first, *others = sample.records
    found, outcome = rows(sample.text((first, sample.garbage, *others)))
    assert found == list(sample.expected.items())
    assert len(outcome.rejects) == 1
    assert outcome.rejects[0].raw.strip() == sample.garbage.strip()


@every_sample
def test_order_does_not_matter(sample, rows):
    found, outcome = rows(sample.text(sample.records[::-1]))
    assert dict(found) == sample.expected
    assert outcome.rejects == []


@every_sample
def test_repeated_records_give_equal_rows_and_no_new_ones(sample, rows):
    found, _ = rows(sample.text(sample.records * 2))
    assert dict(found) == sample.expected
    assert len(found) <= 6


@every_sample
def test_a_truncated_file_gives_the_records_before_the_cut(sample, rows):
    cut = sample.text().index(sample.records[2]) + len(sample.records[2]) // 3
    found, _ = rows(sample.text()[:cut])
    assert [row for row in found if row[0] in list(sample.expected)[:2]] == list(
        sample.expected.items()
    )[:2]


@every_sample
def test_a_truncated_gzip_file_gives_the_rows_before_the_break_and_says_so(sample, rows):
    many = sample.between.join(sample.records[place % 3] for place in range(6000))
    packed = gzip.compress((sample.head + many + sample.tail).encode(), compresslevel=1)
    found, outcome = rows(packed[: len(packed) // 2])
    assert dict(found).items() <= sample.expected.items()
    assert dict(found)
    assert any("gzip" in reject.reason for reject in outcome.rejects)


@samples_with("add_column")
def test_a_new_column_is_ignored_and_noted(sample, rows):
    found, outcome = rows(sample.add_column(sample.text()))
    assert found == list(sample.expected.items())
    assert outcome.rejects == []
    if sample.head and "\n" in sample.head and sample.head != "[\n":
        assert outcome.notes == {
            f"unknown column {'BrandNew' if sample.format == 'table' else 'brandnew'} ignored": 1
        }


@samples_with("missing")
def test_a_missing_required_column_is_named(sample, rows):
    old, new, name = sample.missing
    text = sample.text().replace(old, new)
    try:
        found, outcome = rows(text, format=sample.format)
    except ReadError as error:
        assert name in str(error)
        assert "log" in str(error)
    else:
        assert found == []
        assert len(outcome.rejects) == 3
        assert all(name in reject.reason for reject in outcome.rejects)


@every_sample
def test_a_line_of_ten_megabytes_is_rejected_and_the_rest_read(sample, rows):
    found, outcome = rows(sample.text((*sample.records, "x" * 10_000_000 + "\n")).encode())
    assert [row for row in found if row[0] in sample.expected] == list(sample.expected.items())
    assert outcome.rejects
    assert all(len(reject.raw) <= 500 for reject in outcome.rejects)


@every_sample
def test_nul_bytes_never_reach_a_row(sample, rows):
    text = sample.text((*sample.records[:2], sample.records[2].replace("1", "1\0", 1)))
    found, outcome = rows(text)
    assert [row for row in found if row[0] in list(sample.expected)[:2]] == list(
        sample.expected.items()
    )[:2]
    assert outcome.rejects
    assert not any("\0" in reject.raw for reject in outcome.rejects)


def _read_or_refuse(path: Path, format: str) -> None:
    try:
        for batch in reader_named(format).read(path, ReadOptions(batch_rows=2)):
            assert set(batch.jobs.columns) <= set(batch.record.columns)
            assert len(batch.jobs) == len(batch.lines)
    except ReadError as error:
        assert str(error)


@pytest.mark.parametrize("format", [reader.name for reader in READERS])
@READ
@given(content=st.binary(max_size=400))
def test_no_bytes_make_a_reader_fail_otherwise_than_by_read_error(format, content, tmp_path):
    path = tmp_path / "log"
    path.write_bytes(content)
    _read_or_refuse(path, format)
    with contextlib.suppress(ReadError):
        detect(path)


@every_sample
@READ
@given(data=st.data())
def test_no_mutation_makes_a_reader_fail_otherwise_than_by_read_error(sample, data, tmp_path):
    content = bytearray(sample.text().encode())
    odd = st.sampled_from(
        [
            b"\0",
            b'"',
            b"{",
            b"}",
            b"\n",
            b"-1",
            b"1e999",
            b"nan",
            b"9" * 400,
            b"|",
            b"\t",
            b",",
            b"=",
            b";",
            b"+",
            b"\xff",
            b"[",
            b"]",
            b"",
        ]
    )
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(content)))
        content[place : place + data.draw(st.integers(0, 8))] = data.draw(
            odd | st.binary(max_size=6)
        )
    path = tmp_path / "log"
    path.write_bytes(bytes(content))
    _read_or_refuse(path, sample.format)
