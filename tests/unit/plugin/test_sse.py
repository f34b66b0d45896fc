"""The reader of event streams: the WHATWG rules, odd frames, and its bounds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler_host.plugin import ServerSentEvent, SseDecoder, UpstreamError, read_documents
from tests.support import error_of

Event = ServerSentEvent

STANDARD: dict[str, tuple[bytes, list[Event]]] = {
    "one event": (b"data: a\n\n", [Event("a")]),
    "no space after the colon": (b"data:a\n\n", [Event("a")]),
    "only one space is removed": (b"data:  a\n\n", [Event(" a")]),
    "many lines of data": (b"data: a\ndata: b\ndata\n\n", [Event("a\nb\n")]),
    "fields without a colon": (b"data\n\ndata\ndata\n\n", [Event(""), Event("\n")]),
    "empty data": (b"data:\n\n", [Event("")]),
    "a name": (b"event: add\ndata: a\n\ndata: b\n\n", [Event("a", "add"), Event("b")]),
    "a name without data": (b"event: ping\n\ndata: a\n\n", [Event("a")]),
    "an ID stays": (
        b"id: 7\ndata: a\n\ndata: b\n\nid\ndata: c\n\n",
        [Event("a", "", "7"), Event("b", "", "7"), Event("c")],
    ),
    "an ID with NUL": (b"id: 1\0\ndata: a\n\n", [Event("a")]),
    "comments": (b": hello\n\n:\n\n:data: x\ndata: a\n\n", [Event("a")]),
    "a retry time": (b"retry: 3000\n\nretry: soon\ndata: a\n\n", [Event("a")]),
    "unknown fields": (b"data: a\nDATA: b\nfoo: c\n data: d\n\n", [Event("a")]),
    "CR LF": (b"data: a\r\ndata: b\r\n\r\ndata: c\r\n\r\n", [Event("a\nb"), Event("c")]),
    "CR": (b"data: a\rdata: b\r\rdata: c\r\r", [Event("a\nb"), Event("c")]),
    "mixed ends of lines": (b"data: a\r\n\ndata: b\n\r\n", [Event("a"), Event("b")]),
    "a byte order mark": (b"\xef\xbb\xbfdata: a\n\n", [Event("a")]),
    "a second byte order mark": (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n", [Event("b")]),
    "invalid UTF-8": (b"data: a\xffb\n\n", [Event("a\ufffdb")]),
    "other separators of Unicode": ("data: a\u2028b\x85c\x0bd\n\n".encode(), [Event("a\u2028b\x85c\x0bd")]),
    "a colon in the data": (b"data: a:b\n\n", [Event("a:b")]),
    "nothing": (b"", []),
    "only white space": (b"\n\n\r\n\r", []),
}

REAL: dict[str, tuple[bytes, list[Event]]] = {
    "no empty line at the end": (b"data: a\n\ndata: b\n", [Event("a"), Event("b")]),
    "no end of line at the end": (b"data: a\n\ndata: b", [Event("a"), Event("b")]),
}
"""Where the reader departs from the standard."""


def decode(parts: Iterable[bytes]) -> list[Event]:
    decoder = SseDecoder()
    return [event for part in parts for event in decoder.feed(part)] + decoder.close()


@pytest.mark.parametrize("name", [*STANDARD, *REAL])
def test_frames_of_the_corpus(name: str) -> None:
    stream, events = (STANDARD | REAL)[name]
    assert decode([stream]) == events
    assert decode(stream[place : place + 1] for place in range(len(stream))) == events


@given(st.sampled_from(sorted(STANDARD | REAL)), st.lists(st.integers(0, 60), max_size=6))
def test_reads_may_end_anywhere(name: str, cuts: list[int]) -> None:
    stream, events = (STANDARD | REAL)[name]
    places = [0, *sorted(cuts), len(stream)]
    assert decode(stream[a:b] for a, b in pairwise(places)) == events


class TestBounds:
    @pytest.mark.parametrize("stream", [b"data: " + b"x" * 2000, b"data: x\n" * 2000, b"x" * 2000])
    def test_an_event_that_is_too_long_is_the_providers_fault(self, stream: bytes) -> None:
        decoder = SseDecoder(max_event_bytes=1000)
        with pytest.raises(UpstreamError, match="more than 1000 bytes"):
            decoder.feed(stream)

    def test_the_bound_is_one_events(self) -> None:
        decoder = SseDecoder(max_event_bytes=100)
        assert len(decoder.feed(b"data: 0123456789\n\n: 0123456789\n" * 1000)) == 1000

    @pytest.mark.parametrize("part", [b"data: {}\n", b"x", b"\r", b"data: 0123456789\n\n"])
    def test_time_is_linear(self, part: bytes) -> None:
        """Ten times the reads take about ten times as long, and not a hundred times."""

        def seconds(reads: int) -> float:
            decoder = SseDecoder()
            start = time.process_time()
            for _ in range(reads):
                decoder.feed(part)
            decoder.close()
            return time.process_time() - start

        small = min(seconds(5_000) for _ in range(3))
        assert seconds(50_000) < 40 * small + 0.05


async def documents(stream: bytes, content_type: str = "text/event-stream", size: int = 1) -> list[object]:
    async def parts() -> AsyncIterator[bytes]:
        for place in range(0, len(stream), size):
            yield stream[place : place + size]

    return [document async for document in read_documents(parts(), content_type)]


DOCUMENTS: dict[str, bytes] = {
    "events": b'data: {"a": 1}\n\ndata: {"a": 2}\n\ndata: [DONE]\n\n',
    "[DONE] in small letters": b'data: {"a": 1}\n\ndata: {"a": 2}\n\ndata: [done]\n\n',
    "[DONE] as a string": b'data: {"a": 1}\n\ndata: {"a": 2}\n\ndata: "[DONE]"\n\n',
    "a text in an event of another name": b'event: status\ndata: third of 5\n\ndata: {"a": 1}\n\ndata: {"a": 2}\n\n',
    "without [DONE]": b'data: {"a": 1}\n\ndata: {"a": 2}\n\n',
    "events after [DONE]": b'data: {"a": 1}\n\ndata: {"a": 2}\n\ndata: [DONE]\n\ndata: {"a": 3}\n\n',
    "a byte order mark": b'\xef\xbb\xbfdata: {"a": 1}\n\ndata: {"a": 2}\n\n',
    "white space first": b'\n\n\r\n: hello\n\ndata: {"a": 1}\n\ndata: {"a": 2}\n\n',
    "empty data": b'data:\n\ndata: \n\ndata: {"a": 1}\n\ndata: {"a": 2}\n\n',
    "null": b'data: null\n\ndata: {"a": 1}\n\ndata: {"a": 2}\n\n',
    "pings": b'event: ping\ndata: pong\n\ndata: {"a": 1}\n\nevent: heartbeat\ndata: -\n\ndata: {"a": 2}\n\n',
    "a document over two lines": b'data: {"a":\ndata: 1}\n\ndata: {"a": 2}\n\n',
    "JSON lines": b'{"a": 1}\n{"a": 2}\n',
    "JSON lines with CR LF, without an end": b'{"a": 1}\r\n\r\n{"a": 2}',
    "JSON lines after a byte order mark": b'\xef\xbb\xbf{"a": 1}\n{"a": 2}\n',
    "an array": b'[{"a": 1},\r\n{"a": 2}\r\n]',
    "an array over many lines": b'[{\n  "a": 1\n},\n{\n  "a": 2\n}]\n',
}


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("name", DOCUMENTS)
async def test_documents_of_a_stream(name: str, size: int) -> None:
    assert await documents(DOCUMENTS[name], size=size) == [{"a": 1}, {"a": 2}]


async def test_one_document_in_place_of_a_stream() -> None:
    assert await documents(b'{"choices":\n [{"message": {}}]}', "application/json") == [{"choices": [{"message": {}}]}]


async def test_numbers_and_texts_that_json_does_not_have() -> None:
    (document,) = await documents(b'data: {"a": NaN, "b": 1e999, "c": "x\\ud83d", "d": 123456789012345678901}\n\n')
    assert isinstance(document, dict)
    assert (document["b"], document["c"], document["d"]) == (float("inf"), "x\ud83d", 123456789012345678901)


@pytest.mark.parametrize(
    ("stream", "content_type", "words"),
    [
        (b"<html><head><title>502 Bad Gateway</title></head></html>", "text/html", "502 Bad Gateway"),
        (b"<h1>No &amp; no</h1>", "text/event-stream", "No & no"),
        (b"upstream connect error", "text/plain", "upstream connect error"),
        (b"upstream connect error", "text/event-stream", "upstream connect error"),
        (b"event: error\ndata: out of cards\n\n", "text/event-stream", "out of cards"),
        (b'event: error\ndata: {"detail": "out of cards"}\n\n', "text/event-stream", "out of cards"),
        (b"data: half of {\n\n", "text/event-stream", "half of {"),
        (b'{"half": ', "application/json", '{"half":'),
        (b"data: " + b"[" * 100_000 + b"\n\n", "text/event-stream", "not JSON"),
    ],
)
async def test_words_in_place_of_a_stream(stream: bytes, content_type: str, words: str) -> None:
    error = await error_of(documents(stream, content_type, size=1000))
    assert type(error) is UpstreamError
    assert words in error.message
    assert content_type in error.message


async def test_a_response_that_stays_open_after_done_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handler_host.plugin.sse.END_TIMEOUT_S", 0.02)

    async def parts() -> AsyncIterator[bytes]:
        yield b"data: {}\n\ndata: [DONE]\n\n"
        await asyncio.Event().wait()

    async with asyncio.timeout(10):
        assert [document async for document in read_documents(parts())] == [{}]


@pytest.mark.parametrize(
    "make", [lambda n: b"{\n" * n, lambda n: b'{"a": "' + b"x\n" * n, lambda n: b"[" + b"1,\n" * n]
)
async def test_time_for_json_is_linear(make: Callable[[int], bytes]) -> None:
    async def seconds(count: int) -> float:
        start = time.process_time()
        await error_of(documents(make(count), size=2))
        return time.process_time() - start

    small = min([await seconds(2_000) for _ in range(3)])
    assert await seconds(20_000) < 40 * small + 0.1
