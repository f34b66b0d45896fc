"""Source of a plugin: handlers with one flaw each, which the conformance classes must find.

All but the parrots and adders are gpt_a with one flaw.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from gpt_a import GptA
from handler_host.chat import ChatChunk, ChatHandler, ChatRequest, FinishChunk, FinishReason
from handler_host.plugin import CallInfo, NativeRequest, NativeResponse, native, operation
from handler_host.plugin.errors import UpstreamError


class Truncated(GptA):
    """Accepts a truncated response."""

    def on_missing_finish_reason(self) -> FinishReason:
        return "stop"


class Dropping(GptA):
    """Drops two fields of the request."""

    async def stream(self, request: ChatRequest, call: CallInfo | None = None) -> AsyncIterator[ChatChunk]:
        async for chunk in super().stream(msgspec.structs.replace(request, seed=None, n=None), call):
            yield chunk


class Hoarding(GptA):
    """Sends the first chunk only after the last one has arrived."""

    async def stream(self, request: ChatRequest, call: CallInfo | None = None) -> AsyncIterator[ChatChunk]:
        for chunk in [chunk async for chunk in super().stream(request, call)]:
            yield chunk


class Deaf(GptA):
    """Continues after its client has disconnected."""

    async def stream(self, request: ChatRequest, call: CallInfo | None = None) -> AsyncIterator[ChatChunk]:
        chunks: asyncio.Queue[ChatChunk | None] = asyncio.Queue()

        async def read() -> None:
            async for chunk in super(Deaf, self).stream(request, call):
                chunks.put_nowait(chunk)
            chunks.put_nowait(None)

        self.task = asyncio.create_task(read())
        while (chunk := await chunks.get()) is not None:
            yield chunk


class Insisting(GptA):
    """Retries after the first chunk."""

    async def stream(self, request: ChatRequest, call: CallInfo | None = None) -> AsyncIterator[ChatChunk]:
        for last in (False, True):
            try:
                async for chunk in super().stream(request, call):
                    yield chunk
                return
            except UpstreamError:
                if last:
                    raise


class Reencoding(GptA):
    """Decodes the body of a native request, and encodes it again."""

    @native("openai.chat")
    async def native_chat(self, request: NativeRequest, call: CallInfo) -> AsyncIterator[NativeResponse | bytes]:
        request.body, request.spans = json.dumps(json.loads(request.payload("m"))).encode(), ()
        async for part in super().native_chat(request, call):
            yield part


class Collecting(GptA):
    """Sends a native response only when it is complete."""

    @native("openai.chat")
    async def native_chat(self, request: NativeRequest, call: CallInfo) -> AsyncIterator[NativeResponse | bytes]:
        for part in [part async for part in super().native_chat(request, call)]:
            yield part


class Rewording(GptA):
    """Sends errors of its own in place of the provider's, and drops the headers of features."""

    @native("openai.chat")
    async def native_chat(self, request: NativeRequest, call: CallInfo) -> AsyncIterator[NativeResponse | bytes]:
        request.headers = {}
        try:
            async for part in super().native_chat(request, call):
                yield part
        except UpstreamError as error:
            raise UpstreamError(error.message) from None


class Remaining(GptA):
    """Finishes a native call after its client has disconnected."""

    @native("openai.chat")
    async def native_chat(self, request: NativeRequest, call: CallInfo) -> AsyncIterator[NativeResponse | bytes]:
        parts: asyncio.Queue[NativeResponse | bytes] = asyncio.Queue()

        async def read() -> None:
            async for part in super(Remaining, self).native_chat(request, call):
                parts.put_nowait(part)

        self.task = asyncio.create_task(read())
        while True:
            yield await parts.get()


class Mixing(GptA):
    """Stores the state of a dispatch in the handler."""

    async def stream(self, request: ChatRequest, call: CallInfo | None = None) -> AsyncIterator[ChatChunk]:
        self.request = request
        await asyncio.sleep(0.01)
        async for chunk in super().stream(self.request, call):
            yield chunk


class Parrot(ChatHandler):
    """Correct handler that repeats the words of its request."""

    async def stream(self, request: ChatRequest) -> AsyncIterator[str | ChatChunk]:
        for word in request.last_text().split():
            yield word + " "
        yield "!"


class Endless(Parrot):
    """Continues after the finish reason, without usage, and ignores ``max_tokens``."""

    async def stream(self, request: ChatRequest) -> AsyncIterator[str | ChatChunk]:
        yield "That is all."
        yield FinishChunk(reason="stop")
        yield "But one thing more."


class Dying(Parrot):
    """Ends its process on a request without words."""

    async def stream(self, request: ChatRequest) -> AsyncIterator[str | ChatChunk]:
        if not request.last_text():
            os._exit(3)
        yield "!"


class Adder:
    """Correct handler that adds numbers."""

    @operation
    async def add(self, request: "Numbers") -> int:
        return request.left + request.right

    @operation
    async def loose(self, request: dict[str, int]) -> int:
        return request["left"]

    @operation
    async def slow(self, request: "Numbers") -> int:
        await asyncio.sleep(3600)
        return 0

    @operation
    async def total(self, request: "Batch") -> AsyncIterator[int]:
        for numbers in request.all:
            yield numbers.left + numbers.right


class Miscounting(Adder):
    """Fails in every addition, accepts any type, and is not slow as declared."""

    @operation
    async def add(self, request: dict[str, Any]) -> int:  # type: ignore[override] # the flaw: no schema
        raise ValueError("I take numbers only")

    @operation
    async def slow(self, request: "Numbers") -> int:
        return 0


class Numbers(msgspec.Struct, forbid_unknown_fields=True):
    left: int
    right: int = 0
    name: str | None = None


class Batch(msgspec.Struct):
    all: list[Numbers]
