"""Bodies of successful responses that native operations pass on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from handler_host.plugin import NativeResponse, UpstreamError, relay_body


async def relayed(content_type: str, *chunks: bytes) -> bytes:
    async def body() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    start = NativeResponse(200, {"content-type": content_type})
    parts = [part async for part in relay_body(start, body())]
    assert parts[0] is start
    return b"".join(part for part in parts[1:] if isinstance(part, bytes))


@pytest.mark.parametrize(
    "chunks",
    [
        (b"data: 1\n\n",),
        (b"d", b"at", b"a: 1\n\n"),
        (b"\xef\xbb\xbf", b"\n", b"event: x\ndata: 1\n\n"),
        (b"id\n",),
        (b"retry: 3\n\n",),
        (b": ping\n\n",),
        (b"data",),
        (b'{"a": 1}',),
    ],
)
async def test_an_event_stream_of_another_content_type_is_passed_on(chunks: tuple[bytes, ...]) -> None:
    assert await relayed("text/plain", *chunks) == b"".join(chunks)


@pytest.mark.parametrize(
    "chunks",
    [
        (b"delayed connect error",),
        (b"in", b"ternal error"),
        (b"eventually",),
        (b"rate limited",),
        (b"idle",),
        (b"e",),
        (b"<p>Bad gateway</p>",),
    ],
)
async def test_a_text_is_an_error_with_its_words(chunks: tuple[bytes, ...]) -> None:
    words = b"".join(chunks).decode().removeprefix("<p>").removesuffix("</p>")
    with pytest.raises(UpstreamError, match=words):
        await relayed("text/plain", *chunks)
