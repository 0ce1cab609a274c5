"""Files that are damaged, empty, strange, or not logs at all."""

import gzip
import random

import pytest

from jobs.readers import READERS, ReadError, ReadOptions, detect, reader_named

ROW = "1 10 5 60 2 -1 -1 2 -1 -1 1 1 1 1 1 1 -1 -1\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \r\n\n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (gzip.compress(b"", mtime=0), "is empty"),
        (random.Random(1).randbytes(5000), "is in no format that Gridcast knows"),
        (
            gzip.compress(random.Random(2).randbytes(5000), mtime=0),
            "is in no format that Gridcast knows",
        ),
        (b"\0" * 5000, "is in no format that Gridcast knows"),
        (
            gzip.compress(b"x" * 1000, mtime=0)[:10],
            "its gzip stream is damaged from the first byte",
        ),
        (b"\x1f\x8bnot gzip at all", "its gzip stream is damaged from the first byte"),
    ],
)
@pytest.mark.parametrize("name", ["log", "log.csv", "log.swf.gz"])
def test_what_is_no_log_is_refused_in_one_sentence(tmp_path, content, message, name):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ReadError) as error:
        detect(path)
    assert message in str(error.value)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_the_refusal_lists_the_formats(tmp_path):
    path = tmp_path / "letter.txt"
    path.write_text("Dear all,\n")
    with pytest.raises(
        ReadError, match="swf, slurm, condor, pbs, panda, nextflow, gridftp, fts, rucio, table"
    ):
        detect(path)


def test_a_name_decides_where_the_content_does_not(tmp_path):
    path = tmp_path / "mine.CSV.gz"
    path.write_bytes(gzip.compress(b"a,b\n1,2\n"))
    assert detect(path).name == "table"


def test_content_goes_before_the_name(tmp_path):
    path = tmp_path / "odd.csv"
    path.write_text(ROW)
    assert detect(path).name == "swf"


def test_files_that_cannot_be_opened_are_named(tmp_path):
    with pytest.raises(ReadError, match="none cannot be read: no such file or directory"):
        detect(tmp_path / "none")
    with pytest.raises(ReadError, match="cannot be read: is a directory"):
        detect(tmp_path)


def test_readers_are_found_by_name_and_an_unknown_one_is_refused():
    assert [reader_named(reader.name) for reader in READERS] == list(READERS)
    assert reader_named("SWF").name == "swf"
    with pytest.raises(ReadError, match="there is no format lsf: choose one of swf, slurm"):
        reader_named("lsf")


def test_a_damaged_gzip_checksum_still_gives_every_row(tmp_path):
    packed = bytearray(gzip.compress((ROW * 50).encode()))
    packed[-6] ^= 0xFF
    path = tmp_path / "log.gz"
    path.write_bytes(bytes(packed))
    batches = list(detect(path).read(path, ReadOptions()))
    assert sum(len(batch.jobs) for batch in batches) == 50
    (reject,) = [reject for batch in batches for reject in batch.rejects]
    assert (reject.line, "gzip stream is broken" in reject.reason) == (51, True)


def test_concatenated_gzip_files_are_one(tmp_path):
    path = tmp_path / "log.gz"
    path.write_bytes(
        gzip.compress(ROW.encode()) + gzip.compress(ROW.replace("1 10", "2 11", 1).encode())
    )
    assert [
        job for batch in detect(path).read(path, ReadOptions()) for job in batch.jobs["job_id"]
    ] == ["1", "2"]


def test_a_text_that_unpacks_without_end_takes_bounded_memory(tmp_path):
    """100 MB without a line's end, from 100 kB of gzip: read in pieces and rejected as one line."""
    import tracemalloc

    path = tmp_path / "bomb.swf.gz"
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(ROW.encode())
        for _ in range(100):
            file.write(b"7" * 1_000_000)
    tracemalloc.start()
    batches = list(detect(path).read(path, ReadOptions()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(len(batch.jobs) for batch in batches) == 1
    assert [reject.line for batch in batches for reject in batch.rejects] == [2]
    assert peak < 40e6
