"""Bodies with a ``Content-Encoding``, decoded in slices and within a limit. Pure.

aiohttp would decompress a body while it arrives, before the key is checked and without a limit on all of them: 15 MB
from a client without a key kept the loop busy for 20 s.
"""

from __future__ import annotations

import zlib

from handler_host.plugin.errors import BadRequest, BodyTooLarge, UnsupportedMediaType

SLICE = 256 * 1024
"""Bytes to decompress at a time (below 2 ms): the limits are checked in between."""
INPUT_SLICE = 16 * 1024
"""Bytes to read at a time: each further member of a gzip file copies the rest of its slice."""
MAX_RATIO = 200
"""Most bytes from one compressed byte; real JSON has 5 to 50."""
ALWAYS_ALLOWED = 1024 * 1024
"""Bytes for which the ratio does not matter: a short body of spaces is not an attack."""
MAX_MEMBERS = 64
"""Most members of a gzip file."""
SUPPORTED = ("gzip", "deflate")


def parse_encoding(value: str) -> str | None:
    """Return the encoding, or None if the body is sent as it is; raises ``UnsupportedMediaType``."""
    encoding = value.strip().lower()
    if encoding in ("", "identity"):
        return None
    encoding = encoding.removeprefix("x-")
    if encoding not in SUPPORTED:
        raise UnsupportedMediaType(
            f"Content-Encoding: {value[:100]!r} is unsupported; send gzip, deflate or no encoding"
        )
    return encoding


def decompress(body: bytes, encoding: str, limit_bytes: int) -> bytes:
    """Return the content of a body; raises ``BadRequest`` if it is not so encoded, ``BodyTooLarge``.

    ``limit_bytes`` limits the content.
    """
    contents: list[bytes] = []
    size_bytes = 0
    members = 1
    decoder = _decoder(body, encoding)
    for start in range(0, len(body), INPUT_SLICE):
        data = body[start : start + INPUT_SLICE]
        while data:
            if decoder.eof:
                members += 1
                if encoding != "gzip" or members > MAX_MEMBERS:
                    raise BadRequest(f"the body has data after its end (Content-Encoding: {encoding})")
                decoder = _decoder(data, encoding)
            try:
                content = decoder.decompress(data, SLICE)
            except zlib.error as error:
                raise BadRequest(f"the body is not {encoding}, as its Content-Encoding says: {error}") from None
            data = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
            size_bytes += len(content)
            if size_bytes > limit_bytes:
                raise BodyTooLarge(f"the decompressed body is longer than {limit_bytes} bytes (server.max_body)")
            if size_bytes > ALWAYS_ALLOWED and size_bytes > MAX_RATIO * len(body):
                raise BodyTooLarge(f"the body expands to more than {MAX_RATIO} times its size; send it uncompressed")
            contents.append(content)
    if not decoder.eof:
        raise BadRequest(f"the body ends within its {encoding} data")
    return b"".join(contents)


def _decoder(data: bytes, encoding: str) -> zlib._Decompress:
    if encoding == "gzip":
        return zlib.decompressobj(16 + zlib.MAX_WBITS)
    # Some clients send raw deflate data without the header of zlib, whose low four bits are 8.
    return zlib.decompressobj(zlib.MAX_WBITS if data[0] & 0xF == 8 else -zlib.MAX_WBITS)
