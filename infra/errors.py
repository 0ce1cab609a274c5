"""The two ways a command can fail; every error that a user may meet derives from one of them.

The message is one sentence that names what is wrong (file, line, field, setting or server) and what to do.
"""


class GridcastError(Exception):
    """Something that should have worked did not: exit code 1."""

    exit_code = 1


class InputError(GridcastError):
    """A file, an argument or a setting is wrong: exit code 2."""

    exit_code = 2
