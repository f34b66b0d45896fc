"""Odd frames, errors and texts of a provider, through each handler that reads a provider's stream."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from handler_host.chat import ChatResponse, accumulate
from handler_host.plugin import UpstreamBadRequest, UpstreamError, UpstreamRateLimited, UpstreamUnreachable
from handler_host.testing import Raw, Upstream, WorkerUnderTest, worker_under_test
from tests.integration.plugins.bodies import HI

SECRETS = {"OPENAI_API_KEY": "sk-a-key", "ANTHROPIC_API_KEY": "sk-a-key", "GEMINI_API_KEY": "a-key"}
GOOGLE_GENAI = "gpt_c with google-genai"
HANDLERS = ("gpt_a", "gpt_b", "gpt_c", GOOGLE_GENAI, "gpt_d")
"""All but gpt_e, whose model runs in its worker: it reads no stream of a provider."""


def openai_chunks(first: str, second: str) -> list[dict[str, Any]]:
    deltas = [{"content": first}, {"content": second}, {}]
    return [{"choices": [{"index": 0, "delta": delta, "finish_reason": None if delta else "stop"}]} for delta in deltas]


def anthropic_events(first: str, second: str) -> list[dict[str, Any]]:
    texts = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
        for text in (first, second)
    ]
    return [
        {"type": "message_start", "message": {"model": "m"}},
        *texts,
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        {"type": "message_stop"},
    ]


def gemini_chunks(first: str, second: str) -> list[dict[str, Any]]:
    contents = [{"candidates": [{"content": {"parts": [{"text": text}]}}]} for text in (first, second)]
    return [*contents, {"candidates": [{"finishReason": "STOP"}]}]


DOCUMENTS = {
    "gpt_a": openai_chunks,
    "gpt_b": anthropic_events,
    "gpt_c": gemini_chunks,
    GOOGLE_GENAI: gemini_chunks,
    "gpt_d": openai_chunks,
}

FRAMES = {
    "CR LF": lambda data: "".join(f"data: {line}\r\n\r\n" for line in data),
    "CR": lambda data: "".join(f"data: {line}\r\r" for line in data),
    "no space": lambda data: "".join(f"data:{line}\n\n" for line in data),
    "a byte order mark": lambda data: "\ufeff" + "".join(f"data: {line}\n\n" for line in data),
    "comments and pings": lambda data: ": hello\n\nretry: 3000\n\nevent: ping\ndata: {}\n\n"
    + "".join(f"id: 1\ndata: {line}\n\n:\n\ndata:\n\n" for line in data),
    "many lines": lambda data: "".join(
        "data: " + line.replace(": ", ":\ndata: ", 1) + "\n\n" for line in data
    ),
    "no last end of line": lambda data: "".join(f"data: {line}\n\n" for line in data).rstrip(),
    "[DONE]": lambda data: "".join(f"data: {line}\n\n" for line in data) + "data: [DONE]\n\n",
    "JSON lines": lambda data: "".join(f"{line}\n" for line in data),
}  # fmt: skip


@pytest.fixture(scope="module")
def provider() -> Iterator[Upstream]:
    with Upstream().run() as upstream:
        yield upstream


@pytest.fixture(scope="module", params=HANDLERS)
def worker(request: pytest.FixtureRequest, provider: Upstream) -> Iterator[tuple[str, WorkerUnderTest]]:
    name = request.param
    base = provider.base_url("openai") if name in ("gpt_a", "gpt_d") else provider.url
    settings: dict[str, Any] = {"api_base": {"openai": base}} if name == "gpt_d" else {"base_url": base}
    if name == GOOGLE_GENAI:
        settings["sdk"] = "google-genai"
    with worker_under_test(name[:5], {**settings, "retries": 0}, secrets=SECRETS) as running:
        yield name, running


def response_to(worker: WorkerUnderTest, provider: Upstream, *parts: bytes) -> ChatResponse:
    provider.respond_with(Raw(parts))
    return accumulate(worker.chat_chunks("Hi"))


@pytest.mark.parametrize("frame", FRAMES)
def test_frames(worker: tuple[str, WorkerUnderTest], provider: Upstream, frame: str) -> None:
    name, running = worker
    lines = [json.dumps(document, ensure_ascii=False) for document in DOCUMENTS[name]("Grüße ", "🦊\u2028")]
    response = response_to(running, provider, FRAMES[frame](lines).encode())
    assert (response.text, response.finish_reason, response.usage) == ("Grüße 🦊\u2028", "stop", None)


def test_choices_of_a_stream_are_kept_apart(worker: tuple[str, WorkerUnderTest], provider: Upstream) -> None:
    name, running = worker
    if name != "gpt_a":
        pytest.skip("gpt_c and gpt_d have tests of their own, and Anthropic has one response only")
    parts = [
        {"index": index, "delta": {"content": text}, "finish_reason": "stop" if text == "!" else None}
        for index, text in ((1, "b"), (0, "a"), (0, "!"), (1, "!"))
    ]
    events = [f"data: {json.dumps({'choices': [part]})}\n\n".encode() for part in parts]
    provider.respond_with(Raw(tuple(events)))
    response = accumulate(running.chat_chunks("Hi", n=2))
    assert [choice.text for choice in response.choices] == ["a!", "b!"]
    assert provider.last_request.body["n"] == 2


def test_an_event_stream_in_place_of_a_plain_response(worker: tuple[str, WorkerUnderTest], provider: Upstream) -> None:
    name, running = worker
    if name.startswith("gpt_c"):
        pytest.skip("Google's whole responses are another method's")
    lines = [json.dumps(document) for document in DOCUMENTS[name]("Hel", "lo")]
    provider.respond_with(Raw((FRAMES["[DONE]"](lines).encode(),)))
    for _ in range(2):
        assert running.chat("Hi").text == "Hello"


@pytest.mark.parametrize("name", ["gpt_a", "gpt_b", "gpt_c", "gpt_d"])
def test_a_body_whose_chunks_break_is_an_error_at_once(name: str) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_serve, args=(server, head + b"1\r\n{\r\nno size\r\n"), daemon=True).start()
        base = f"http://127.0.0.1:{server.getsockname()[1]}{'/v1' if name in ('gpt_a', 'gpt_d') else ''}"
        settings: dict[str, Any] = {"api_base": {"openai": base}} if name == "gpt_d" else {"base_url": base}
        with worker_under_test(name, {**settings, "retries": 0}, secrets=SECRETS) as running:
            assert isinstance(running.error_of("chat", HI), UpstreamUnreachable)
            with pytest.raises(UpstreamUnreachable):
                list(running.chat_chunks("Hi"))


def _serve(server: socket.socket, response: bytes) -> None:
    """Send the response to each request, and keep its connection open, until the listener is closed."""
    connections = []
    with suppress(OSError):
        while True:
            connections.append(server.accept()[0])
            connections[-1].recv(65536)
            connections[-1].sendall(response)


def test_frames_in_single_bytes(worker: tuple[str, WorkerUnderTest], provider: Upstream) -> None:
    name, running = worker
    lines = [json.dumps(document, ensure_ascii=False) for document in DOCUMENTS[name]("ü", "🦊")]
    stream = FRAMES["CR LF"](lines).encode()
    response = response_to(running, provider, *(stream[place : place + 1] for place in range(len(stream))))
    assert response.text == "ü🦊"


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        ("a\ud83d", "\ude00b", "a😀b"),
        ("a\ud83d", "b", "a\ufffdb"),
        ("a", "\ude00", "a\ufffd"),
        ("a", "b\ud83d", "ab\ufffd"),
    ],
    ids=["meet", "first", "second", "last"],
)
def test_halves_of_surrogate_pairs(
    worker: tuple[str, WorkerUnderTest], provider: Upstream, first: str, second: str, text: str
) -> None:
    name, running = worker
    lines = [json.dumps(document) for document in DOCUMENTS[name](first, second)]
    assert response_to(running, provider, FRAMES["CR LF"](lines).encode()).text == text


def test_invalid_utf8(worker: tuple[str, WorkerUnderTest], provider: Upstream) -> None:
    name, running = worker
    lines = [json.dumps(document, ensure_ascii=False) for document in DOCUMENTS[name]("a?b", "c")]
    stream = FRAMES["CR LF"](lines).encode().replace(b"?", b"\xff")
    assert response_to(running, provider, stream).text == "a\ufffdbc"


@pytest.mark.parametrize(
    "body",
    [b'{"error": "out of cards"}', b'{"detail": "out of cards"}', b'{"message": "out of cards"}',
     b'{"error": {"message": "out of cards"}}', b"<html><title>out of cards</title></html>",
     b'{"error": true, "message": "out of cards"}', b'{"error_msg": "out of cards"}',
     b'{"base_resp": {"status_code": 1008, "status_msg": "out of cards"}}'],
    ids=["error", "detail", "message", "object", "page", "flag", "error_msg", "base_resp"],
)  # fmt: skip
@pytest.mark.parametrize("status", [200, 400, 500])
def test_words_of_errors(worker: tuple[str, WorkerUnderTest], provider: Upstream, body: bytes, status: int) -> None:
    _, running = worker
    content_type = "text/html" if body.startswith(b"<") else "application/json"
    provider.respond_with(Raw((body,), status=status, content_type=content_type))
    with pytest.raises(UpstreamError) as caught:
        list(running.chat_chunks("Hi"))
    assert "out of cards" in caught.value.message
    assert content_type in caught.value.message
    assert str(status) in caught.value.message
    assert isinstance(caught.value, UpstreamBadRequest) == (status == 400)


def test_a_header_that_is_not_ascii(worker: tuple[str, WorkerUnderTest], provider: Upstream) -> None:
    body = b'{"error": {"message": "too much"}}'
    provider.respond_with(Raw((body,), 429, "application/json", headers={"Retry-After": "²", "X-Place": "Köln"}))
    assert isinstance(worker[1].error_of("chat", HI), UpstreamRateLimited)


def test_words_of_an_unknown_shape(worker: tuple[str, WorkerUnderTest], provider: Upstream) -> None:
    _, running = worker
    provider.respond_with(Raw((b'{"oops": "out of cards"}',), content_type="application/json"))
    with pytest.raises(UpstreamError, match="out of cards"):
        list(running.chat_chunks("Hi"))


def test_a_long_error(worker: tuple[str, WorkerUnderTest], provider: Upstream) -> None:
    _, running = worker
    body = json.dumps({"error": {"message": "out of cards " + "x" * 2_000_000}}).encode()
    provider.respond_with(Raw((body,), status=400, content_type="application/json"))
    with pytest.raises(UpstreamBadRequest, match=r"out of cards x{10,600}…$"):
        list(running.chat_chunks("Hi"))
