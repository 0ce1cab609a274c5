"""Transfers: what a log leaves out, what cannot be true, and that they are kept as jobs are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from jobs.ingest import ingest_file, read_log
from jobs.readers import ReadError, ReadOptions, detect
from jobs.readers.columns import parse_column_map
from jobs.schema import conform, split_valid
from jobs.store import count_jobs, read_jobs, read_rejects
from jobs.transfers import TRANSFER, derive_transfer_fields

LCLS = "instr,ftype,start,fsz,elap,ttype,fsid,nstripe,stripe0,stripeall\n"


def transfers(**columns: Any) -> pd.DataFrame:
    return conform(
        pd.DataFrame(
            {"transfer_id": ["a"], "source": "s", "submitted_at": "2026-01-01", **columns}
        ),
        TRANSFER,
    )


def test_what_a_log_leaves_out_is_filled_in() -> None:
    (row,) = derive_transfer_fields(
        transfers(from_endpoint="CERN", to_endpoint="BNL", duration=60.0)
    ).to_dict("records")
    assert row["link"] == "CERN>BNL"
    assert row["status"] == "completed"
    assert row["ended_at"] - row["started_at"] == pd.Timedelta(60, "s")
    assert row["started_at"] == row["submitted_at"]


def test_a_transfer_under_way_has_no_end() -> None:
    (row,) = derive_transfer_fields(
        transfers(started_at="2026-01-01 00:01", status="running")
    ).to_dict("records")
    assert pd.isna(row["ended_at"])
    assert row["status"] == "running"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"bytes": 0.0}, "bytes is not between 1"),
        ({"bytes": 5.0, "duration": 4294967.295}, "duration is not between 0 and 4.2336e+06"),
    ],
)
def test_a_lost_counter_and_an_empty_file_are_refused(
    fields: dict[str, float], reason: str
) -> None:
    accepted, reasons = split_valid(derive_transfer_fields(transfers(**fields)), record=TRANSFER)
    assert accepted.empty
    assert reasons.tolist()[0].startswith(reason)


def test_the_lcls_layout_is_known_by_its_header_and_bad_rows_keep_their_reason(
    tmp_path: Path, store: Any
) -> None:
    path = tmp_path / "lcls.csv"
    path.write_text(
        LCLS
        + "amo,0,1541548440,6512513552,194000,-1,3,1,2,2\ncxi,0,1544048438,9558302428,4294967295,1,11,1,27,27\n"
    )
    done = ingest_file(store, path)
    assert (done.added, done.rejected) == (1, 1)
    (row,) = read_jobs(store, record=TRANSFER).to_dict("records")
    assert (row["bytes"], row["duration"], row["group"], row["device"], row["transfer_id"]) == (
        6512513552.0,
        194.0,
        "amo",
        "2",
        "2",
    )
    assert read_rejects(store)["reason"].tolist() == [
        "duration is not between 0 and 4.2336e+06: 4294967.295"
    ]
    again = ingest_file(store, path)
    assert (again.added, again.unchanged) == (0, 1)
    assert count_jobs(store, TRANSFER)["ended"].tolist() == [1]
    assert read_jobs(store).empty


def test_a_map_given_once_reads_any_table(tmp_path: Path) -> None:
    path = tmp_path / "copies.csv"
    path.write_text("when,kib,took\n2026-01-01T00:00:00Z,8,2.5\n")
    read_back, _ = read_log(
        path,
        columns=parse_column_map(["when=submitted_at", "kib=bytes:kib", "took=duration:min"]),
        record=TRANSFER,
    )
    assert read_back[["bytes", "duration"]].iloc[0].tolist() == [8192.0, 150.0]


def test_a_log_of_the_other_kind_and_a_mixed_map_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "copies.csv"
    path.write_text("transfer_id,submitted_at,bytes\nt,2026-01-01,1\n")
    with pytest.raises(ReadError, match="is a log of transfers, not of jobs"):
        read_log(path)
    with pytest.raises(ReadError, match="mixes fields of jobs and of transfers"):
        parse_column_map(["a=walltime", "b=direction"])


def test_listings_of_a_gridftp_log_are_counted_and_failures_have_no_size(tmp_path: Path) -> None:
    line = "DATE=20240107100100.5 HOST=se NL.EVNT=FTP_INFO START=20240107100000.5 NBYTES=10 STREAMS=1 DEST=[10.0.0.1] TYPE={} CODE={}\n"
    path = tmp_path / "log"
    path.write_text(line.format("LIST", 226) + line.format("STOR", 426))
    (batch,) = detect(path).read(path, ReadOptions())
    assert dict(batch.notes) == {"LIST is no transfer": 1}
    (row,) = batch.jobs.to_dict("records")
    assert (row["status"], row["to_endpoint"], row["from_endpoint"]) == ("failed", "se", "10.0.0.1")
    assert pd.isna(row["bytes"])


def test_of_the_lcls_log_fourteen_rows_are_refused(traces: Path) -> None:
    read_back, read = read_log(traces / "lcls-file-transfers-2018.csv.gz", record=TRANSFER)
    assert (read.read, read.rejected, len(read_back)) == (125_301, 14, 125_287)
