"""Embeddings over HTTP, of a handler with the typed operation in a real worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.integration.http.serving import running
from tests.support import install_plugin

HANDLER = '''
from handler_host.chat import EmbedRequest, EmbedResponse
from handler_host.plugin import UpstreamOverloaded, operation

class Handler:
    """The vector of a text is its length, and the number of the model's characters."""

    @operation("embed")
    async def embed(self, request: EmbedRequest) -> EmbedResponse:
        if request.input[0] == "too few":
            return EmbedResponse(embeddings=[])
        if request.input[0] == "busy" and request.model == "first":
            raise UpstreamOverloaded("busy")
        vectors = [[len(text), len(request.model or "")] for text in request.input]
        return EmbedResponse(embeddings=vectors, model="m", input_tokens=len(request.input))
'''
MANIFEST = "[operations.embed]\n"
NATIVE_FIRST = '''
import asyncio

from handler_host.chat import EmbedRequest, EmbedResponse
from handler_host.plugin import CallInfo, NativeRequest, UnknownOperation, native, operation

class Handler:
    """The vector of a text is the difference of the deadlines of both operations."""

    @native("openai.embeddings")
    async def pass_on(self, request: NativeRequest, call: CallInfo):
        self.deadline = call.deadline
        await asyncio.sleep(0.5)
        raise UnknownOperation("not this one")
        yield b""

    @operation("embed")
    async def embed(self, request: EmbedRequest, call: CallInfo) -> EmbedResponse:
        return EmbedResponse(embeddings=[[call.deadline - self.deadline]])
'''
CHATS = """
from handler_host.chat import ChatHandler

class Handler(ChatHandler):
    async def stream(self, request):
        yield "Hi"
"""


async def test_every_protocol_reaches_the_operation(tmp_path: Path) -> None:
    install_plugin(tmp_path, "vectors", HANDLER, manifest=MANIFEST)
    install_plugin(tmp_path, "second", HANDLER, manifest=MANIFEST)
    install_plugin(tmp_path, "chats", CHATS, manifest="[operations.chat]\n")
    async with running(tmp_path, handlers={"vectors": {"fallback": ("second",)}}) as host:

        async def post(path: str, **body: Any) -> tuple[int, Any]:
            return await host.json("POST", path, json=body)

        status, content = await post("/v1/embeddings", model="vectors/abc", input=["Hi", "Hello"])
        assert (status, content["model"], content["usage"]["prompt_tokens"]) == (200, "vectors/abc", 2)
        assert [entry["embedding"] for entry in content["data"]] == [[2, 3], [5, 3]]
        part = {"parts": [{"text": "Hello"}]}
        _, content = await post("/v1beta/models/vectors/abc:embedContent", content=part)
        assert content == {"embedding": {"values": [5, 3]}}
        _, content = await post("/v1beta/models/vectors:batchEmbedContents", requests=[{"content": part}])
        assert content == {"embeddings": [{"values": [5, 0]}]}
        _, content = await post("/api/embed", model="vectors:latest", input="Hi")
        assert (content["embeddings"], content["prompt_eval_count"]) == ([[2, 0]], 1)
        assert host.supervisor.telemetry.counters.for_handler("vectors").dispatches == {("embed", "ok"): 4}
        status, content = await post("/v1/embeddings", model="vectors/first", input="busy")
        assert (status, content["error"]["code"]) == (503, "upstream_overloaded")  # and no vector of another model
        status, content = await post("/v1/embeddings", model="vectors", input="too few")
        assert (status, content["error"]["code"]) == (500, "handler_error")
        for path in ("/v1/embeddings", "/api/embed"):
            status, content = await post(path, model="chats", input="Hi")
            assert (status, "embed" in str(content)) == (404, True)


async def test_the_handler_decides_about_unsupported_fields(tmp_path: Path) -> None:
    install_plugin(tmp_path, "vectors", HANDLER, manifest=MANIFEST)
    async with running(tmp_path, handlers={"vectors": {"unsupported": "refuse"}}) as host:
        content = {"parts": [{"text": "Hi"}]}
        for path, body in (
            ("/v1/embeddings", {"model": "vectors", "input": "Hi", "new": 1}),
            ("/v1beta/models/vectors:embedContent", {"content": content, "title": "T"}),
            ("/api/embed", {"model": "vectors:latest", "input": "Hi", "truncate": False}),
        ):
            status, error = await host.json("POST", path, json=body)
            assert (status, body.popitem()[0] in str(error)) == (400, True), path


async def test_an_embedding_after_a_native_attempt_keeps_the_deadline(tmp_path: Path) -> None:
    manifest = MANIFEST + '[operations."openai.embeddings"]\n'
    install_plugin(tmp_path, "vectors", NATIVE_FIRST, manifest=manifest)
    async with running(tmp_path) as host:
        status, content = await host.json("POST", "/v1/embeddings", json={"model": "vectors", "input": "Hi"})
        assert status == 200
        assert abs(content["data"][0]["embedding"][0]) < 0.4
