"""A model set is tried out in a process of its own: what is wrong with it stays there."""

import json
from pathlib import Path

import pytest

from infra.checksums import digest
from jobs.workload import generate
from models.engine.model_set import MANIFEST, ModelError
from models.engine.training import train
from models.releases import verification
from models.releases.verification import verify_in_subprocess


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trial") / "set"
    train(generate(1500, 10, 3).jobs).save(folder)
    return folder


def altered(saved: Path, into: Path, name: str, content: bytes, *, signed: bool) -> Path:
    """A copy of the set with one file replaced, and its checksum if the manifest can be written."""
    into.mkdir()
    for path in saved.iterdir():
        (into / path.name).write_bytes(path.read_bytes())
    (into / name).write_bytes(content)
    if signed:
        manifest = json.loads((into / MANIFEST).read_text())
        (into / MANIFEST).write_text(json.dumps(manifest | {name: digest(into / name)}))
    return into


def test_a_sound_set_passes(saved):
    verify_in_subprocess(saved)


def test_a_set_that_computes_too_long_is_refused_by_its_cpu_time(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "TRIAL_CPU_SECONDS", 1)
    with pytest.raises(ModelError, match="did not answer within 1 s of CPU time"):
        verify_in_subprocess(saved)


def test_an_altered_file_is_refused_by_its_checksum(saved, tmp_path):
    spoiled = altered(saved, tmp_path / "set", "walltime.json", b"{}", signed=False)
    with pytest.raises(ModelError, match=r"walltime.json .* SHA-256 differs"):
        verify_in_subprocess(spoiled)


@pytest.mark.parametrize(
    "content", [b"", b"CBM1" + bytes(64)], ids=["empty", "only the magic word"]
)
def test_a_model_file_of_rubbish_is_refused_even_with_a_right_checksum(saved, tmp_path, content):
    spoiled = altered(saved, tmp_path / "set", "walltime.0.cbm", content, signed=True)
    with pytest.raises(ModelError) as caught:
        verify_in_subprocess(spoiled)
    assert "\n" not in str(caught.value)


def test_a_pickle_beside_the_set_is_not_touched(saved, tmp_path):
    trap = tmp_path / "sprung"
    bomb = f"cposix\nsystem\n(S'touch {trap}'\ntR.".encode()
    set_with_bomb = altered(saved, tmp_path / "set", "model.pkl", bomb, signed=False)
    (set_with_bomb / "MLmodel").write_text(
        "flavors:\n  python_function:\n    loader_module: os\n    python_model: model.pkl\n"
    )
    verify_in_subprocess(set_with_bomb)
    assert not trap.exists()


def test_no_model_there_is_one_sentence(tmp_path):
    with pytest.raises(ModelError, match="there is no model in"):
        verify_in_subprocess(tmp_path)
