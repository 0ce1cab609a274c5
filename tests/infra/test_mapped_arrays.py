"""Arrays in a mapped file: what was written comes back, and a damaged file is refused."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from infra.mapped_arrays import StoredArray, map_arrays, write_arrays, write_description

PAIR = np.dtype([("key", np.uint64), ("size", np.uint16)])
ARRAYS = {
    "numbers": StoredArray(np.arange(50_000.0), 10_000_000),
    "pairs": StoredArray(np.array([(1, 2), (3, 4)], PAIR), 2),
    "table": StoredArray(np.arange(6, dtype=np.float32).reshape(2, 3), 5),
    "empty": StoredArray(np.empty((0, 4), np.int32), 3),
    "last": StoredArray(np.arange(9, dtype=np.uint8), 9),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    with (tmp_path / "file").open("wb") as out:
        write_description(out, write_arrays(out, ARRAYS), {"of": "a test"})
    return tmp_path / "file"


def test_what_was_written_comes_back_with_room_that_takes_no_disk(file: Path) -> None:
    about, arrays = map_arrays(file)
    assert about == {"of": "a test"} and list(arrays) == list(ARRAYS)
    for name, (used, rows) in ARRAYS.items():
        values = arrays[name]
        assert values.dtype == used.dtype and values.shape == (rows, *used.shape[1:])
        np.testing.assert_array_equal(values[: len(used)], used)
        assert not values[len(used) :].tobytes().strip(b"\0")
    assert file.stat().st_size > 80_000_000 > 10 * 512 * file.stat().st_blocks


def test_what_is_written_in_memory_stays_there(file: Path) -> None:
    arrays, others = map_arrays(file)[1], map_arrays(file)[1]
    arrays["numbers"][:] = 7.0
    assert others["numbers"][3] == map_arrays(file)[1]["numbers"][3] == 3.0


@pytest.mark.parametrize("position", [0, 399_999, -1, -30, -100])
def test_a_damaged_array_or_description_is_refused(file: Path, position: int) -> None:
    with file.open("r+b") as content:
        content.seek(position, 0 if position >= 0 else 2)
        byte = content.read(1)[0]
        content.seek(-1, 1)
        content.write(bytes([byte ^ 1]))
    with pytest.raises(ValueError, match="damaged"):
        map_arrays(file)


@pytest.mark.parametrize("size", [0, 10, 4096, 80_000_000, -1])
def test_a_shortened_file_is_refused(file: Path, size: int) -> None:
    with file.open("r+b") as content:
        content.truncate(size if size >= 0 else file.stat().st_size + size)
    with pytest.raises(ValueError, match=r"too short|damaged"):
        map_arrays(file)


def test_a_file_whose_writer_was_killed_is_refused(tmp_path: Path) -> None:
    script = (
        "import os, sys, signal, numpy as np\n"
        "from infra.mapped_arrays import StoredArray, write_arrays\n"
        "with open(sys.argv[1], 'wb') as out:\n"
        "    write_arrays(out, {'values': StoredArray(np.arange(1e6), 2_000_000)})\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root, file = Path(__file__).parents[2], tmp_path / "file"
    run = subprocess.run([sys.executable, "-c", script, str(file)], cwd=root, check=False)
    assert run.returncode == -9 and file.stat().st_size > 4096
    with pytest.raises(ValueError, match="damaged"):
        map_arrays(file)
