"""Where the header is in an artifact's file, and which bytes are all the rest: ONNX and OpenVINO, without a library of
either, so that a file is known before anything of it is run, and a new header leaves every other byte as it was."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

KEY = "hsvdet"


class Opened(NamedTuple):
    """header: its JSON text, None where there is none. before, after: the bytes around it."""

    header: str | None
    before: bytes
    after: bytes


# Field numbers of ModelProto and StringStringEntryProto (onnx.proto).
_METADATA_PROPS, _ENTRY_KEY, _ENTRY_VALUE = 14, 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def open_onnx(content: bytes) -> Opened:
    """An ONNX file. Raises ValueError in words where it is none, or has two headers."""
    found = None
    for field, kind, start, value, end in _fields(memoryview(content)):
        if field == _METADATA_PROPS and kind == _BYTES:
            entry = {number: bytes(part) for number, _, _, part, _ in _fields(value)}
            if entry.get(_ENTRY_KEY) == KEY.encode():
                if found is not None:
                    raise ValueError("it has two hsvdet headers")
                found = entry.get(_ENTRY_VALUE, b"").decode("utf-8"), start, end
    if found is None:
        return Opened(None, content, b"")
    text, start, end = found
    return Opened(text, content[:start], content[end:])


def close_onnx(opened: Opened, header: str) -> bytes:
    """The file with another header, in the place of the one it had or at the end."""
    entry = _field(_ENTRY_KEY, KEY.encode()) + _field(_ENTRY_VALUE, header.encode())
    return opened.before + _field(_METADATA_PROPS, entry) + opened.after


def _fields(message: memoryview) -> Iterator[tuple[int, int, int, memoryview, int]]:
    """(number, wire type, start, value, end) of each field of a protobuf message; value: of those with a length."""
    at = 0
    while at < len(message):
        start = at
        tag, at = _varint(message, at)
        number, kind, value = tag >> 3, tag & 7, message[:0]
        if kind == _VARINT:
            _, at = _varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            length, at = _varint(message, at)
            value = message[at : at + length]
            at += length
        else:
            raise ValueError("it is not a protobuf message")
        if at > len(message) or number == 0:
            raise ValueError("it is cut off or not a protobuf message")
        yield number, kind, start, value, at


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise ValueError("it is cut off or not a protobuf message")


def _field(number: int, value: bytes) -> bytes:
    return _as_varint(number << 3 | _BYTES) + _as_varint(len(value)) + value


def _as_varint(number: int) -> bytes:
    parts = bytearray()
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


# <net> ... <rt_info><hsvdet value="..."/></rt_info></net>. A value has no bare quote and no bare <.
_ELEMENT = re.compile(rb'<hsvdet\s+value="([^"<]*)"\s*/>')
_ENTITY = re.compile(r"&(?:#(\d{1,7})|#x([0-9a-fA-F]{1,6})|(\w+));")
_NAMED = {"quot": '"', "apos": "'", "amp": "&", "lt": "<", "gt": ">"}


def open_openvino(content: bytes) -> Opened:
    """The .xml of an OpenVINO model, in UTF-8. Raises ValueError in words where it is none, or has two headers."""
    if not re.match(rb"(?:\xef\xbb\xbf)?\s*<(?:\?xml|net)\b", content):
        raise ValueError("it is not XML in UTF-8")
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise ValueError("its XML defines entities, which OpenVINO never writes")
    if content.count(b"<hsvdet") > 1:
        raise ValueError("it has two hsvdet headers")
    found = _ELEMENT.search(content)
    if found is None:
        return Opened(None, content, b"")
    text = _ENTITY.sub(_character, found[1].decode("utf-8"))
    return Opened(text, content[: found.start()], content[found.end() :])


def close_openvino(opened: Opened, header: str) -> bytes:
    """The file with another header. Raises ValueError where it has none."""
    if opened.header is None:
        raise ValueError("it has no hsvdet header to replace")
    for name, character in (("amp", "&"), *((name, c) for name, c in _NAMED.items() if c != "&")):
        header = header.replace(character, f"&{name};")
    return opened.before + b'<hsvdet value="' + header.encode() + b'" />' + opened.after


def _character(found: re.Match[str]) -> str:
    decimal, hexadecimal, name = found.groups()
    if name is not None:
        if name not in _NAMED:
            raise ValueError(f"its XML has the entity &{name};")
        return _NAMED[name]
    number = int(decimal) if decimal else int(hexadecimal, 16)
    if number > 0x10FFFF:
        raise ValueError("its XML has a character that does not exist")
    return chr(number)
