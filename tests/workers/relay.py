"""A handler that dispatches to other handlers, as its requests ask."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

from handler_host.plugin import CallInfo, Context, HostError, hookimpl, operation

Json = dict[str, Any]


class Relay:
    """Its requests have ``to`` (a handler), ``what`` (an operation), ``request``, and perhaps ``within`` seconds."""

    @hookimpl
    async def activate(self, context: Context) -> None:
        self.context = context
        self.left: list[asyncio.Task[Any]] = []
        self.early: str | None = None
        try:
            await context.dispatch("puppet", "echo")
        except HostError as error:
            self.early = error.message
        self.requests: asyncio.Queue[Json] = asyncio.Queue()
        self.responses: asyncio.Queue[Json] = asyncio.Queue()
        background = asyncio.create_task(self.work())
        context.on_close(background.cancel)

    async def work(self) -> None:
        """Dispatch in a task that belongs to no operation."""
        while True:
            request = await self.requests.get()
            await self.responses.put(await self.dispatch(request))

    async def dispatch(self, request: Json) -> Json:
        """Dispatch once."""
        response = await self.context.dispatch(
            request["to"], request["what"], request.get("request"), timeout=request.get("within")
        )
        return {"answer": response, "pid": os.getpid()}

    @operation
    async def ask(self, request: Json, call: CallInfo) -> Json:
        """Dispatch once; return the response and the ID of this request."""
        return {**await self.dispatch(request), "request_id": call.request_id}

    @operation
    async def caught(self, request: Json) -> Json:
        """Dispatch once; return the error."""
        try:
            return {"answer": await self.context.dispatch(request["to"], request["what"], request.get("request"))}
        except HostError as error:
            return {"code": error.code, "message": error.message}

    @operation
    async def stream(self, request: Json) -> AsyncIterator[Any]:
        """Pass a stream on."""
        async for chunk in self.context.dispatch_stream(request["to"], request["what"], request.get("request")):
            yield chunk

    @operation
    async def first(self, request: Json) -> Json:
        """Read ``count`` chunks of a stream, and leave it there."""
        count, size = 0, 0
        async for chunk in self.context.dispatch_stream(request["to"], request["what"], request.get("request")):
            count, size = count + 1, size + len(chunk)
            if count == request["count"]:
                break
        return {"size": size}

    @operation
    def in_thread(self, request: Json) -> Json:
        """Dispatch from a plain function."""
        return {"answer": self.context.dispatch_from_thread(request["to"], request["what"], request["request"])}

    @operation
    async def typed(self, request: Json) -> Json:
        """Expect a response of another type than it has."""
        return {"answer": await self.context.dispatch(request["to"], request["what"], response_type=list[int])}

    @operation
    async def forgotten(self, request: Json) -> Json:
        """Start a dispatch, and return without waiting for it."""
        self.left.append(asyncio.create_task(self.context.dispatch(request["to"], request["what"], request["request"])))
        await asyncio.sleep(0)
        return {}

    @operation
    async def what_became(self, request: Json) -> Json:
        """Return how the forgotten dispatches ended."""
        results = await asyncio.gather(*self.left, return_exceptions=True)
        return {"results": [str(result) for result in results], "early": self.early}

    @operation
    async def by_itself(self, request: Json) -> Json:
        """Dispatch in the task that belongs to no operation."""
        await self.requests.put(request)
        return await self.responses.get()

    @operation
    async def shown(self, request: Json, call: CallInfo) -> Json:
        """Return the details of this dispatch."""
        return {"request_id": call.request_id, "remaining": call.remaining()}
