"""Owners of jobs: the users and groups (virtual organisations) whose jobs somebody may see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from infra.aliases import Array
from infra.errors import InputError
from jobs.coded_jobs import CodedJobs


class NotOwnedError(InputError):
    """A job belongs to nobody of some owners."""


@dataclass(frozen=True)
class Owners:
    """Users and groups; a job is theirs if its user or its group is among them."""

    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()

    def __str__(self) -> str:
        names = [f"user {name}" for name in sorted(self.users)]
        return ", ".join([*names, *(f"group {name}" for name in sorted(self.groups))])

    def own(self, frame: pd.DataFrame, user: str = "user", group: str = "group") -> Array:
        """Whether each row of a frame is theirs (bool[n]).

        Args:
            frame: The rows.
            user: The column of users.
            group: The column of groups.
        """
        own = frame[user].isin(self.users) | frame[group].isin(self.groups)
        return own.to_numpy(dtype=bool)

    def own_coded(self, jobs: CodedJobs) -> Array:
        """Whether each job is theirs (bool[n]); one without user and group is nobody's."""
        own = np.zeros(len(jobs), dtype=bool)
        for field, names in (("user", self.users), ("group", self.groups)):
            if field in jobs:
                column = jobs[field]
                # The code of a missing text is -1: the last element.
                is_theirs = np.array([*(text in names for text in column.values), False])
                own |= is_theirs[column.codes]
        return own


def select_owned(
    frame: pd.DataFrame, owners: Owners | None, user: str = "user", group: str = "group"
) -> pd.DataFrame:
    """The rows of some owners, all for None.

    Args:
        frame: The rows.
        owners: Whose rows.
        user: The column of users.
        group: The column of groups.
    """
    return frame if owners is None else frame[owners.own(frame, user, group)]
