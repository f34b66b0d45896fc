"""What the scripts of this directory share. Each gets the URL of the host and a handler, and prints its columns.

Without `from __future__ import annotations`: libraries read the annotations of `weather`, some of them as types.
"""

import base64
import json
import struct
import sys
import zlib
from collections.abc import Callable

from pydantic import BaseModel

URL, HANDLER = sys.argv[1:3]
PROTOCOL = sys.argv[3] if len(sys.argv) > 3 else ""
"""For a library that speaks several."""
MODEL = {"openai": "gpt-5", "anthropic": "claude-sonnet-4-5", "gemini": "gemini-2.5-flash"}.get(PROTOCOL, HANDLER)
"""A name that such a library knows, and that leads to the handler."""
KEY = "a-consumer-key-of-some-length"
FINAL = "7391"
TOO_LONG = "the prompt has 300000 tokens, 8877 more than the context"


def _png() -> bytes:
    head = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes((250, 10, 10)) * 8) * 8)
    chunks = ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b""))
    crcs = [(kind, data, struct.pack(">I", zlib.crc32(kind + data))) for kind, data in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(data)) + kind + data + crc for kind, data, crc in crcs)


PNG = base64.b64encode(_png()).decode()
PDF = base64.b64encode(b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n").decode()
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CITY = {**WEATHER, "additionalProperties": False}


class City(BaseModel):
    city: str


def weather(city: str) -> str:
    """Return the weather."""
    return f"rain in {city}"


def run(**checks: Callable[[], object]) -> None:
    """Run the check of each column, and print the results as JSON."""
    results = {}
    for column, check in checks.items():
        try:
            check()
            results[column] = "ok"
        except Exception as error:  # noqa: BLE001 - the result of the column
            results[column] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
    print(json.dumps(results))


def expect(text: object, part: str = FINAL) -> None:
    """Fail if a text lacks a part."""
    if part not in str(text):
        raise AssertionError(f"{part!r} is not in {str(text)[:200]!r}")


def fails(call: Callable[[], object]) -> None:
    """Fail if the call does not raise an error with the words of the provider."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 - any class of any SDK
        expect(error, TOO_LONG)
        return
    raise AssertionError("no error")
