"""gpt_c: the real SDKs of Google in real workers, over real HTTP, against a provider on loopback."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

import gpt_c
from gpt_c.backend import Settings
from handler_host.chat import ChatResponse, ReasoningPart, TextPart, Usage, accumulate
from handler_host.plugin import (
    ActivationFailed,
    ConfigError,
    ContentRefused,
    HostError,
    UpstreamAuth,
    UpstreamBadRequest,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRateLimited,
)
from handler_host.testing import (
    ChatConformance,
    NativeConformance,
    Raw,
    RecordedRequest,
    Reply,
    Status,
    Step,
    Upstream,
    WorkerUnderTest,
    worker_under_test,
)
from handler_host.testing.chat_conformance import IMAGE, PIXEL
from tests.integration.plugins.bodies import HI

KEY = "AIza-a-very-secret-key"
SDKS = ["google-generativeai", "google-genai"]
QUICK = {"timeout": 0.5, "plain_timeout": 0.5, "retries": 0}


class TestGoogleGenerativeAi(ChatConformance):
    """The SDK whose support has ended."""

    handler = "gpt_c"
    protocol = "gemini"
    settings = {"retries": 1}
    impatient = QUICK
    secrets = {"GEMINI_API_KEY": KEY}
    refuses = frozenset({"parallel_tool_calls"})
    ignores = frozenset({"user"})


class TestGoogleGenAi(ChatConformance):
    """Its successor."""

    handler = "gpt_c"
    protocol = "gemini"
    settings = {"retries": 1, "sdk": "google-genai"}
    impatient = QUICK
    secrets = {"GOOGLE_API_KEY": KEY}
    refuses = frozenset({"parallel_tool_calls"})
    ignores = frozenset({"user"})


class TestNative(NativeConformance):
    handler = "gpt_c"
    operations = ("gemini.generate_content", "gemini.count_tokens", "gemini.embed_content")
    settings = {"retries": 0}
    secrets = {"GEMINI_API_KEY": KEY}


@pytest.fixture(scope="module")
def provider() -> Iterator[Upstream]:
    with Upstream().run() as running:
        yield running


@pytest.fixture(scope="module", params=SDKS)
def worker(request: pytest.FixtureRequest, provider: Upstream) -> Iterator[WorkerUnderTest]:
    settings = {"sdk": request.param, "base_url": provider.url, "retries": 0, "headers": {"X-Team": "blue"}}
    with worker_under_test("gpt_c", settings, secrets={"GEMINI_API_KEY": KEY}) as running:
        yield running


@pytest.fixture(autouse=True)
def _reset(provider: Upstream) -> None:
    provider.reset()


def streamed(*responses: Any) -> Step:
    """Return a stream of answers as Google sends them, and all of them in one to a client that asks for no stream."""

    def step(received: RecordedRequest) -> Raw:
        if received.parsed.streamed:
            return Raw(tuple(f"data: {json.dumps(response)}\r\n\r\n".encode() for response in responses))
        whole = responses[-1]
        for response in reversed(responses[:-1]):
            parts = response["candidates"][0]["content"]["parts"]
            (candidate,) = whole["candidates"]
            content = {"role": "model", "parts": [*parts, *candidate["content"]["parts"]]}
            whole = {**whole, "candidates": [{**candidate, "content": content}]}
        return Raw((json.dumps(whole).encode(),), content_type="application/json")

    return step


def both(worker: WorkerUnderTest) -> list[ChatResponse]:
    """Return the response of a plain call, and the accumulated one of a stream."""
    return [worker.chat("Hi"), accumulate(worker.chat_chunks("Hi"))]


def both_errors(worker: WorkerUnderTest) -> list[HostError]:
    """Return the error of a plain call, and that of a stream."""
    with pytest.raises(HostError) as caught:
        list(worker.dispatch_stream("chat", HI))
    return [worker.error_of("chat", HI), caught.value]


def refused(code: int, message: str, *details: dict[str, Any]) -> Raw:
    """Return an error as Google sends it, which is without ``Retry-After``."""
    content = {"code": code, "message": message, "status": "X", "details": list(details)}
    return Raw((json.dumps({"error": content}).encode(),), code, "application/json")


def said(*parts: Any, **candidate: Any) -> dict[str, Any]:
    """Return an answer with one candidate."""
    return {"candidates": [{"content": {"parts": list(parts), "role": "model"}, **candidate}]}


def test_several_responses(worker: WorkerUnderTest, provider: Upstream) -> None:
    responses = [said({"text": text}, index=index, finishReason="STOP") for index, text in enumerate("ab")]
    candidates = [candidate for response in responses for candidate in response["candidates"]]
    provider.respond_with(streamed({"candidates": candidates}))
    for response in (worker.chat("Hi", n=2), accumulate(worker.chat_chunks("Hi", n=2))):
        assert [(choice.text, choice.finish_reason) for choice in response.choices] == [("a", "stop"), ("b", "stop")]
    assert [sent.body["generationConfig"]["candidateCount"] for sent in provider.requests] == [2, 2]


def test_a_request_reaches_the_provider_whole(worker: WorkerUnderTest, provider: Upstream) -> None:
    parameters = {
        "type": "object",
        "properties": {"at": {"type": "string", "description": "Where."}, "n": {"type": "integer"}},
        "required": ["at"],
    }
    worker.chat(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "What is this?"}, IMAGE]},
            {
                "role": "assistant",
                "content": "I look.",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "x", "n": 1}'}},
                    {"id": "c2", "type": "function", "function": {"name": "look", "arguments": ""}},
                ],
            },
            {"role": "tool", "content": '{"seen": 1}', "tool_call_id": "c1"},
            {"role": "tool", "content": "a cat", "tool_call_id": "c2"},
        ],
        model="gemini-3-pro",
        temperature=0.5,
        top_p=0.25,
        max_tokens=10,
        stop=["x"],
        tools=[{"type": "function", "function": {"name": "look", "description": "Look.", "parameters": parameters}}],
        tool_choice={"type": "function", "function": {"name": "look"}},
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "s", "schema": {"type": "object", "properties": {"a": {"type": "boolean"}}}},
        },
        presence_penalty=0.5,
        frequency_penalty=0.25,
    )
    received = provider.last_request
    sent = json.dumps(received.body)
    for spelt, name in (("mime_type", "mimeType"), ("parameters_json_schema", "parametersJsonSchema")):
        sent = sent.replace(spelt, name)  # google-genai spells these so, and Google takes both
    body = json.loads(sent)
    config, (declared,) = body["generationConfig"], body["tools"][0]["functionDeclarations"]
    if "responseSchema" in config:
        assert config.pop("responseSchema") == {"type": "OBJECT", "properties": {"a": {"type": "BOOLEAN"}}}
        assert declared.pop("parameters") == {
            "type": "OBJECT",
            "properties": {"at": {"type": "STRING", "description": "Where."}, "n": {"type": "INTEGER"}},
            "required": ["at"],
        }
    else:
        assert config.pop("responseJsonSchema") == {"type": "object", "properties": {"a": {"type": "boolean"}}}
        assert declared.pop("parametersJsonSchema") == parameters
    signature = body["contents"][1]["parts"][1].pop("thoughtSignature")
    assert signature == "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I="
    assert body["systemInstruction"].pop("role", "user") == "user"
    image = body["contents"][0]["parts"][1]["inlineData"]
    image["data"] = image["data"].replace("-", "+").replace("_", "/")  # base64's other alphabet, which Google takes too
    assert body == {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [
            {
                "role": "user",
                "parts": [{"text": "What is this?"}, {"inlineData": {"mimeType": "image/png", "data": PIXEL}}],
            },
            {
                "role": "model",
                "parts": [
                    {"text": "I look."},
                    {"functionCall": {"id": "c1", "name": "look", "args": {"at": "x", "n": 1}}},
                    {"functionCall": {"id": "c2", "name": "look", "args": {}}},
                ],
            },
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"id": "c1", "name": "look", "response": {"seen": 1}}},
                    {"functionResponse": {"id": "c2", "name": "look", "response": {"output": "a cat"}}},
                ],
            },
        ],
        "tools": [{"functionDeclarations": [{"name": "look", "description": "Look."}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["look"]}},
        "generationConfig": {
            "temperature": 0.5,
            "topP": 0.25,
            "maxOutputTokens": 10,
            "stopSequences": ["x"],
            "presencePenalty": 0.5,
            "frequencyPenalty": 0.25,
            "responseMimeType": "application/json",
        },
    }
    assert "1.0" not in json.dumps(body), "a whole number has become a fraction"
    assert received.path == "/v1beta/models/gemini-3-pro:generateContent"
    list(worker.chat_chunks("Hi", model="gemini-3-pro"))
    assert provider.last_request.path == "/v1beta/models/gemini-3-pro:streamGenerateContent?alt=sse"
    assert (received.headers["x-goog-api-key"], received.headers["X-Team"]) == (KEY, "blue")


def test_token_count_includes_every_field(worker: WorkerUnderTest, provider: Upstream) -> None:
    messages = [{"role": "system", "content": "Be very brief."}, {"role": "user", "content": "Who am I?"}]
    tools = [{"type": "function", "function": {"name": "look"}}]
    assert worker.dispatch("count_tokens", {"messages": messages, "tools": tools}) == {"input_tokens": 6}
    assert provider.last_request.path == "/v1beta/models/gemini-2.5-flash:countTokens"
    counted = provider.last_request.body["generateContentRequest"]
    assert counted["model"] == "models/gemini-2.5-flash"
    assert counted["tools"] == [{"functionDeclarations": [{"name": "look"}]}]
    assert worker.error_of("count_tokens", {"messages": []}).param == "messages"


def test_thoughts_are_reasoning_apart_from_the_text(worker: WorkerUnderTest, provider: Upstream) -> None:
    usage = {"promptTokenCount": 3, "candidatesTokenCount": 2, "thoughtsTokenCount": 4, "totalTokenCount": 9}
    provider.respond_with(
        streamed(
            said({"text": "hm", "thought": True}),
            said({"text": "Hi", "thoughtSignature": "AA=="}),
            said(finishReason="STOP") | {"usageMetadata": usage, "modelVersion": "gemini-x"},
        )
    )
    for response in both(worker):
        assert response == ChatResponse(
            content=[ReasoningPart(text="hm", format="gemini"), TextPart(text="Hi")],
            finish_reason="stop",
            usage=Usage(prompt_tokens=3, completion_tokens=6, total_tokens=9, reasoning_tokens=4),
            model="gemini-x",
        )


def test_reasoning_and_signatures_reach_the_provider(worker: WorkerUnderTest, provider: Upstream) -> None:
    call = {"id": "c0", "type": "function", "function": {"name": "look", "arguments": "{}"}, "signature": "AAAA"}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c0", "content": "{}"},
    ]
    bounded = {"type": "object", "properties": {"n": {"type": "INTEGER", "minimum": 1}}}
    tools = [{"type": "function", "function": {"name": "look", "parameters": bounded}}]
    reasoning = {"effort": "low", "summary": "auto"}
    request = {"messages": messages, "tools": tools, "reasoning": reasoning, "model": "gemini-3-pro", "top_k": 5}
    worker.dispatch("chat", request)
    body = provider.last_request.body
    thinking = body["generationConfig"]["thinkingConfig"]
    # Google takes both spellings, and google-genai sends this one.
    names = {"include_thoughts": "includeThoughts", "thinking_level": "thinkingLevel"}
    sent = {names.get(name, name): value for name, value in thinking.items()}
    assert sent == {"includeThoughts": True, "thinkingLevel": "LOW"}
    assert body["generationConfig"]["topK"] == 5
    assert body["contents"][1]["parts"][0]["thoughtSignature"] == "AAAA"


@pytest.mark.parametrize("reason", ["SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY"])
def test_what_the_provider_cuts_short_for_its_content_says_so(
    worker: WorkerUnderTest, provider: Upstream, reason: str
) -> None:
    provider.respond_with(streamed(said({"text": "Once"}), said(finishReason=reason)))
    for response in both(worker):
        assert (response.text, response.finish_reason) == ("Once", "content_filter")


def test_a_prompt_that_is_blocked_is_the_providers_refusal(worker: WorkerUnderTest, provider: Upstream) -> None:
    provider.respond_with(streamed({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}))
    for error in both_errors(worker):
        assert type(error) is ContentRefused
        assert "PROHIBITED_CONTENT" in error.message


@pytest.mark.parametrize("reason", ["MALFORMED_FUNCTION_CALL", "OTHER", "A_REASON_OF_2031"])
def test_an_answer_that_ended_before_it_was_whole_is_an_error(
    worker: WorkerUnderTest, provider: Upstream, reason: str
) -> None:
    provider.respond_with(streamed(said({"text": "Once"}), said(finishReason=reason)))
    for error in both_errors(worker):
        assert type(error) is UpstreamError
        assert reason in error.message


def test_googles_details_are_understood(worker: WorkerUnderTest, provider: Upstream) -> None:
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
    provider.respond_with(refused(400, f"API key not valid: {KEY}", info))
    error = worker.error_of("chat", HI)
    assert type(error) is UpstreamAuth
    assert KEY not in error.message
    violation = {"field": "generation_config.top_p", "description": "too high"}
    bad = {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]}
    provider.respond_with(refused(400, "Invalid value", bad))
    error = worker.error_of("chat", HI)
    assert (type(error), error.param) == (UpstreamBadRequest, "generation_config.top_p")
    retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17.5s"}
    provider.respond_with(refused(429, "Quota exceeded", retry))
    error = worker.error_of("chat", HI)
    assert (type(error), error.retry_after) == (UpstreamRateLimited, 17.5)
    provider.respond_with(streamed(said({"text": "Once"}), {"error": {"code": 503, "message": "overloaded"}}))
    with pytest.raises(UpstreamOverloaded):
        list(worker.dispatch_stream("chat", HI))


def test_a_chunk_of_any_length_and_none_of_an_answers_shape(worker: WorkerUnderTest, provider: Upstream) -> None:
    text = "ä" * 3_000_000
    provider.respond_with(streamed(said({"text": text}), said(finishReason="STOP")))
    assert worker.chat("Hi").text == text
    # A chunk that is longer than a frame goes to the client in parts.
    text = "ä" * 1_000_000
    provider.respond_with(streamed(said({"text": text}), said(finishReason="STOP")))
    assert [response.text for response in both(worker)] == [text, text]
    for chunk in (
        {"candidates": 5},
        {"candidates": {"x": 1}},
        {"candidates": [{"content": {"parts": [7]}}]},
        [1],
        "x",
        7,
    ):
        provider.respond_with(streamed(chunk))
        for error in both_errors(worker):
            assert isinstance(error, UpstreamError)
    assert worker.status.generation == 1


@pytest.mark.parametrize("sdk", SDKS)
def test_the_key_follows_no_server_to_another(sdk: str, provider: Upstream) -> None:
    class Elsewhere(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(307)
            self.send_header("Location", provider.url + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Suppress the log of the server."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = {"sdk": sdk, "base_url": f"http://127.0.0.1:{server.server_port}", "retries": 0}
        try:
            with worker_under_test("gpt_c", settings, secrets={"GEMINI_API_KEY": KEY}) as worker:
                error = worker.error_of("chat", HI)
        finally:
            server.shutdown()
    assert (type(error), provider.requests) == (UpstreamError, [])
    assert "base_url" in error.message


@pytest.mark.parametrize("sdk", SDKS)
def test_retries_are_bounded_and_end_with_the_first_chunk(sdk: str, provider: Upstream) -> None:
    settings = {"sdk": sdk, "base_url": provider.url, "retries": 2}
    soon = Status(503, retry_after=0)
    with worker_under_test("gpt_c", settings, secrets={"GEMINI_API_KEY": KEY}) as worker:
        provider.respond_with(soon, soon, Reply())
        assert worker.chat("Hi").text == Reply().text
        assert len(provider.requests) == 3
        provider.respond_with(soon)
        assert isinstance(worker.error_of("chat", HI), UpstreamOverloaded)
        assert len(provider.requests) == 6
        provider.respond_with(Reply().with_fault("cut", after=1))
        with pytest.raises(UpstreamError):
            list(worker.chat_chunks("Hi"))
        assert len(provider.requests) == 7
        # Of a plain answer that broke off the client has nothing yet.
        provider.respond_with(Reply().with_fault("cut"), Reply())
        assert worker.chat("Hi").text == Reply().text
        assert len(provider.requests) == 9


def test_missing_key_is_named_at_activation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    with worker_under_test("gpt_c") as worker:
        error = worker.error_of("chat", HI)
    assert isinstance(error, ActivationFailed)
    assert "GEMINI_API_KEY" in error.message
    assert "base_url" in error.message


@pytest.mark.parametrize("sdk", SDKS)
def test_a_server_that_takes_no_key_gets_none_of_ours(
    sdk: str, provider: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    with worker_under_test("gpt_c", {"sdk": sdk, "base_url": provider.url, "api_version": "v1"}) as worker:
        assert worker.chat("Hi").text == Reply().text
    assert provider.last_request.key in (None, "no-key")
    assert provider.last_request.path.startswith("/v1/models/gemini-")


def test_an_sdk_that_is_not_installed_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpt_c, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install \"handler-host-gpt-c\[google-genai\]\""):
        gpt_c._backend("google-genai", Settings("", "http://127.0.0.1:9", "v1beta", 1.0, 1.0, {}))


def test_an_unknown_sdk_is_refused_with_the_known_ones() -> None:
    with worker_under_test("gpt_c", {"sdk": "google-palm"}) as worker:
        assert "google-genai" in worker.error_of("chat", HI).message


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("gpt_c", {"google.generativeai", "google.genai", "grpc", "aiohttp"}),
        ("gpt_c.questions", {"google.generativeai", "google.genai", "grpc"}),
        ("gpt_c.generativeai", {"google.genai"}),
        ("gpt_c.genai", {"google.generativeai", "grpc"}),
    ],
)
def test_only_what_is_used_is_imported_and_nothing_is_said(module: str, absent: set[str]) -> None:
    """Both of the old SDK's warnings are kept away, also from who wants warnings to be errors."""
    script = f"import sys, {module}; print(*sorted({absent!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-W", "error::FutureWarning", "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("\n", "")
