"""The admin routes: status of handlers and memory; load, unload, reload, pin, rescan and drain.

A task that an operator starts belongs to the host: it continues when the operator disconnects.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from aiohttp import web

from handler_host.http import request_context
from handler_host.http.body import BodyReader
from handler_host.http.responses import json_response
from handler_host.lifecycle.supervisor import Supervisor
from handler_host.plugin.errors import HostError, InvalidInput

log = logging.getLogger(__name__)

MAX_DEADLINE_S = 24 * 3600.0
"""Longest deadline; a larger one is a mistake in the unit."""

OPTION_FORMS = {
    "wait": "true or false",
    "mode": "drain, if_idle or force",
    "deadline_s": f"seconds, from 0 to {MAX_DEADLINE_S:g}",
}
"""The valid values of each option, for messages."""


class NoOptions(msgspec.Struct, forbid_unknown_fields=True):
    """Options of the routes that have none."""


class LoadOptions(NoOptions):
    """Options of every task, in the query or as a JSON body."""

    wait: bool = True
    """False: respond 202 at once."""


class UnloadOptions(LoadOptions):
    """Options of ``unload`` and ``reload``."""

    mode: Literal["drain", "if_idle", "force"] = "drain"
    deadline_s: Annotated[float, msgspec.Meta(ge=0, le=MAX_DEADLINE_S)] | None = None
    """Seconds for dispatches in flight to finish; None: the handler's ``drain_timeout``."""


Options = TypeVar("Options", bound=NoOptions)


class AdminRoutes:
    """The admin routes and the tasks that they started."""

    def __init__(self, supervisor: Supervisor, bodies: BodyReader) -> None:
        self._supervisor = supervisor
        self._bodies = bodies
        self._tasks: set[asyncio.Task[Any]] = set()

    def routes(self) -> list[web.RouteDef]:
        """Return the routes; the composition root adds authentication."""
        return [
            web.get("/admin/handlers", self.list_handlers),
            web.get("/admin/handlers/{name}", self.show_handler),
            web.post("/admin/handlers/{name}/load", self.load),
            web.post("/admin/handlers/{name}/unload", self.unload),
            web.post("/admin/handlers/{name}/reload", self.reload),
            web.post("/admin/handlers/{name}/pin", self.pin),
            web.post("/admin/handlers/{name}/unpin", self.unpin),
            web.post("/admin/handlers/{name}/forget", self.forget),
            web.post("/admin/rescan", self.rescan),
            web.get("/admin/memory", self.memory),
            web.post("/admin/drain", self.drain),
        ]

    async def close(self) -> None:
        """Cancel the tasks in progress."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def list_handlers(self, request: web.Request) -> web.StreamResponse:
        """Return the status of all handlers."""
        return json_response({"handlers": self._supervisor.statuses(), "draining": self._supervisor.draining})

    async def show_handler(self, request: web.Request) -> web.StreamResponse:
        """Return the status of one handler."""
        return json_response(self._supervisor.status(request.match_info["name"]))

    async def load(self, request: web.Request) -> web.StreamResponse:
        """Activate a handler."""
        name = self._known(request)
        options = await self._options(request, LoadOptions)
        return await self._run(self._supervisor.load(name), f"load of {name}", options)

    async def unload(self, request: web.Request) -> web.StreamResponse:
        """Unload a handler; respond when its process has exited."""
        name = self._known(request)
        options = await self._options(request, UnloadOptions)
        unload = self._supervisor.unload if options.wait else self._supervisor.unload_without_receipt
        work = unload(name, options.mode, options.deadline_s)
        return await self._run(work, f"unload of {name}", options)

    async def reload(self, request: web.Request) -> web.StreamResponse:
        """Unload a handler so that its next dispatch runs the version that is installed then."""
        name = self._known(request)
        options = await self._options(request, UnloadOptions)
        work = self._supervisor.reload(name, options.mode, options.deadline_s)
        return await self._run(work, f"reload of {name}", options)

    async def pin(self, request: web.Request) -> web.StreamResponse:
        """Exempt a handler from idle unload and eviction until the host restarts."""
        await self._options(request, NoOptions)
        return json_response(await self._supervisor.pin(self._known(request), pinned=True))

    async def unpin(self, request: web.Request) -> web.StreamResponse:
        """End the exemption of a handler."""
        await self._options(request, NoOptions)
        return json_response(await self._supervisor.pin(self._known(request), pinned=False))

    async def forget(self, request: web.Request) -> web.StreamResponse:
        """Discard the memory that was learned of a handler."""
        await self._options(request, NoOptions)
        return json_response(await self._supervisor.forget(self._known(request)))

    async def rescan(self, request: web.Request) -> web.StreamResponse:
        """Read the installed plugins again."""
        options = await self._options(request, LoadOptions)
        return await self._run(self._supervisor.rescan(), "rescan", options)

    async def memory(self, request: web.Request) -> web.StreamResponse:
        """Measure the host and all its processes."""
        return json_response(await self._supervisor.memory())

    async def drain(self, request: web.Request) -> web.StreamResponse:
        """Reject new work from now on."""
        await self._options(request, NoOptions)
        self._supervisor.begin_drain()
        message = "the host rejects new work, and /health/ready is 503; it runs until SIGTERM"
        return json_response({"draining": True, "in_flight": self._supervisor.in_flight, "message": message})

    def _known(self, request: web.Request) -> str:
        """Return the handler's name; raises ``UnknownHandler``."""
        name = request.match_info["name"]
        self._supervisor.require_handler(name)
        return name

    async def _options(self, request: web.Request, kind: type[Options]) -> Options:
        """Return the options of query and body; the body overrides the query."""
        values: Any = dict(request.query)
        if request.can_read_body:
            body = msgspec.json.decode(await self._bodies.read_options(request))
            if not isinstance(body, dict):
                raise InvalidInput("the body must be a JSON object")
            values |= body
        for name in values:
            if name not in kind.__struct_fields__:
                from handler_host._internal.suggestions import did_you_mean  # only a wrong request needs it

                hint = did_you_mean(name, kind.__struct_fields__) or "; this route has none"
                raise InvalidInput(f"unknown option {name!r}{hint}", param=name)
        try:
            return msgspec.convert(values, kind, strict=False)
        except msgspec.ValidationError as error:
            name = str(error).rpartition("$.")[2].rstrip("`")
            raise InvalidInput(f"{name} = {values.get(name)!r}: must be {OPTION_FORMS[name]}", param=name) from None

    async def _run(self, work: Coroutine[Any, Any, object], title: str, options: LoadOptions) -> web.StreamResponse:
        """Start the work; respond with its receipt, or at once."""
        task = asyncio.create_task(work, name=title)
        self._tasks.add(task)
        task.add_done_callback(self._finish)
        if options.wait:
            return json_response(await asyncio.shield(task))
        return json_response({"accepted": True}, status=202)

    def _finish(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        fields: dict[str, object] = {"request_id": request_context.current.get().request_id}
        if isinstance(error, HostError):
            log.warning("%s: %s", task.get_name(), error.message, extra={"fields": fields | {"code": error.code}})
        else:
            log.error("%s failed", task.get_name(), exc_info=error, extra={"fields": fields})
