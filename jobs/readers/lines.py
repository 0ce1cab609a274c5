"""Lines of a log file, plain or gzip: decoded, numbered, in chunks of bounded size.

A line that is too long or holds NUL bytes is a reject, and so is the point where a gzip stream
breaks off; what can be read is read.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.readers.contract import Reject
from jobs.readers.errors import ReadError

PEEK_BYTES = 1 << 16
LINE_LIMIT = 1 << 20
CHUNK_BYTES = 1 << 25

GZIP_MAGIC = b"\x1f\x8b"
BROKEN = (EOFError, gzip.BadGzipFile, zlib.error)
"""What Python raises where a gzip stream is cut short or damaged."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive lines without their ends, numbered from ``first``; a rejected line is empty."""

    first: int
    lines: list[str]
    rejects: list[Reject]
    notes: Counter[str]


def open_log(path: Path) -> io.BufferedReader:
    """Open a file, gzip or plain by its content; raises ReadError where it cannot be opened."""
    try:
        with path.open("rb") as file:
            packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        return io.BufferedReader(_Unpacked(path), 1 << 17) if packed else path.open("rb")
    except OSError as error:
        raise ReadError(
            f"{path} cannot be read: {(error.strerror or str(error)).lower()}"
        ) from None


class _Unpacked(io.RawIOBase):
    """A gzip file as raw bytes; what is unpacked before a break is given out."""

    def __init__(self, path: Path) -> None:
        self._file = gzip.GzipFile(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._file.read1(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        self._file.close()
        super().close()


def peek(path: Path) -> bytes:
    """The first 64 kB of the file, decompressed; raises ReadError where there is nothing in it."""
    pieces: list[bytes] = []
    with open_log(path) as file:
        try:
            while sum(map(len, pieces)) < PEEK_BYTES and (piece := file.read1(4096)):
                pieces.append(piece)
        except BROKEN:
            if not pieces:
                raise ReadError(
                    f"{path} cannot be read: its gzip stream is damaged from the first byte"
                ) from None
    head = b"".join(pieces)
    if not head.strip(b"\xef\xbb\xbf \t\r\n"):
        raise ReadError(f"{path} is empty")
    return head


def head_lines(head: bytes) -> list[str]:
    """The whole lines among a file's first bytes, decoded, without a byte-order mark."""
    lines = head.decode("utf-8-sig", errors="replace").replace("\r\n", "\n").split("\n")
    return lines[:-1] if len(lines) > 1 and lines[-1] and len(head) >= PEEK_BYTES else lines


def read_chunks(path: Path, size: int) -> Iterator[Chunk]:
    """Stream a file as chunks of at most ``size`` lines and about 32 MB."""
    number = 1
    with open_log(path) as file:
        ended = False
        while not ended:
            raw: list[bytes] = []
            rejects: list[Reject] = []
            room = CHUNK_BYTES
            try:
                while len(raw) < size and room > 0:
                    line = file.readline(LINE_LIMIT)
                    if not line:
                        ended = True
                        break
                    if len(line) == LINE_LIMIT and not line.endswith(b"\n"):
                        rejects.append(_overlong(number + len(raw), line))
                        _skip_line(file)
                        line = b"\n"
                    raw.append(line)
                    room -= len(line)
            except BROKEN as error:
                ended = True
                rejects.append(
                    Reject(
                        number + len(raw),
                        f"the gzip stream is broken here and the rest is lost: {error}",
                        "",
                    )
                )
            if raw or rejects:
                yield _decode(number, raw, rejects)
            number += len(raw)


def _overlong(number: int, line: bytes) -> Reject:
    return Reject(
        number,
        f"the line is longer than {LINE_LIMIT} bytes",
        line[:2000].decode("utf-8", errors="replace"),
    )


def _skip_line(file: io.BufferedReader) -> None:
    while (rest := file.readline(LINE_LIMIT)) and not rest.endswith(b"\n"):
        pass


def _decode(first: int, raw: list[bytes], rejects: list[Reject]) -> Chunk:
    notes: Counter[str] = Counter()
    if first == 1 and raw:
        raw[0] = raw[0].removeprefix(b"\xef\xbb\xbf")
    if raw and not raw[-1].endswith(b"\n"):
        raw[-1] += b"\n"
    try:
        text = b"".join(raw).decode("utf-8")
    except UnicodeDecodeError:
        decoded = [line.decode("utf-8", errors="replace") for line in raw]
        notes["line is not UTF-8: unreadable characters replaced"] += sum(
            "\ufffd" in line for line in decoded
        )
        text = "".join(decoded)
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    lines = text.split("\n")[:-1]
    if "\0" in text:
        for i, line in enumerate(lines):
            if "\0" in line:
                rejects.append(Reject(first + i, "the line holds NUL bytes", line))
                lines[i] = ""
    return Chunk(first, lines, sorted(rejects, key=lambda reject: reject.line), notes)
