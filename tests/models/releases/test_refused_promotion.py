"""A promotion that is refused before it begins is in the audit log."""

from pathlib import Path

import pytest

from infra.errors import InputError
from infra.settings import use_home
from jobs.store import open_store, read_audit
from models.releases import champion


@pytest.mark.parametrize("action", ["promote", "challenge"])
def test_an_unknown_version_is_recorded_as_refused(
    action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRIDCAST_HOME", str(tmp_path))
    settings = use_home(tmp_path)
    with pytest.raises(InputError, match="no version 99"):
        getattr(champion, action)(99, settings, by="ada", why="a test")
    engine = open_store(settings.store_url)
    (row,) = read_audit(engine).to_dict("records")
    engine.dispose()
    expected = "promote" if action == "promote" else "challenger"
    assert (row["action"], row["result"], row["who"]) == (expected, "refused", "ada")
    assert "there is no version 99" in row["why"]
