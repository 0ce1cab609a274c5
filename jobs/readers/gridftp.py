"""Reader of the transfer log of Globus GridFTP servers: a line of NAME=value a transfer.

Times are in UTC unless told otherwise, with microseconds that are not padded: ``.5`` is 5 µs. RETR
and ERET read from the server, STOR and ESTO write to it; other commands (listings) are no transfers
and only counted. DATE is when it ended. NBYTES is what was moved, so it is the file's size only
where the transfer succeeded (CODE 226).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from math import isnan, nan
from pathlib import Path

from jobs.readers import units
from jobs.readers.contract import Batch, Reader, ReadOptions, Reject
from jobs.readers.errors import FieldError
from jobs.readers.lines import head_lines, read_chunks
from jobs.readers.rows import Row, Values, gather, parse_rows
from jobs.transfers import TRANSFER

MARK = "NL.EVNT=FTP_INFO"
KEY = re.compile(r"(?<!\S)([A-Z][A-Z.]*+)=")
DIRECTIONS = {"RETR": "read", "ERET": "read", "STOR": "write", "ESTO": "write"}
DONE = ("226", "227")
HOST = re.compile(r"\[([^\]]+)\]")


def recognises(path: Path, head: bytes) -> bool:
    """Whether one of the first lines is an FTP_INFO event."""
    return any(MARK in line for line in head_lines(head))


def read(path: Path, options: ReadOptions) -> Iterator[Batch]:
    """Stream the transfers of a log; a line without START, DATE or HOST is rejected."""
    rows = parse_rows(_records(path, options.batch_rows), partial(_transfer, options=options))
    return gather(rows, options.batch_rows, TRANSFER)


def _records(path: Path, size: int) -> Iterator[tuple[int, str, dict[str, str]] | Reject | str]:
    for chunk in read_chunks(path, size):
        yield from chunk.rejects
        yield from chunk.notes.elements()
        for number, line in enumerate(chunk.lines, chunk.first):
            if not line.strip():
                continue
            fields = _pairs(line)
            if MARK not in line or "type" not in fields:
                yield Reject(number, "the line is no FTP_INFO event", line)
            elif fields["type"] not in DIRECTIONS:
                yield f"{fields['type'][:20]} is no transfer"
            else:
                yield number, line, fields


def _pairs(line: str) -> dict[str, str]:
    """The values by lower-case name; each ends where the next name begins."""
    keys = list(KEY.finditer(line))
    ends = [*(key.start() for key in keys[1:]), len(line)]
    return {
        key[1].lower(): line[key.end() : end].strip() for key, end in zip(keys, ends, strict=False)
    }


def _transfer(values: Values, options: ReadOptions) -> Row:
    fields = values.fields
    printed = [values.required(name, _clock, None) for name in ("START", "DATE")]
    started, ended = units.to_utc(printed, options.timezone)
    server = values.text("HOST")
    if isnan(started) or isnan(ended) or server is None:
        raise FieldError(
            f"{'START' if isnan(started) else 'DATE' if isnan(ended) else 'HOST'} is missing"
        )
    succeeded = fields.get("code") in DONE
    remote = HOST.search(fields.get("dest", "")[:1000])
    direction = DIRECTIONS[fields["type"]]
    ends = (server, remote[1] if remote else None)
    from_endpoint, to_endpoint = ends if direction == "read" else ends[::-1]
    identity = "|".join(
        fields.get(name, "") for name in ("start", "date", "host", "dest", "file", "type", "nbytes")
    )
    digest = hashlib.blake2b(identity.encode("utf-8", "replace"), digest_size=12)
    return {
        "transfer_id": digest.hexdigest(),
        "source": options.source or server,
        "user": values.text("USER"),
        "direction": direction,
        "from_endpoint": from_endpoint,
        "to_endpoint": to_endpoint,
        "file_system": values.text("VOLUME"),
        "protocol": "gsiftp",
        "streams": values.positive("STREAMS"),
        "buffer_bytes": values.number("BUFFER"),
        "bytes": values.positive("NBYTES") if succeeded else nan,
        "files": 1.0,
        "submitted_at": started,
        "started_at": started,
        "ended_at": ended,
        "status": "completed" if succeeded else "failed",
    }


def _clock(text: str) -> datetime:
    """A time as the server prints it: 20240107092754.223249; the microseconds have no padding."""
    seconds, _, micros = text.strip().partition(".")
    try:
        moment = datetime.strptime(seconds, "%Y%m%d%H%M%S")
        return moment.replace(microsecond=int(micros[:6] or 0))
    except ValueError:
        raise ValueError(f"is not a time: {text[:60]}") from None


GRIDFTP = Reader("gridftp", recognises, read)
"""The reader to put in the list."""
