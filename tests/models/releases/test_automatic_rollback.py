"""One training at a time."""

from pathlib import Path

import pytest

from infra.settings import Settings
from models.releases.automatic_rollback import BusyError, training_lock


def test_of_two_trainings_on_one_data_folder_the_second_leaves_it_to_the_first(
    tmp_path: Path,
) -> None:
    settings = Settings(home=tmp_path)
    with (
        training_lock(settings),
        pytest.raises(BusyError, match="another training runs"),
        training_lock(settings),
    ):
        pass
    with training_lock(settings), training_lock(Settings(home=tmp_path / "other")):
        pass  # the claim ended with its holder, and another folder is another's


def test_other_users_cannot_open_the_lock_of_trainings(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    with training_lock(settings):
        assert (tmp_path / "tmp" / "training.lock").stat().st_mode & 0o777 == 0o600
