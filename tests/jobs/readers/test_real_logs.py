"""The real logs: every row read, none rejected, and the counts that their publishers give."""

from collections import Counter

import pandas as pd
import pytest

from jobs.readers import ReadOptions, detect, swf
from jobs.schema import conform, derive_fields, split_valid

LOGS = {
    "LCG-2005-1.first70.swf.gz": ("swf", 131_628),
    "KTH-SP2-1996.swf.gz": ("swf", 28_481),
    "LPC-EGEE-2004-1.2-cln.swf.gz": ("swf", 234_889),
    "CTC-SP2-1996-3.1-cln.swf.gz": ("swf", 77_222),
    "SDSC-SP2-1998-4.2-cln.swf.gz": ("swf", 59_715),
    "LANL-CM5-1994-4.1-cln.swf.gz": ("swf", 122_060),
    "nextflow-mag.csv.gz": ("nextflow", 6_242),
    "nextflow-chipseq.csv.gz": ("nextflow", 2_938),
    "nextflow-rnaseq.csv.gz": ("nextflow", 1_308),
    "nextflow-eager.csv.gz": ("nextflow", 1_576),
}


@pytest.fixture(scope="module")
def read_log(traces):
    """The jobs of a real log, read once."""
    kept: dict[str, pd.DataFrame] = {}

    def read(name: str) -> pd.DataFrame:
        if name not in kept:
            rejects, frames = [], []
            for batch in detect(traces / name).read(traces / name, ReadOptions()):
                frames.append(conform(batch.jobs))
                rejects += batch.rejects
            assert rejects == []
            kept[name] = derive_fields(pd.concat(frames, ignore_index=True))
        return kept[name]

    return read


@pytest.mark.parametrize("name", LOGS)
def test_every_row_is_read_and_is_sane(read_log, traces, name):
    format, rows = LOGS[name]
    assert detect(traces / name).name == format
    jobs = read_log(name)
    assert len(jobs) == rows
    assert jobs["job_id"].is_unique
    accepted, rejected = split_valid(jobs)
    assert len(accepted) == rows, rejected.head()


def test_lcg_has_its_users_groups_and_sites_by_name(read_log):
    jobs = read_log("LCG-2005-1.first70.swf.gz")
    assert (jobs["user"].nunique(), jobs["group"].nunique(), jobs["site"].nunique()) == (
        185,
        26,
        168,
    )
    assert "cnaf.infn.it" in set(jobs["site"])
    assert jobs["submitted_at"].min() == pd.Timestamp("2005-11-20 00:00:05", tz="UTC")
    assert (jobs["started_at"] == jobs["submitted_at"]).all()


def test_lpc_has_the_shares_that_the_data_page_gives(read_log):
    jobs = read_log("LPC-EGEE-2004-1.2-cln.swf.gz")
    assert round((jobs["walltime"] > 0).mean(), 2) == 0.91
    assert round((jobs["cpu_time"] > 0).mean(), 2) == 0.82
    assert round(jobs["peak_memory"].notna().mean(), 2) == 0.48
    assert set(jobs["queue"].dropna()) == {"test", "short", "long", "day", "infinite", "batch"}
    assert jobs["user"].nunique() == 55  # and unknown where a job never started


def test_kth_counts_kills_at_the_limit(read_log, traces):
    jobs = read_log("KTH-SP2-1996.swf.gz")
    assert Counter(jobs["status"]) == {"completed": 20_535, "failed": 4_258, "timeout": 3_688}
    assert swf.read_header(traces / "KTH-SP2-1996.swf.gz").max_procs == 100


def test_mag_adds_up_to_what_its_raw_columns_add_up_to(read_log, traces):
    jobs, raw = (
        read_log("nextflow-mag.csv.gz"),
        pd.read_csv(traces / "nextflow-mag.csv.gz", na_values="-"),
    )
    assert jobs["walltime"].sum() == pytest.approx(raw["realtime"].sum() / 1000)
    assert jobs["peak_memory"].sum() == raw["peak_rss"].sum()
    assert jobs["cpu_time"].sum() == pytest.approx((raw["%cpu"] * raw["realtime"]).sum() / 1e5)
    assert jobs["requested_memory"].tolist() == raw["memory"].tolist()
