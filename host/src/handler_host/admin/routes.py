"""The operators' routes: what runs, what it takes, and to load and unload it.

What an operator begins belongs to the host: it goes on when the operator leaves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from aiohttp import web

from handler_host.dispatch.dispatcher import json_answer
from handler_host.http import request_context
from handler_host.http.request_limits import RequestLimits
from handler_host.lifecycle.supervisor import Supervisor
from handler_host.plugin.errors import HostError, InvalidInput

log = logging.getLogger(__name__)

LONGEST_DEADLINE = 24 * 3600.0
"""Seconds; whoever waits longer does not mean it."""


MEANINGS = {
    "wait": "true or false",
    "mode": "drain, if_idle or force",
    "deadline_s": f"seconds, from 0 to {LONGEST_DEADLINE:g}",
}
"""What the options have to be."""


class NoOptions(msgspec.Struct, forbid_unknown_fields=True):
    """For what takes none."""


class LoadOptions(NoOptions):
    """What every task takes, in the query or as a JSON body."""

    wait: bool = True
    """False: answer 202 at once."""


class UnloadOptions(LoadOptions):
    """What ``unload`` and ``reload`` take besides."""

    mode: Literal["drain", "if_idle", "force"] = "drain"
    deadline_s: Annotated[float, msgspec.Meta(ge=0, le=LONGEST_DEADLINE)] | None = None
    """Seconds that dispatches under way get; None: the handler's ``drain_timeout``."""


Options = TypeVar("Options", bound=NoOptions)


class AdminRoutes:
    """The routes, and the tasks that were begun by them."""

    def __init__(self, supervisor: Supervisor, limits: RequestLimits) -> None:
        self._supervisor = supervisor
        self._limits = limits
        self._tasks: set[asyncio.Task[Any]] = set()

    def routes(self) -> list[web.RouteDef]:
        """Return them, for the composition root to guard and to add."""
        return [
            web.get("/admin/handlers", self.list_handlers),
            web.get("/admin/handlers/{name}", self.show_handler),
            web.post("/admin/handlers/{name}/load", self.load),
            web.post("/admin/handlers/{name}/unload", self.unload),
            web.post("/admin/handlers/{name}/reload", self.reload),
            web.post("/admin/handlers/{name}/pin", self.pin),
            web.post("/admin/handlers/{name}/unpin", self.unpin),
            web.post("/admin/rescan", self.rescan),
            web.get("/admin/memory", self.memory),
            web.post("/admin/drain", self.drain),
        ]

    async def close(self) -> None:
        """End the tasks that nobody waits for."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def list_handlers(self, request: web.Request) -> web.StreamResponse:
        """All there is to tell of all handlers."""
        return json_answer({"handlers": self._supervisor.statuses()})

    async def show_handler(self, request: web.Request) -> web.StreamResponse:
        """All there is to tell of one."""
        return json_answer(self._supervisor.status(request.match_info["name"]))

    async def load(self, request: web.Request) -> web.StreamResponse:
        """Activate a handler."""
        name = self._known(request)
        options = await self._options(request, LoadOptions)
        return await self._do(self._supervisor.load(name), f"load of {name}", options)

    async def unload(self, request: web.Request) -> web.StreamResponse:
        """Take a handler's worker away; the answer comes when its process is gone."""
        name = self._known(request)
        options = await self._options(request, UnloadOptions)
        work = self._supervisor.unload(name, options.mode, options.deadline_s)
        return await self._do(work, f"unload of {name}", options)

    async def reload(self, request: web.Request) -> web.StreamResponse:
        """Unload a handler so that its next dispatch runs what is installed by then."""
        name = self._known(request)
        options = await self._options(request, UnloadOptions)
        work = self._supervisor.reload(name, options.mode, options.deadline_s)
        return await self._do(work, f"reload of {name}", options)

    async def pin(self, request: web.Request) -> web.StreamResponse:
        """Keep a handler from idleness and eviction, until the host's next start."""
        await self._options(request, NoOptions)
        return json_answer(await self._supervisor.pin(self._known(request), pinned=True))

    async def unpin(self, request: web.Request) -> web.StreamResponse:
        """Let it go again."""
        await self._options(request, NoOptions)
        return json_answer(await self._supervisor.pin(self._known(request), pinned=False))

    async def rescan(self, request: web.Request) -> web.StreamResponse:
        """Read anew what is installed."""
        options = await self._options(request, LoadOptions)
        return await self._do(self._supervisor.rescan(), "rescan", options)

    async def memory(self, request: web.Request) -> web.StreamResponse:
        """Measure the host and all its processes."""
        return json_answer(await self._supervisor.memory())

    async def drain(self, request: web.Request) -> web.StreamResponse:
        """Refuse new work from now on."""
        await self._options(request, NoOptions)
        self._supervisor.begin_drain()
        message = "new work is refused and /health/ready is 503; the host goes on until it gets SIGTERM"
        return json_answer({"draining": True, "in_flight": self._supervisor.in_flight, "message": message})

    def _known(self, request: web.Request) -> str:
        """Return the handler's name; raises ``UnknownHandler``."""
        return self._supervisor.status(request.match_info["name"]).name

    async def _options(self, request: web.Request, kind: type[Options]) -> Options:
        """Return what the query and the body say, the body being the stronger."""
        given: Any = dict(request.query)
        if request.can_read_body:
            body = msgspec.json.decode(await self._limits.json_body(request))
            if not isinstance(body, dict):
                raise InvalidInput("the body has to be a JSON object")
            given |= body
        for name in given:
            if name not in kind.__struct_fields__:
                from handler_host._internal.suggestions import (
                    did_you_mean,  # needed only where somebody has made a mistake
                )

                hint = did_you_mean(name, kind.__struct_fields__) or "; there are none here"
                raise InvalidInput(f"unknown option {name!r}{hint}", param=name)
        try:
            return msgspec.convert(given, kind, strict=False)
        except msgspec.ValidationError as error:
            name = str(error).rpartition("$.")[2].rstrip("`")
            raise InvalidInput(f"{name} = {given.get(name)!r}: has to be {MEANINGS[name]}", param=name) from None

    async def _do(self, work: Coroutine[Any, Any, object], title: str, options: LoadOptions) -> web.StreamResponse:
        """Begin the work; answer with its receipt, or at once."""
        task = asyncio.create_task(work, name=title)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        if options.wait:
            return json_answer(await asyncio.shield(task))
        return json_answer({"accepted": True}, status=202)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        fields: dict[str, object] = {"request_id": request_context.current.get().request_id}
        if isinstance(error, HostError):
            log.warning("%s: %s", task.get_name(), error.message, extra={"fields": fields | {"code": error.code}})
        else:
            log.error("%s failed", task.get_name(), exc_info=error, extra={"fields": fields})
