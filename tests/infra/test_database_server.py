"""PostgreSQL of a site: where its account cannot reach the data folder."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from infra.database_server import DatabaseServerError, main


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server runs as another account")
def test_a_folder_that_the_account_cannot_enter_is_named() -> None:
    with TemporaryDirectory() as temporary:
        closed = Path(temporary).resolve()  # mode 0700
        refusal = rf"cannot enter {closed}: chmod o\+x {closed}$"
        with pytest.raises(DatabaseServerError, match=refusal):
            main(closed / "home" / "postgres", 1)
