"""Opaque data of a provider's reasoning, in the fields of a client's protocol, and back. Pure.

A client keeps such data and sends them back, perhaps to another handler. Data of the protocol's own provider pass as
they are; those of another one get a mark with their format, by which the handler of that provider finds them again.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64encode, urlsafe_b64decode
from collections.abc import Sequence
from typing import Literal

import msgspec

from handler_host.chat import types as chat

Kind = Literal["signature", "encrypted"]
CALL_FORMAT = "call"
"""Format of the signature of a tool call, sent as reasoning before the call by a protocol whose calls have none."""
_MARK = "hh1:"
_PARTS_MARK = f"{_MARK}p:"
"""Start of whole parts of reasoning, with their texts."""
_BASE64_MARK = "aGgxO"
"""Start of every text in base64 that starts with the mark."""
SEALED = re.compile(f'"(?:{_MARK}|{_BASE64_MARK})'.encode())
"""Start of another provider's data in the JSON of a request, which the client's own provider would refuse."""


def seal(part: chat.ReasoningPart | chat.ReasoningChunk, native: str) -> str:
    """Return the opaque data of a part for a protocol whose own format is ``native``."""
    data = part.encrypted if part.encrypted is not None else part.signature or ""
    if part.format == native:
        return data
    kind = "e" if part.encrypted is not None else "s"
    return f"{_MARK}{kind}:{part.format or ''}:{data}"


def unseal(text: str, data: str | None, native: str, kind: Kind) -> chat.ReasoningPart:
    """Return the part of a text and opaque data; data without a mark are ``native`` and of this kind."""
    if data is None:
        return chat.ReasoningPart(text=text)
    part_format: str | None = native
    if data.startswith(_MARK):
        mark, _, rest = data.removeprefix(_MARK).partition(":")
        part_format, _, data = rest.partition(":")
        kind, part_format = "encrypted" if mark == "e" else "signature", part_format or None
    if kind == "encrypted":
        return chat.ReasoningPart(text=text, encrypted=data or None, format=part_format)
    return chat.ReasoningPart(text=text, signature=data or None, format=part_format)


def seal_base64(part: chat.ReasoningPart | chat.ReasoningChunk, native: str) -> str:
    """Return what :func:`seal` returns, for a field that must be base64, as the protocol's own data are."""
    data = seal(part, native)
    return b64encode(data.encode()).decode() if data.startswith(_MARK) else data


def unseal_base64(text: str, data: str | None, native: str, kind: Kind) -> chat.ReasoningPart:
    """Return the part of a text and the data of :func:`seal_base64`."""
    return unseal(text, None if data is None else _decode_base64(data), native, kind)


def seal_parts(parts: Sequence[chat.ReasoningPart]) -> str:
    """Return whole parts in base64, texts included, for clients that send back nothing but this field."""
    return b64encode(_PARTS_MARK.encode() + msgspec.json.encode(parts)).decode()


def unseal_parts(data: str) -> list[chat.ReasoningPart] | None:
    """Return the parts of :func:`seal_parts`; None for any other data."""
    decoded = _decode_base64(data)
    if not decoded.startswith(_PARTS_MARK):
        return None
    try:
        return msgspec.json.decode(decoded.removeprefix(_PARTS_MARK), type=list[chat.ReasoningPart])
    except msgspec.DecodeError:
        return None


def _decode_base64(data: str) -> str:
    """Return data of the host in clear; SDKs may have changed the alphabet and padding."""
    if not data.startswith(_BASE64_MARK):
        return data
    encoded = data.rstrip("=").replace("+", "-").replace("/", "_")
    try:
        return urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
    except (binascii.Error, ValueError):
        return data  # it only looks like data of the host, and goes to the handler as it is
