"""Protocol buffers by hand: the six small messages BuildKit and we exchange need no compiler.

A message is read into ``{field number: [values]}``; nested messages stay bytes until they are read
in turn.
"""

from __future__ import annotations

from typing import TypeAlias

Message: TypeAlias = "dict[int, list[int | bytes]]"

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
WIDTHS = {FIXED64: 8, FIXED32: 4}


def read(data: bytes) -> Message:
    """Take a message apart.

    Raises:
        ValueError: it is cut off or no message.

    """
    fields: Message = {}
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        value: int | bytes
        if kind == VARINT:
            value, at = _varint(data, at)
        else:
            length, at = _length(data, at, kind)
            value = data[at : at + length]
            at += length
            if at > len(data):
                raise ValueError("a message is cut off")
        fields.setdefault(number, []).append(value)
    return fields


def blob(message: Message, number: int) -> bytes:
    """The field's bytes; empty when it is absent."""
    value = message.get(number, [b""])[-1]
    return value if isinstance(value, bytes) else b""


def text(message: Message, number: int) -> str:
    """The field as text; empty when it is absent."""
    return blob(message, number).decode("utf-8", "replace")


def number(message: Message, field: int) -> int:
    """The field as an integer; 0 when it is absent."""
    value = message.get(field, [0])[-1]
    return value if isinstance(value, int) else 0


def seconds(message: Message, number_: int) -> float | None:
    """The field, a Timestamp, in seconds since 1970; None when it is absent."""
    if number_ not in message:
        return None
    moment = read(blob(message, number_))
    return number(moment, 1) + number(moment, 2) / 1e9


def field(number_: int, value: bytes) -> bytes:
    """One field of bytes, ready to be part of a message."""
    return _as_varint(number_ << 3 | BYTES) + _as_varint(len(value)) + value


def _length(data: bytes, at: int, kind: int) -> tuple[int, int]:
    if kind == BYTES:
        return _varint(data, at)
    if kind not in WIDTHS:
        raise ValueError(f"no such wire type: {kind}")
    return WIDTHS[kind], at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a message is cut off")


def _as_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))
