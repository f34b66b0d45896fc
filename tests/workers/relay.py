"""A handler that asks other handlers: what it is told to ask, of whom it is told."""

import asyncio
import os

from handler_host.plugin import HostError, hookimpl, operation


class Relay:
    """Its requests have ``to``, ``what`` (an operation) and ``request``, and perhaps ``within`` seconds."""

    @hookimpl
    async def activate(self, context):
        self.context = context
        self.left = []
        self.early = None
        try:
            await context.dispatch("puppet", "echo")
        except HostError as error:
            self.early = error.message
        self.own = asyncio.Queue()
        self.responses = asyncio.Queue()
        background = asyncio.create_task(self.work())
        context.on_close(background.cancel)

    async def work(self):
        """What goes on beside all operations."""
        while True:
            request = await self.own.get()
            await self.responses.put(await self.ask(request, None))

    @operation
    async def ask(self, request: dict, call) -> dict:
        """Ask once; tell how the other's dispatch looked, too."""
        response = await self.context.dispatch(
            request["to"], request["what"], request.get("request"), timeout=request.get("within")
        )
        return {"answer": response, "request_id": call and call.request_id, "pid": os.getpid()}

    @operation
    async def caught(self, request: dict) -> dict:
        """Ask, and tell the error."""
        try:
            return {"answer": await self.context.dispatch(request["to"], request["what"], request.get("request"))}
        except HostError as error:
            return {"code": error.code, "message": error.message}

    @operation
    async def stream(self, request: dict):
        """Pass a stream on."""
        async for chunk in self.context.dispatch_stream(request["to"], request["what"], request.get("request")):
            yield chunk

    @operation
    async def first(self, request: dict) -> dict:
        """Take so many pieces of a stream, and leave it there."""
        count, size = 0, 0
        async for chunk in self.context.dispatch_stream(request["to"], request["what"], request.get("request")):
            count, size = count + 1, size + len(chunk)
            if count == request["count"]:
                break
        return {"size": size}

    @operation
    def in_thread(self, request: dict) -> dict:
        """Ask from a plain function."""
        return {"answer": self.context.dispatch_from_thread(request["to"], request["what"], request["request"])}

    @operation
    async def typed(self, request: dict) -> dict:
        """Ask for an answer of a type that it is not."""
        return {"answer": await self.context.dispatch(request["to"], request["what"], response_type=list[int])}

    @operation
    async def forgotten(self, request: dict) -> dict:
        """Begin something, and answer without waiting for it."""
        self.left.append(asyncio.create_task(self.context.dispatch(request["to"], request["what"], request["request"])))
        await asyncio.sleep(0)
        return {}

    @operation
    async def what_became(self, request: dict) -> dict:
        """Tell how what was forgotten has ended."""
        results = await asyncio.gather(*self.left, return_exceptions=True)
        return {"results": [str(result) for result in results], "early": self.early}

    @operation
    async def by_itself(self, request: dict) -> dict:
        """Let the task that belongs to no operation ask."""
        await self.own.put(request)
        return await self.responses.get()

    @operation
    async def shown(self, request: dict, call) -> dict:
        """Tell what the dispatch looks like from within."""
        return {"request_id": call.request_id, "remaining": call.remaining()}
