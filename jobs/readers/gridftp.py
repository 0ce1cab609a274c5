"""Reader of the transfer log of Globus GridFTP servers: a line of NAME=value a transfer, times in UTC unless told otherwise.

RETR and ERET read from the server, STOR and ESTO write to it; other commands (listings) are no transfers and only counted. DATE is when
it ended. NBYTES is what was moved, so it is the file's size only where the transfer succeeded (CODE 226).
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
from jobs.readers.rows import Row, gather, jobs_of, value
from jobs.transfers import TRANSFER

MARK = "NL.EVNT=FTP_INFO"
PAIR = re.compile(r"(?:^|\s)([A-Z][A-Z.]*)=(.*?)(?=\s+[A-Z][A-Z.]*=|\s*$)")
DIRECTIONS = {"RETR": "read", "ERET": "read", "STOR": "write", "ESTO": "write"}
DONE = ("226", "227")
HOST = re.compile(r"\[([^\]]+)\]")


def recognises(path: Path, head: bytes) -> bool:
    """Whether one of the first lines is an FTP_INFO event."""
    return any(MARK in line for line in head_lines(head))


def read(path: Path, options: ReadOptions) -> Iterator[Batch]:
    """Stream the transfers of a log; a line without START, DATE or HOST is rejected."""
    records = _records(path, options.batch_rows)
    return gather(
        jobs_of(records, partial(_transfer, options=options)), options.batch_rows, TRANSFER
    )


def _records(path: Path, size: int) -> Iterator[tuple[int, str, dict[str, str]] | Reject | str]:
    for chunk in read_chunks(path, size):
        yield from chunk.rejects
        for note, count in chunk.notes.items():
            yield from [note] * count
        for number, line in enumerate(chunk.lines, chunk.first):
            if not line.strip():
                continue
            fields = dict(PAIR.findall(line))
            if MARK not in line or "TYPE" not in fields:
                yield Reject(number, "the line is no FTP_INFO event", line)
            elif fields["TYPE"] not in DIRECTIONS:
                yield f"{fields['TYPE'][:20]} is no transfer"
            else:
                yield number, line, fields


def _transfer(fields: dict[str, str], options: ReadOptions) -> Row:
    number = partial(value, fields, parse=units.number, missing=nan)
    started, ended = units.to_utc(
        [value(fields, name, _clock, None) for name in ("START", "DATE")], options.timezone
    )
    server = units.words(fields.get("HOST"))
    if isnan(started) or isnan(ended) or server is None:
        raise FieldError(
            f"{'START' if isnan(started) else 'DATE' if isnan(ended) else 'HOST'} is missing"
        )
    done = fields.get("CODE") in DONE
    other = HOST.search(fields.get("DEST", ""))
    direction = DIRECTIONS[fields["TYPE"]]
    places = (server, other[1] if other else None)
    here, there = places if direction == "read" else places[::-1]
    told = "|".join(
        fields.get(name, "") for name in ("START", "DATE", "HOST", "DEST", "FILE", "TYPE", "NBYTES")
    )
    return {
        "transfer_id": hashlib.blake2b(told.encode("utf-8", "replace"), digest_size=12).hexdigest(),
        "source": options.source or server,
        "user": units.words(fields.get("USER")),
        "direction": direction,
        "from_endpoint": here,
        "to_endpoint": there,
        "file_system": units.words(fields.get("VOLUME")),
        "protocol": "gsiftp",
        "streams": number("STREAMS"),
        "buffer_bytes": number("BUFFER"),
        "bytes": number("NBYTES") if done else nan,
        "files": 1.0,
        "submitted_at": started,
        "started_at": started,
        "ended_at": ended,
        "status": "completed" if done else "failed",
    }


def _clock(text: str) -> datetime:
    """A time as the server prints it: 20240107092754.223249."""
    whole, _, fraction = text.strip().partition(".")
    try:
        moment = datetime.strptime(whole, "%Y%m%d%H%M%S")
        return moment.replace(microsecond=int((fraction + "000000")[:6]))
    except ValueError:
        raise ValueError(f"is not a time: {text[:60]}") from None


GRIDFTP = Reader("gridftp", recognises, read)
"""The reader to put in the list."""
