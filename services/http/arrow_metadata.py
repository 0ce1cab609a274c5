"""What the flatbuffers of an Arrow stream say of it before it is read."""

from __future__ import annotations

import struct

import pyarrow as pa

from services.http.errors import HTTPError


def refuse_compression(body: bytes) -> None:
    """Raise HTTPError (415) for compressed buffers: a few bytes could claim any amount of memory.

    Arrow decompresses while it reads, so the flatbuffer of each message is looked at first:
    Message.header (its third field) is a RecordBatch, or a DictionaryBatch whose second field is
    one; a RecordBatch's fourth field is its compression.
    """
    for message in pa.ipc.MessageReader.open_stream(pa.py_buffer(body)):
        metadata = message.metadata.to_pybytes()
        batch = _table_in(metadata, _root(metadata), 2) if message.type != "schema" else None
        if batch is not None and message.type == "dictionary":
            batch = _table_in(metadata, batch, 1)
        if batch is not None and _table_in(metadata, batch, 3) is not None:
            raise HTTPError(415, "compressed Arrow buffers are not read; write them uncompressed")


def _root(buffer: bytes) -> int:
    return int(struct.unpack_from("<I", buffer, 0)[0])


def _table_in(buffer: bytes, table: int, field: int) -> int | None:
    """The position of the flatbuffer table in slot ``field`` of ``table``; None if it is empty."""
    vtable = table - struct.unpack_from("<i", buffer, table)[0]
    if 4 + 2 * field >= struct.unpack_from("<H", buffer, vtable)[0]:
        return None
    offset = struct.unpack_from("<H", buffer, vtable + 4 + 2 * field)[0]
    if not offset:
        return None
    position = table + offset
    return int(position + struct.unpack_from("<I", buffer, position)[0])
