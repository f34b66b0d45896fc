"""Real handlers between a client and a provider: both get the bytes that they would get without the host."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from handler_host.testing import HostUnderTest, host_under_test
from tests.integration.native.provider import Provider, Script, post
from tests.recorded_requests import RECORDED_REQUESTS

pytestmark = pytest.mark.sdks

"""Requests of Claude Code, Codex, Gemini CLI, opencode, pi and cline, with their texts replaced."""
EVENTS = {"content-type": "text/event-stream; charset=utf-8"}
JSON = {"content-type": "application/json; charset=utf-8"}
KEYS = {
    "OPENAI_API_KEY": "key-a",
    "ANTHROPIC_API_KEY": "key-b",
    "GEMINI_API_KEY": "key-c",
    "MISTRAL_API_KEY": "key-d",
}
FEATURES = ("anthropic-beta", "anthropic-version", "openai-beta")


class Pair(NamedTuple):
    """A protocol of a handler: a whole response, a stream, and where the model's name is in them."""

    path: str
    handler: str
    """The handler, and what else is before the provider's name of a model."""
    body: dict[str, Any]
    whole: bytes
    stream: tuple[bytes, ...]
    stream_path: str | None = None


PAIRS = {
    "openai.chat": Pair(
        "/v1/chat/completions",
        "gpt_a",
        {"model": "gpt_a/m-1", "messages": [], "new_field": {"model": "gpt_a/m-1"}},
        b'{"id": "c", "model":"m-1", "choices": [{"new": [1.0, 1e3]}], "usage": {"prompt_tokens": 3}}\n',
        (
            b'data: {"id":"c","model":"m-1","choices":[{"delta":{"content":"\\u2600"}}]}\n\nda',
            b'ta: {"id":"c","model":"m-1","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\n',
            b": ping\n\ndata: [DONE]\n\n",
        ),
    ),
    "openai.responses": Pair(
        "/v1/responses",
        "gpt_a",
        {"model": "gpt_a/m-1", "input": [{"type": "unheard_of"}], "store": False},
        b'{"output": [{"type": "reasoning", "encrypted_content": "x"}], "model": "m-1"}',
        (
            b'event: response.created\ndata: {"type":"response.created","response":{"model":"m-1","usage":null}}\n\n',
            b'event: response.completed\ndata: {"type":"response.completed","response":{"id":1, "model":"m-1",',
            b'"usage":{"input_tokens":3,"output_tokens":1}}}\n\n',
        ),
    ),
    "openai.embeddings": Pair(
        "/v1/embeddings",
        "gpt_a",
        {"model": "gpt_a/m-1", "input": ["a"], "encoding_format": "base64"},
        b'{"data": [{"embedding": "AAAA"}], "model": "m-1", "usage": {"prompt_tokens": 1}}',
        (),
    ),
    "anthropic.messages": Pair(
        "/v1/messages",
        "gpt_b",
        {"model": "gpt_b/m-1", "max_tokens": 1, "messages": [], "thinking": {"type": "adaptive"}},
        b'{"type":"message","model":"m-1","content":[{"type":"thinking","signature":"x"}],"usage":{"input_tokens":3}}',
        (
            b'event: message_start\ndata: {"type":"message_start","message":{"model":"m-1",',
            b'"usage":{"input_tokens":3}}}\n\n',
            b'event: ping\ndata: {"type":"ping"}\n\n',
            b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":1}}\n\n',
            b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
        ),
    ),
    "anthropic.count_tokens": Pair(
        "/v1/messages/count_tokens", "gpt_b", {"model": "gpt_b/m-1", "messages": []}, b'{"input_tokens": 3}', ()
    ),
    "gemini.generate_content": Pair(
        "/v1beta/models/gpt_c/m-1:generateContent",
        "gpt_c",
        {"contents": [], "generationConfig": {"topK": 3}},
        b'{"candidates": [{"new": 1}], "modelVersion" : "m-1", "usageMetadata": {"promptTokenCount": 3}}',
        (
            b'data: {"candidates": [],"modelVersion": "m-1"}\r\n\r\n',
            b'data: {"candidates": [],"modelVersion": "m-1","usageMetadata": {"promptTokenCount": 3}}\r\n\r\n',
            b'data: {"candidates": [{"finishReason": "STOP"}]}\r\n\r\n',
        ),
        "/v1beta/models/gpt_c/m-1:streamGenerateContent?alt=sse",
    ),
    "gemini.count_tokens": Pair(
        "/v1beta/models/gpt_c/m-1:countTokens",
        "gpt_c",
        {"generateContentRequest": {"contents": [], "model": "models/gpt_c/m-1"}},
        b'{"totalTokens": 3}',
        (),
    ),
    "gemini.embed_content": Pair(
        "/v1beta/models/gpt_c/m-1:batchEmbedContents",
        "gpt_c",
        {"requests": [{"model": "models/gpt_c/m-1", "content": {}}, {"content": {}, "model": "models/gpt_c/m-1"}]},
        b'{"embeddings": [{"values": [0.1]}]}',
        (),
    ),
}


def of_gpt_d(operation: str, provider: str) -> Pair:
    """Return the same protocol of LiteLLM's handler, for a provider that speaks it."""
    pair = PAIRS[operation]
    handler = f"gpt_d/{provider}"
    return pair._replace(handler=handler, body=json.loads(json.dumps(pair.body).replace(pair.handler, handler)))


PAIRS |= {
    "gpt_d openai.chat": of_gpt_d("openai.chat", "openai"),
    "gpt_d openai.responses": of_gpt_d("openai.responses", "openai"),
    "gpt_d openai.embeddings": of_gpt_d("openai.embeddings", "openai"),
    "gpt_d anthropic.messages": of_gpt_d("anthropic.messages", "anthropic"),
    "gpt_d mistral openai.chat": of_gpt_d("openai.chat", "mistral"),
}
STREAMS = [name for name, pair in PAIRS.items() if pair.stream]


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[HostUnderTest, Provider]]:
    with Provider().run() as provider:
        config = "".join(
            f'[handlers.{name}]\nbase_url = "{provider.url}{path}"\nretries = 0\n'
            for name, path in (("gpt_a", "/v1"), ("gpt_b", ""), ("gpt_c", ""))
        )
        v1 = f"{provider.url}/v1"
        config += '[handlers.openai]\nplugin = "gpt_a"\nbase_url = "http://api.openai.com/v1"\nretries = 0\n'
        config += (
            f'[handlers.gpt_d]\nretries = 0\n[handlers.gpt_d.api_base]\nopenai = "{v1}"\nmistral = "{v1}"\n'
            f'anthropic = "{provider.url}"\ngemini = "{provider.url}/v1beta"\n'
            '[[handlers.gpt_d.deployments]]\nname = "team"\nmodel = "openai/m-2"\n'
        )
        proxy = {"HTTP_PROXY": provider.url, "NO_PROXY": "127.0.0.1"}  # OpenAI's name resolves nowhere
        with host_under_test(config, environ={**KEYS, **proxy}) as host:
            yield host, provider


@pytest.fixture
def host(running: tuple[HostUnderTest, Provider]) -> HostUnderTest:
    return running[0]


@pytest.fixture
def provider(running: tuple[HostUnderTest, Provider]) -> Provider:
    running[1].seen.clear()
    return running[1]


def both(
    host: HostUnderTest, provider: Provider, path: str, body: bytes, headers: Mapping[str, str], handler: str
) -> tuple[tuple[int, bytes], tuple[int, Mapping[str, str], bytes]]:
    """Send a request to the provider itself, and to the host; check that the provider got the same bytes."""
    own_path, own_body = path.replace(f"{handler}/", ""), body.replace(f"{handler}/".encode(), b"", 1)
    if own_path != path:  # the model is in the path, and the body may repeat it
        own_body = body.replace(f"{handler}/".encode(), b"")
    direct = post(provider.url, own_path, own_body, headers)
    through = post(host.url, path, body, {**headers, "Cookie": "c=1", "X-Own": "1"})
    assert len(provider.seen) == 2
    sent, passed = provider.seen
    assert (passed.path, passed.body) == (sent.path, sent.body)
    for name in FEATURES:
        if name in sent.headers or name != "anthropic-version":  # which the SDK adds
            assert passed.headers.get(name) == sent.headers.get(name)
    assert not {"Cookie", "X-Own", "X-Forwarded-For"} & set(passed.headers)
    return (direct[0], direct[2]), through


def restored(data: bytes, handler: str) -> bytes:
    """Return what the provider sent with the client's name of the model: in its own field, and nowhere else."""
    return re.sub(rb'("model(?:Version)?"\s*:\s*")m-1"', rb"\1%s/m-1\"" % handler.encode(), data).replace(b'\\"', b'"')


@pytest.mark.parametrize("recorded", RECORDED_REQUESTS, ids=lambda path: path.stem)
def test_a_request_of_a_real_client_reaches_the_provider(
    host: HostUnderTest, provider: Provider, recorded: Path
) -> None:
    request = json.loads(recorded.read_text())
    body = json.dumps(request["body"], ensure_ascii=False, indent=1).encode()
    ends = b'data: {"type":"message_stop"}\n\ndata: {"finishReason":"STOP"}\n\ndata: [DONE]\n\n'
    provider.script = Script((b"data: {}\n\n", ends), headers=EVENTS)
    (handler,) = re.findall("gpt_[abc]", request["path"] + str(request["body"].get("model")))
    direct, through = both(host, provider, request["path"], body, request["headers"], handler)
    assert (through[0], through[2]) == direct


@pytest.mark.parametrize("operation", PAIRS)
def test_a_whole_response_comes_back(host: HostUnderTest, provider: Provider, operation: str) -> None:
    pair = PAIRS[operation]
    provider.script = Script((pair.whole[:9], pair.whole[9:]), headers={**JSON, "request-id": "req_1", "x-own": "1"})
    body = json.dumps(pair.body).encode()
    direct, (status, headers, data) = both(host, provider, pair.path, body, {}, pair.handler)
    assert direct == (200, pair.whole)
    assert (status, data) == (200, restored(pair.whole, pair.handler))
    assert (headers["content-type"], headers["x-provider-request-id"]) == (JSON["content-type"], "req_1")
    assert "x-own" not in headers


@pytest.mark.parametrize("operation", STREAMS)
def test_a_stream_comes_back(host: HostUnderTest, provider: Provider, operation: str) -> None:
    pair = PAIRS[operation]
    provider.script = Script(pair.stream, headers=EVENTS, pause_s=0.01)
    streamed = {} if pair.stream_path else {"stream": True}
    body = json.dumps({**pair.body, **streamed}).encode()
    direct, (status, headers, data) = both(host, provider, pair.stream_path or pair.path, body, {}, pair.handler)
    assert direct == (200, b"".join(pair.stream))
    assert (status, data) == (200, restored(b"".join(pair.stream), pair.handler))
    assert headers["content-type"] == EVENTS["content-type"]


@pytest.mark.parametrize("operation", STREAMS)
def test_stream_cut_off_between_events_ends_with_an_error(
    host: HostUnderTest, provider: Provider, operation: str
) -> None:
    pair = PAIRS[operation]
    events = b"".join(pair.stream).replace(b"\r\n", b"\n").removesuffix(b"\n\n").split(b"\n\n")
    received = b"".join(event + b"\n\n" for event in events[:-1])
    provider.script = Script((received,), headers=EVENTS)
    body = {**pair.body, **({} if pair.stream_path else {"stream": True})}
    status, _, data = post(host.url, pair.stream_path or pair.path, json.dumps(body).encode(), {})
    assert status == 200
    assert data.startswith(restored(received, pair.handler))
    error = data.removeprefix(restored(received, pair.handler)).removesuffix(b"\n\n")
    assert b"was cut off" in error
    assert '"error"' in error.decode().rpartition("data: ")[2]


@pytest.mark.parametrize("operation", PAIRS)
def test_whole_response_that_is_cut_off_is_an_error(host: HostUnderTest, provider: Provider, operation: str) -> None:
    pair = PAIRS[operation]
    provider.script = Script((pair.whole[:9],), headers=JSON)
    status, _, data = post(host.url, pair.path, json.dumps(pair.body).encode(), {})
    assert (status, "the provider's response was cut off after 9 bytes" in data.decode()) == (502, True)


def test_a_gemini_stream_without_events_comes_back(host: HostUnderTest, provider: Provider) -> None:
    parts = (b'[{"candidates": []', b'}\n,\r\n{"modelVersion": "m-2"}\n]')
    provider.script = Script(parts, headers=JSON)
    path = "/v1beta/models/gpt_c/m-1:streamGenerateContent"
    _, (status, headers, data) = both(host, provider, path, b'{"contents": []}', {}, "gpt_c")
    assert (status, headers["content-type"], data) == (200, JSON["content-type"], b"".join(parts))


@pytest.mark.parametrize("operation", PAIRS)
@pytest.mark.parametrize("status", [400, 404, 429, 500, 529])
def test_an_error_comes_back(host: HostUnderTest, provider: Provider, operation: str, status: int) -> None:
    pair = PAIRS[operation]
    error = b'{"error": {"message": "no", "code": "x", "type": "context_length_exceeded", "new": 1}}\n'
    provider.script = Script((error,), status, {**JSON, "retry-after": "9"})
    for path, fields in ((pair.path, {}), (pair.stream_path or pair.path, {"stream": True} if pair.stream else {})):
        provider.seen.clear()
        body = json.dumps({**pair.body, **fields} if path == pair.path and not pair.stream_path else pair.body).encode()
        direct, (got, headers, data) = both(host, provider, path, body, {}, pair.handler)
        assert (got, data) == direct == (status, error)
        assert headers["retry-after"] == "9"


@pytest.mark.parametrize(
    ("path", "parts", "content_type"),
    [
        ("/v1/chat/completions", (b"",), "text/event-stream"),
        ("/v1/chat/completions", (b"data: {}\n\n",), "text/event-stream"),
        ("/v1/chat/completions", (b"data: {}\n\ndata: {",), "text/event-stream"),
        ("/v1beta/models/gpt_c/m-1:streamGenerateContent", (b"[{}",), "application/json"),
    ],
    ids=["head", "event", "half an event", "array"],
)
def test_a_client_that_leaves_a_silent_stream_frees_its_lease(
    host: HostUnderTest, provider: Provider, path: str, parts: tuple[bytes, ...], content_type: str
) -> None:
    """Without the end of its silence: the keep-alive comes after 15 s."""
    handler = "gpt_c" if "gpt_c" in path else "gpt_a"
    provider.script = Script(parts, headers={"content-type": content_type}, stays_open=True)

    def in_flight() -> int:
        count: int = host.request("GET", f"/v1/handlers/{handler}")[1]["in_flight"]
        return count

    connection = http.client.HTTPConnection(host.url.removeprefix("http://"), timeout=60)
    body = b'{"model": "gpt_a/m-1", "messages": [], "contents": [], "stream": true}'
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert (response.status, in_flight()) == (200, 1)
    response.close()
    connection.close()
    left = time.monotonic()
    while in_flight():
        assert time.monotonic() - left < 10
        time.sleep(0.05)


PAGE = b"<html><head><title>Bad gateway</title><style>p {}</style></head><body><p>nginx</p></body></html>"


@pytest.mark.parametrize(
    ("content_type", "body", "words"),
    [
        ("text/html", PAGE, "Bad gateway"),
        ("application/json", b'{"detail": "the engine is starting"}', "the engine is starting"),
        ("text/plain", b"no healthy upstream", "no healthy upstream"),
        ("text/plain", b"", "no words in the response"),
    ],
)
@pytest.mark.parametrize("operation", ["openai.chat", "anthropic.messages", "gemini.generate_content"])
def test_the_words_of_an_error_of_another_shape_are_reported(
    host: HostUnderTest, provider: Provider, operation: str, content_type: str, body: bytes, words: str
) -> None:
    pair = PAIRS[operation]
    provider.script = Script((body,), 503, {"content-type": content_type})
    streamed = {} if pair.stream_path else {"stream": True}
    calls: tuple[tuple[str, dict[str, Any]], ...] = ((pair.path, {}), (pair.stream_path or pair.path, streamed))
    for path, fields in calls:
        status, headers, data = post(host.url, path, json.dumps({**pair.body, **fields}).encode(), {})
        assert (status, headers["content-type"].partition(";")[0]) == (503, "application/json")
        assert json.loads(data)["error"]["message"].endswith(
            f"the provider is overloaded (503, {content_type}): {words}"
        )


@pytest.mark.parametrize(
    ("content_type", "body", "words"),
    [
        ("text/html", PAGE, "Bad gateway"),
        ("text/event-stream", PAGE, "Bad gateway"),
        ("text/plain", b"no healthy upstream", "no healthy upstream"),
        ("application/json", b"", "the provider's response is empty (200, application/json)"),
    ],
)
@pytest.mark.parametrize("operation", ["openai.chat", "anthropic.messages", "gemini.generate_content"])
def test_a_success_without_a_response_is_an_error(
    host: HostUnderTest, provider: Provider, operation: str, content_type: str, body: bytes, words: str
) -> None:
    pair = PAIRS[operation]
    provider.script = Script((body,), headers={"content-type": content_type})
    status, _, data = post(host.url, pair.path, json.dumps(pair.body).encode(), {})
    if content_type != "text/event-stream":  # whose status may be sent before the first byte
        assert status == 502
    assert words in data.decode()
    assert b"<title>" not in data


@pytest.mark.parametrize("content_type", ["text/plain", "application/octet-stream"])
def test_an_event_stream_of_another_content_type_is_passed_on(
    host: HostUnderTest, provider: Provider, content_type: str
) -> None:
    pair = PAIRS["openai.chat"]
    provider.script = Script(pair.stream, headers={"content-type": content_type})
    status, _, data = post(host.url, pair.path, json.dumps({**pair.body, "stream": True}).encode(), {})
    assert status == 200
    assert b"[DONE]" in data


@pytest.mark.parametrize("operation", PAIRS)
def test_the_handlers_key_is_sent_and_its_refusal_is_the_hosts(
    host: HostUnderTest, provider: Provider, operation: str
) -> None:
    pair = PAIRS[operation]
    provider.script = Script((b'{"error": {"message": "key-a is wrong"}}',), 401, JSON)
    status, _, data = post(host.url, pair.path, json.dumps(pair.body).encode(), {"x-goog-api-key": "client"})
    assert status == 502
    assert b"key-a" not in data
    (seen,) = provider.seen
    keys = [seen.headers.get(name) for name in ("Authorization", "x-api-key", "x-goog-api-key")]
    expected = {
        "gpt_a": "Bearer key-a",
        "gpt_b": "Bearer key-b",
        "gpt_c": "key-c",
        "gpt_d/openai": "Bearer key-a",
        "gpt_d/anthropic": "key-b",
        "gpt_d/mistral": "Bearer key-d",
    }
    assert [key for key in keys if key] == [expected[pair.handler]]


OPENAI_END = b'data: {"choices": [{"delta": {"content": "Hi"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
ANTHROPIC_START = (
    b'event: message_start\ndata: {"type": "message_start", "message": {"usage": {"input_tokens": 1}}}\n\n'
)
ANTHROPIC_END = (
    b"event: content_block_start\n"
    b'data: {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}\n\n'
    b'event: content_block_delta\ndata: {"type": "content_block_delta", "index": 0,'
    b' "delta": {"type": "text_delta", "text": "Hi"}}\n\n'
    b'event: content_block_stop\ndata: {"type": "content_block_stop", "index": 0}\n\n'
    b'event: message_delta\ndata: {"type": "message_delta", "delta": {"stop_reason": "end_turn"},'
    b' "usage": {"output_tokens": 1}}\n\nevent: message_stop\ndata: {"type": "message_stop"}\n\n'
)
GEMINI_START = b'data: {"candidates": [{"content": '
GEMINI_END = b'{"role": "model", "parts": [{"text": "Hi"}]}, "finishReason": "STOP"}]}\n\n'
COMMENT = b": thinking\n\n"
PING = b'event: ping\ndata: {"type": "ping"}\n\n'
SLOW_STREAMS = {
    "gpt_a": (*[COMMENT] * 6, OPENAI_END),
    "gpt_b": (*[PING] * 6, ANTHROPIC_START + ANTHROPIC_END),
    "gpt_c": (*[COMMENT] * 6, GEMINI_START + GEMINI_END),
    "gpt_d/openai": (*[COMMENT] * 6, OPENAI_END),
    "gpt_d/anthropic": (*[COMMENT] * 4, ANTHROPIC_START, *[PING] * 4, ANTHROPIC_END),
    "gpt_d/gemini": (*[COMMENT] * 4, GEMINI_START, *[b" "] * 4, GEMINI_END),
}
"""Chunks of streams that send no text for longer than their handler's timeouts, but bytes all the time."""


V1 = ("gpt_a", "gpt_d/openai")
"""Handlers whose provider's address ends with `/v1`."""


def test_each_byte_restarts_the_timeouts_of_a_translated_stream() -> None:
    """A model that thinks for longer than the timeout is not cut off while its provider sends something."""
    limits = "first_byte_timeout = 2\ngap_timeout = 2\ntimeout = 2.0\nnative = false\nretries = 0\n"

    def ask(url: str, handler: str, *, stream: bool) -> bytes:
        body = {"model": f"{handler}/m-1", "stream": stream, "messages": [{"role": "user", "content": "Hi"}]}
        return post(url, "/v1/chat/completions", json.dumps(body).encode(), {})[2]

    with ExitStack() as stack:
        providers = {handler: stack.enter_context(Provider().run()) for handler in SLOW_STREAMS}
        urls = {
            handler: provider.url + ("/v1beta" if "gemini" in handler else "/v1" if handler in V1 else "")
            for handler, provider in providers.items()
        }
        config = "".join(
            f'[handlers.{name}]\nbase_url = "{urls[name]}"\n{limits}' for name in ("gpt_a", "gpt_b", "gpt_c")
        )
        config += f"[handlers.gpt_d]\n{limits}[handlers.gpt_d.api_base]\n"
        config += "".join(f'{name} = "{urls[f"gpt_d/{name}"]}"\n' for name in ("openai", "anthropic", "gemini"))
        host = stack.enter_context(host_under_test(config, environ=KEYS))
        for name in ("gpt_a", "gpt_b", "gpt_c", "gpt_d"):
            host.admin_request("POST", f"/handlers/{name}/load")
        for handler in SLOW_STREAMS:
            ask(host.url, handler, stream=False)  # the first call loads what the SDK imports late, which may take long
        for handler, chunks in SLOW_STREAMS.items():
            providers[handler].script = Script(chunks, headers=EVENTS, pause_s=0.5)
        with ThreadPoolExecutor() as pool:
            streams = dict(zip(SLOW_STREAMS, pool.map(partial(ask, host.url, stream=True), SLOW_STREAMS), strict=True))
    assert {
        handler: data[-300:]
        for handler, data in streams.items()
        if b'"Hi"' not in data or not data.endswith(b"data: [DONE]\n\n")
    } == {}


@pytest.mark.parametrize("handler", ["gpt_a", "gpt_d/openai"])
def test_a_server_without_the_responses_api_gets_a_chat(host: HostUnderTest, provider: Provider, handler: str) -> None:
    provider.script = Script((b'{"detail": "Not Found"}',), 404, JSON)
    body = json.dumps({"model": f"{handler}/m-1", "input": "Hi"}).encode()
    post(host.url, "/v1/responses", body, {})
    post(host.url, "/v1/responses", body, {})
    paths = [seen.path for seen in provider.seen]
    assert paths == ["/v1/responses", "/v1/chat/completions", "/v1/chat/completions"]


REFUSAL = "Function tools with reasoning_effort are not supported for m-1 in /v1/chat/completions. Use /v1/responses."


@pytest.mark.parametrize(
    ("model", "second_path"),
    [
        ("openai/gpt-5.5", "/v1/responses"),
        ("gpt_a/gpt-5.5", "/v1/chat/completions"),
        ("gpt_d/openai/gpt-5.5", "/v1/chat/completions"),
    ],
)
def test_a_chat_that_openai_takes_in_its_responses_only_is_translated(
    host: HostUnderTest, provider: Provider, model: str, second_path: str
) -> None:
    """A server that is not OpenAI's refuses the translated chat, too, and its words reach the client."""
    error = {"message": REFUSAL, "type": "invalid_request_error", "param": "reasoning_effort", "code": None}
    provider.script = Script((json.dumps({"error": error}).encode(),), 400, JSON)
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "tools": [tool]}
    status, _, data = post(
        host.url, "/v1/chat/completions", json.dumps(body | {"reasoning_effort": "high"}).encode(), {}
    )
    assert [seen.path for seen in provider.seen] == ["/v1/chat/completions", second_path]
    sent = json.loads(provider.seen[1].body)
    assert sent.get("reasoning_effort", sent.get("reasoning", {}).get("effort")) == "high"
    assert (status, REFUSAL in json.loads(data)["error"]["message"]) == (400, True)


def test_litellm_translates_a_chat_for_another_protocol(host: HostUnderTest, provider: Provider) -> None:
    content = {
        "candidates": [{"content": {"role": "model", "parts": [{"text": "Hi!"}]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2},
    }
    provider.script = Script((json.dumps(content).encode(),), headers=JSON)
    body = {"model": "gpt_d/gemini/m-1", "messages": [{"role": "user", "content": "Hi"}]}
    status, _, data = post(host.url, "/v1/chat/completions", json.dumps(body).encode(), {})
    (seen,) = provider.seen
    assert (status, seen.path) == (200, "/v1beta/models/m-1:generateContent")
    assert json.loads(data)["choices"][0]["message"]["content"] == "Hi!"


@pytest.mark.parametrize("handler", ["gpt_a", "gpt_c", "gpt_d/openai", "gpt_d/gemini"])
def test_embeddings_reach_a_provider_with_another_protocol(
    host: HostUnderTest, provider: Provider, handler: str
) -> None:
    content = {
        "embeddings": [{"values": [0.5, 1.0]}],
        "data": [{"index": 0, "embedding": [0.5, 1.0]}],
        "model": "m-1",
        "usage": {"prompt_tokens": 3},
    }
    provider.script = Script((json.dumps(content).encode(),), headers=JSON)
    status, _, data = post(
        host.url, "/api/embed", json.dumps({"model": f"{handler}/m-1", "input": "Hi", "dimensions": 2}).encode(), {}
    )
    assert (status, json.loads(data)["embeddings"]) == (200, [[0.5, 1.0]])
    (seen,) = provider.seen
    if handler in ("gpt_c", "gpt_d/gemini"):
        assert seen.path.startswith("/v1beta/models/m-1:batchEmbedContents")
        (request,) = json.loads(seen.body)["requests"]
        assert (request["content"]["parts"], request["outputDimensionality"]) == ([{"text": "Hi"}], 2)
    else:
        assert seen.path == "/v1/embeddings"
        body = json.loads(seen.body)
        assert (body["model"], body["input"], body["dimensions"]) == ("m-1", ["Hi"], 2)


def test_a_name_of_deployments_is_translated(host: HostUnderTest, provider: Provider) -> None:
    """LiteLLM's Router chooses the server, and leaves out one that fails."""
    content = b'{"id": "c", "model": "m-2", "choices": [{"message": {"content": "Hi!"}, "finish_reason": "stop"}]}'
    provider.script = Script((content,), headers=JSON)
    body = {"model": "gpt_d/team", "messages": [{"role": "user", "content": "Hi"}], "unheard_of": 1}
    status, headers, _ = post(host.url, "/v1/chat/completions", json.dumps(body).encode(), {})
    assert (status, json.loads(provider.seen[0].body)["model"]) == (200, "m-2")
    assert headers["x-ignored-fields"] == "unheard_of"
