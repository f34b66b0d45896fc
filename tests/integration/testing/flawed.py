"""Handlers that do one thing wrong each, to see that the conformance classes find it: the source of a plugin.

All but the parrots are gpt_a with one flaw.
"""

import asyncio
import os

import msgspec

from gpt_a import GptA
from handler_host.chat import ChatHandler, FinishChunk
from handler_host.plugin import operation
from handler_host.plugin.errors import UpstreamError


class Truncated(GptA):
    """Takes an answer that was cut off for a whole one."""

    def on_missing_finish_reason(self):
        return "stop"


class Dropping(GptA):
    """Loses a field on the way."""

    async def stream(self, request, call=None):
        async for chunk in super().stream(msgspec.structs.replace(request, seed=None), call):
            yield chunk


class Hoarding(GptA):
    """Streams nothing before it has everything."""

    async def stream(self, request, call=None):
        for chunk in [chunk async for chunk in super().stream(request, call)]:
            yield chunk


class Deaf(GptA):
    """Goes on when its client has left."""

    async def stream(self, request, call=None):
        chunks = asyncio.Queue()

        async def read():
            async for chunk in super(Deaf, self).stream(request, call):
                chunks.put_nowait(chunk)
            chunks.put_nowait(None)

        self.task = asyncio.create_task(read())
        while (chunk := await chunks.get()) is not None:
            yield chunk


class Insisting(GptA):
    """Tries again after the first piece."""

    async def stream(self, request, call=None):
        for last in (False, True):
            try:
                async for chunk in super().stream(request, call):
                    yield chunk
                return
            except UpstreamError:
                if last:
                    raise


class Mixing(GptA):
    """Keeps in the handler what belongs to a dispatch."""

    async def stream(self, request, call=None):
        self.request = request
        await asyncio.sleep(0.01)
        async for chunk in super().stream(self.request, call):
            yield chunk


class Parrot(ChatHandler):
    """Is all right, for a parrot."""

    async def stream(self, request):
        for word in request.last_text().split():
            yield word + " "
        yield "!"


class Endless(Parrot):
    """Goes on after the end, without usage, and however few tokens are asked for."""

    async def stream(self, request):
        yield "That is all."
        yield FinishChunk(reason="stop")
        yield "But one thing more."


class Dying(Parrot):
    """Does not survive a question without words."""

    async def stream(self, request):
        if not request.last_text():
            os._exit(3)
        yield "!"


class Adder:
    """Is all right, for an adder."""

    @operation
    async def add(self, request: "Numbers") -> int:
        return request.left + request.right

    @operation
    async def loose(self, request: dict) -> int:
        return request["left"]

    @operation
    async def slow(self, request: "Numbers") -> int:
        await asyncio.sleep(3600)
        return 0

    @operation
    async def total(self, request: "Batch") -> list[int]:
        for numbers in request.all:
            yield numbers.left + numbers.right


class Miscounting(Adder):
    """Counts wrong, calls a wrong type its own fault, and is not slow where it says so."""

    @operation
    async def add(self, request: dict) -> int:
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
