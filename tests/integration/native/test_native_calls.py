"""Native calls over HTTP, with handlers in real workers that need no SDK."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from handler_host.dispatch.attempt import Attempt
from handler_host.dispatch.dispatcher import Dispatcher
from handler_host.dispatch.request import Request
from tests.integration.http.serving import Host, running
from tests.support import install_plugin, within

HANDLER = '''
import asyncio
import json
import os
from handler_host.chat import ChatHandler
from handler_host.plugin import NativeResponse, UnknownOperation, UpstreamError, native, provider_refusal

HEADERS = {
    "content-type": "application/json", "x-request-id": "req_provider", "openai-organization": "secret-org",
    "x-ratelimit-remaining-requests": "7",
}

class Handler(ChatHandler):
    """Speaks OpenAI's protocol, and follows the instruction that its request has as the last message."""

    async def stream(self, request):
        yield f"translated by {self.context.handler}"

    @native("openai.chat")
    async def complete(self, request):
        payload = request.payload("default-model")
        body = json.loads(payload)
        how = self.context.config.get("how") or body["messages"][-1]["content"]
        if how == "crash":
            os._exit(3)
        if how.startswith("status "):
            content = b'{"error": {"message": "no", "code": "context_length_exceeded", "extra": 1}}'
            headers = {**HEADERS, "retry-after": "7"}
            raise provider_refusal(NativeResponse(int(how[7:]), headers, content))
        if how == "no such route":
            raise UnknownOperation("the provider has no such route")
        if how == "page":
            raise provider_refusal(NativeResponse(502, {"content-type": "text/html"}, b"<p>proxy</p>"))
        if how == "half a stream":
            yield NativeResponse(200, {**HEADERS, "content-type": "text/event-stream"})
            yield b"data: {}\\n\\n"
            return
        if not request.stream:
            yield NativeResponse(200, HEADERS)
            for byte in (b'{"seen": ', json.dumps(payload.decode()).encode(), b', "headers": ',
                         json.dumps(dict(request.headers)).encode(),
                         b', "model" : "', request.sent_model.encode(), b'", "big": "', b"x" * 300_000,
                         b'", "usage": {"prompt_tokens": 5, "completion_tokens": 2}}'):
                yield byte
            return
        if how == "cut":
            yield NativeResponse(200, HEADERS)
            yield b"[1, "
            raise UpstreamError("the connection broke")
        yield NativeResponse(200, {**HEADERS, "content-type": "text/event-stream; charset=utf-8"})
        if how == "text":
            yield "data: {}"
        if how == "pings":
            for _ in range(8):
                await asyncio.sleep(0.3)
                yield b": ping\\n\\n"
        if how == "wait":
            yield b": waiting\\n\\n"
            yield b'data: {"usage": {"prompt_tokens": 3}}\\n\\n'
            try:
                await asyncio.sleep(60)
            finally:
                with open(self.context.config["left"], "w") as file:
                    file.write("left")
        yield b'data: {"id": 1, "model": "' + request.sent_model.encode() + b'", "seen": '
        yield json.dumps(payload.decode()).encode() + b'}\\n\\n'
        if how == "late":
            yield b"data: {half"
            raise UpstreamError("the connection broke")
        if how == "end early":
            return
        yield b'data: {"usage": {"prompt_tokens": 3, "completion_tokens": 4}}\\n\\ndata: [DONE]\\n\\n'
'''
TRANSLATED_ONLY = '''
from handler_host.chat import ChatHandler

class Handler(ChatHandler):
    """Chats, and speaks no client's protocol."""

    async def stream(self, request):
        yield f"translated by {self.context.handler}"
'''
MANIFEST = """
[operations.chat]
[operations."openai.chat"]
[config.how]
type = "string"
[config.left]
type = "string"
"""
CHAT_MANIFEST = "[operations.chat]\n"


@contextlib.asynccontextmanager
async def hosted(
    tmp_path: Path, handlers: Mapping[str, Mapping[str, Any]] | None = None, **options: Any
) -> AsyncIterator[Host]:
    """Run a host with ``speaker`` and ``another``, which speak the protocol, and ``plain``, which does not."""
    install_plugin(tmp_path, "speaker", HANDLER, manifest=MANIFEST)
    install_plugin(tmp_path, "another", HANDLER, manifest=MANIFEST)
    install_plugin(tmp_path, "bare", HANDLER)
    install_plugin(tmp_path, "plain", TRANSLATED_ONLY, manifest=CHAT_MANIFEST)
    async with running(tmp_path, handlers=handlers, **options) as host:
        yield host


def body(model: str, how: str = "Hi", **fields: Any) -> bytes:
    """Return a body in a form of its own, with fields that the chat contract does not have."""
    messages = [{"role": "user", "content": how}]
    return json.dumps({"unknown": [1], "model": model, "messages": messages, **fields}, indent=1).encode()


def chat(model: str, how: str = "Hi") -> bytes:
    """Return a body that every handler understands."""
    return json.dumps({"model": model, "messages": [{"role": "user", "content": how}]}).encode()


async def complete(host: Host, data: bytes, **headers: str) -> tuple[int, Mapping[str, str], bytes]:
    async with host.ask("POST", "/v1/chat/completions", data=data, headers=headers) as response:
        return response.status, response.headers, await response.read()


def tokens_of(host: Host) -> dict[tuple[str, str], dict[str, int]]:
    """Return the tokens that the host has counted, by handler and consumer."""
    rows = host.supervisor.telemetry.usage.rows()
    return {
        (row.handler, row.consumer): {kind: count for kind, count in row.by_kind().items() if count} for row in rows
    }


async def test_bytes_pass_unchanged_with_the_model_restored(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host:
        for model, sent in (("speaker/gpt-5", "gpt-5"), ("speaker", "default-model"), ("speaker/a/b", "a/b")):
            status, headers, data = await complete(
                host, body(model), **{"OpenAI-Beta": "x=1", "Cookie": "c=1", "Authorization": "Bearer client"}
            )
            content = json.loads(data)
            assert (status, headers["X-Handler"], content["model"]) == (200, "speaker", model)
            assert content["seen"].encode() == body(sent)
            assert content["headers"] == {"openai-beta": "x=1"}
            assert data.startswith(b'{"seen": ')
            assert len(content["big"]) == 300_000


async def test_headers_of_the_provider_that_concern_clients_come_back(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host:
        for stream in (False, True):
            _, headers, _ = await complete(host, body("speaker", stream=stream))
            assert headers["X-Provider-Request-ID"] == "req_provider"
            assert headers["X-Request-ID"] != "req_provider"
            assert headers["x-ratelimit-remaining-requests"] == "7"
            assert "openai-organization" not in headers


async def test_a_stream_comes_back_as_it_came(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host:
        status, headers, data = await complete(host, body("speaker/gpt-5", stream=True))
        assert (status, headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
        seen = json.dumps(body("gpt-5", stream=True).decode())
        assert data.decode() == (
            f'data: {{"id": 1, "model": "speaker/gpt-5", "seen": {seen}}}\n\n'
            'data: {"usage": {"prompt_tokens": 3, "completion_tokens": 4}}\n\ndata: [DONE]\n\n'
        )


async def test_an_error_of_the_provider_comes_back_as_it_came(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host:
        for stream in (False, True):
            for code in (400, 404, 429, 500, 529):
                status, headers, data = await complete(host, body("speaker", f"status {code}", stream=stream))
                assert (status, headers["Retry-After"], headers["X-Handler"]) == (code, "7", "speaker")
                assert data == b'{"error": {"message": "no", "code": "context_length_exceeded", "extra": 1}}'


async def test_a_key_that_the_provider_refuses_is_not_the_clients(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host:
        status, headers, data = await complete(host, body("speaker", "status 401"))
        error = json.loads(data)["error"]
        assert (status, error["code"], headers["x-should-retry"]) == (502, "upstream_auth", "false")
        assert "handler's key" in error["message"]
        status, headers, data = await complete(host, body("speaker", "status 403"))
        assert (status, headers["x-should-retry"]) == (502, "false")
        assert json.loads(data)["error"]["extra"] == 1


async def test_a_page_of_a_proxy_is_not_passed_on(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host:
        status, _, data = await complete(host, body("speaker", "page"))
        assert (status, json.loads(data)["error"]["code"]) == (502, "upstream_error")


async def test_each_byte_of_the_provider_restarts_the_gap_timeout(tmp_path: Path) -> None:
    async with hosted(tmp_path, {"speaker": {"gap_timeout": 1.5, "left": str(tmp_path / "left")}}) as host:
        status, _, data = await complete(host, body("speaker", "pings", stream=True))
        assert (status, data.count(b": ping"), data.endswith(b"data: [DONE]\n\n")) == (200, 8, True)
        status, _, data = await complete(host, body("speaker", "wait", stream=True))
        error = json.loads(data.rpartition(b"data: ")[2])["error"]
        assert (error["code"], "gap_timeout" in error["message"]) == ("deadline_exceeded", True)


async def test_an_error_in_a_stream_ends_it_with_an_event(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host:
        status, _, data = await complete(host, body("speaker", "late", stream=True))
        *events, last = data.decode().removesuffix("\n\n").split("\n\n")
        assert (status, len(events)) == (200, 1)
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "upstream_error"


async def test_stream_without_its_last_event_counts_as_a_failure(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host:
        status, _, data = await complete(host, body("speaker", "end early", stream=True))
        *events, last = data.decode().removesuffix("\n\n").split("\n\n")
        assert (status, len(events)) == (200, 1)
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "upstream_error"
        counters = host.supervisor.telemetry.counters.handlers["speaker"]
        assert counters.dispatches == {("openai.chat", "upstream_error"): 1}
        (failure,) = host.supervisor.telemetry.failures.last(1)
        assert json.loads(bytes(failure))["code"] == "upstream_error"


async def test_half_a_stream_is_no_plain_response(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host:
        status, _, data = await complete(host, body("speaker", "half a stream"))
        assert (status, json.loads(data)["error"]["code"]) == (502, "upstream_error")


async def test_broken_response_is_not_logged_as_a_client_disconnect(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host:
        with pytest.raises(aiohttp.ClientError):
            await complete(host, body("speaker", "cut", stream=True))
        (failure,) = host.supervisor.telemetry.failures.last(1)
        assert json.loads(bytes(failure))["code"] == "upstream_error"


async def test_an_item_that_is_not_bytes_fails_its_own_call_only(tmp_path: Path) -> None:
    async with hosted(tmp_path, {"speaker": {"left": str(tmp_path / "left")}}) as host:
        waiting = await host.session.post(
            f"{host.url}/v1/chat/completions",
            data=body("speaker", "wait", stream=True),
            headers={"Content-Type": "application/json"},
        )
        assert await within(waiting.content.readuntil(b"\n\n")) == b": waiting\n\n"
        _, _, data = await complete(host, body("speaker", "text", stream=True))
        assert json.loads(data.removeprefix(b"data: "))["error"]["code"] == "handler_error"
        assert host.supervisor.status("speaker").in_flight == 1
        waiting.close()


async def test_a_client_that_disconnects_ends_the_call(tmp_path: Path) -> None:
    left = tmp_path / "left"
    async with hosted(tmp_path, {"speaker": {"left": str(left)}}) as host:
        response = await host.session.post(
            f"{host.url}/v1/chat/completions",
            data=body("speaker", "wait", stream=True),
            headers={"Content-Type": "application/json"},
        )
        assert await within(response.content.readuntil(b"\n\n")) == b": waiting\n\n"
        assert b"usage" in await within(response.content.readuntil(b"\n\n"))
        response.close()
        while not left.exists():  # noqa: ASYNC110 - written by the worker
            await asyncio.sleep(0.01)
        assert tokens_of(host) == {("speaker", ""): {"input": 3}}


async def test_a_fallback_that_speaks_the_protocol_gets_the_bytes(tmp_path: Path) -> None:
    settings = {"speaker": {"how": "status 500", "fallback": ("another", "plain")}}
    async with hosted(tmp_path, settings) as host:
        for stream in (False, True):
            status, headers, data = await complete(host, body("speaker/gpt-5", stream=stream))
            assert (status, headers["X-Handler"]) == (200, "another")
            line = data.partition(b"data: ")[2].partition(b"\n\n")[0] if stream else data
            content = json.loads(line)
            assert content["seen"].encode() == body("default-model", stream=stream)
            assert content["model"] == "another"


async def test_a_fallback_that_does_not_gets_a_chat(tmp_path: Path) -> None:
    settings = {"speaker": {"how": "status 500", "fallback": ("plain",)}}
    async with hosted(tmp_path, settings) as host:
        status, headers, data = await complete(host, chat("speaker/gpt-5"))
        assert (status, headers["X-Handler"]) == (200, "plain")
        content = json.loads(data)
        assert (content["model"], content["choices"][0]["message"]["content"]) == ("plain", "translated by plain")


@pytest.fixture
def dispatched(monkeypatch: pytest.MonkeyPatch) -> dict[str, Request]:
    """Return the last request that an attempt was made for, by its handler."""
    requests: dict[str, Request] = {}
    start_attempt = Dispatcher._attempt

    def note_request(dispatcher: Dispatcher, request: Request) -> Awaitable[Attempt]:
        requests[request.handler] = request
        return start_attempt(dispatcher, request)

    monkeypatch.setattr(Dispatcher, "_attempt", note_request)
    return requests


async def test_all_attempts_share_one_deadline(tmp_path: Path, dispatched: dict[str, Request]) -> None:
    settings = {"speaker": {"how": "status 500", "fallback": ("plain",)}}
    async with hosted(tmp_path, settings) as host:
        assert (await complete(host, chat("speaker")))[0] == 200
    assert dispatched.keys() == {"speaker", "plain"}
    assert dispatched["speaker"].deadline == dispatched["plain"].deadline


async def test_cache_key_is_the_affinity_of_all_requests(tmp_path: Path, dispatched: dict[str, Request]) -> None:
    async with hosted(tmp_path, {}) as host:
        for handler in ("speaker", "plain"):
            body = json.loads(chat(handler)) | {"prompt_cache_key": f"key of {handler}"}
            assert (await complete(host, json.dumps(body).encode()))[0] == 200
    affinities = {handler: request.affinity for handler, request in dispatched.items()}
    assert affinities == {"speaker": "key of speaker", "plain": "key of plain"}


async def test_a_handler_that_does_not_may_fall_back_to_one_that_does(tmp_path: Path) -> None:
    settings = {"plain": {"fallback": ("speaker",), "enabled": False}}
    async with hosted(tmp_path, settings) as host:
        status, headers, data = await complete(host, chat("plain/gpt-5"))
        assert (status, headers["X-Handler"]) == (200, "speaker")
        assert json.loads(data)["seen"].encode() == chat("default-model")


async def test_if_all_fail_the_error_is_that_of_the_first(tmp_path: Path) -> None:
    settings: dict[str, dict[str, Any]] = {
        "speaker": {"how": "status 429", "fallback": ("another",)},
        "another": {"how": "status 500"},
    }
    async with hosted(tmp_path, settings) as host:
        status, headers, data = await complete(host, body("speaker"))
        assert (status, headers["X-Handler"], json.loads(data)["error"]["extra"]) == (429, "speaker", 1)


async def test_handler_without_manifest_is_native_once_known(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host:
        status, _, data = await complete(host, chat("bare"))
        assert (status, json.loads(data)["choices"][0]["message"]["content"]) == (200, "translated by bare")
        status, _, data = await complete(host, body("bare"))
        assert (status, json.loads(data)["seen"].encode()) == (200, body("default-model"))


async def test_a_handler_may_be_set_to_translate_all_requests(tmp_path: Path) -> None:
    async with hosted(tmp_path, {"speaker": {"native": False}}) as host:
        _, _, data = await complete(host, chat("speaker"))
        assert json.loads(data)["choices"][0]["message"]["content"] == "translated by speaker"


async def test_a_provider_without_the_route_gets_a_chat(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host:
        _, _, data = await complete(host, chat("speaker", "no such route"))
        assert json.loads(data)["choices"][0]["message"]["content"] == "translated by speaker"


async def test_a_preset_holds_for_native_requests(tmp_path: Path) -> None:
    async with hosted(tmp_path, {"speaker": {"preset": {"system": "Be brief.", "temperature": 0.5}}}) as host:
        _, _, data = await complete(host, body("speaker/gpt-5"))
        seen = json.loads(json.loads(data)["seen"])
        assert (seen["model"], seen["temperature"], seen["unknown"]) == ("gpt-5", 0.5, [1])
        assert [message["content"] for message in seen["messages"]] == ["Be brief.", "Hi"]


async def test_an_alias_is_restored(tmp_path: Path) -> None:
    async with hosted(tmp_path, models={"fast": "speaker/gpt-5"}) as host:
        _, _, data = await complete(host, body("fast"))
        assert (json.loads(data)["model"], json.loads(data)["seen"].encode()) == ("fast", body("gpt-5"))


async def test_state_at_the_provider_is_refused_unless_allowed(tmp_path: Path) -> None:
    async with hosted(tmp_path, {"another": {"provider_state": True}}) as host:
        status, _, data = await complete(host, body("speaker", store=True))
        error = json.loads(data)["error"]
        assert (status, error["code"], error["param"]) == (400, "invalid_input", "store")
        assert "provider_state = true in [handlers.speaker]" in error["message"]
        assert (await complete(host, body("speaker", store=False)))[0] == 200
        assert (await complete(host, body("another", store=True)))[0] == 200


async def test_tokens_and_dispatches_are_counted(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host:
        await complete(host, body("speaker"))
        await complete(host, body("speaker", stream=True))
        counters = host.supervisor.telemetry.counters
        assert tokens_of(host) == {("speaker", ""): {"input": 8, "output": 6}}
        assert counters.for_handler("speaker").dispatches == {("openai.chat", "ok"): 2}
        assert sum(counters.for_handler("speaker").first_chunk.counts) == 1


async def test_a_crash_is_the_hosts_error(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host:
        status, _, data = await complete(host, body("speaker", "crash"))
        assert (status, json.loads(data)["error"]["code"]) == (502, "handler_crashed")


async def test_the_hosts_own_route_names_the_right_one(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host:
        status, content = await host.json("POST", "/v1/handlers/speaker/openai.chat", data=body("speaker"))
        assert (status, content["error"]["code"]) == (400, "invalid_input")
        assert "POST /v1/chat/completions" in content["error"]["message"]


@pytest.mark.parametrize("data", [b"[]", b"not JSON", b'{"model": 3}', b'{"messages": []}', b"\xff"])
async def test_a_body_without_a_model_is_refused(tmp_path: Path, data: bytes) -> None:
    async with hosted(tmp_path) as host:
        for path in ("/v1/chat/completions", "/v1/embeddings"):
            status, content = await host.json("POST", path, data=data)
            assert (status, content["error"]["code"]) == (400, "invalid_input")


async def test_a_handler_without_the_operation_cannot_embed(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host:
        for model in ("speaker", "nobody"):
            status, content = await host.json("POST", "/v1/embeddings", data=body(model))
            assert (status, content["error"]["code"], content["error"]["param"]) == (404, "model_not_found", "model")
