"""Errors of the readers: a file, or one field of a row, cannot be read."""

from __future__ import annotations

from infra.errors import InputError


class ReadError(InputError):
    """A file cannot be read at all; the message is one sentence that names the file."""


class FieldError(Exception):
    """A field of one row cannot be read; the message names the field and shows its text."""
