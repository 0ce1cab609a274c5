"""The base classes of all errors that a user may see.

The message is one sentence that names what is wrong (file, line, field, setting or server) and what
to do about it.
"""


class GridcastError(Exception):
    """An operation failed: exit code 1."""

    exit_code = 1


class InputError(GridcastError):
    """A file, an argument or a setting is wrong: exit code 2."""

    exit_code = 2
