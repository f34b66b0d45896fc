"""``GET /admin/events``: the events of the host as server-sent events."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec
from aiohttp import web

from handler_host.http import request_context, sse
from handler_host.lifecycle.supervisor import Supervisor
from handler_host.plugin.errors import InvalidInput, TooManyConnections, UnknownHandler
from handler_host.telemetry.events import KINDS, MAX_LISTENERS, Event, EventFilter, EventHub

RETRY = b"retry: 2000"
"""Reconnection time of a browser in milliseconds."""
OPTIONS = ("handler", "kind", "replay", "follow")
LAST_ID = "Last-Event-ID"
ALL_PAST = 10**9
"""More events than any ring holds."""


class _Options(NamedTuple):
    """The options of one request."""

    filter: EventFilter
    replay: int
    """Past events to send first."""
    follow: bool
    """False: end after the past events."""


class EventRoutes:
    """The route of the event stream."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def routes(self) -> list[web.RouteDef]:
        """Return the route; the composition root adds authentication."""
        return [web.get("/admin/events", self.follow)]

    @property
    def _hub(self) -> EventHub:
        return self._supervisor.telemetry.events

    async def follow(self, request: web.Request) -> web.StreamResponse:
        """Stream past and new events until the client disconnects or the host stops."""
        hub = self._hub
        options = self._options(request)
        if hub.full:
            raise TooManyConnections(
                f"{MAX_LISTENERS} clients follow the events already; close one of them", retry_after=5.0
            )
        after = request.headers.get(LAST_ID) or None
        with hub.listen(options.filter, after=after, replay=options.replay) as listener:
            async with sse.SseResponse(request, request_context.current.get()) as stream:
                await stream.send_events([RETRY])
                if not options.follow:
                    await stream.send_events(_frames(hub.run, *listener.pop()))
                    return stream.response
                while (batch := await listener.next()) is not None:
                    await stream.send_events(_frames(hub.run, *batch))
            return stream.response

    def _options(self, request: web.Request) -> _Options:
        """Return the options of the query; raises ``InvalidInput`` and ``UnknownHandler``."""
        query = request.query
        for name in query:
            if name not in OPTIONS:
                raise InvalidInput(f"unknown option {name!r}; use {', '.join(OPTIONS)}", param=name)
        kinds = _names(query.getall("kind", []))
        for kind in kinds - KINDS.keys():
            from handler_host._internal.suggestions import did_you_mean  # only a wrong request needs it

            raise InvalidInput(f"kind: unknown kind {kind!r}{did_you_mean(kind, KINDS)}", param="kind")
        handlers = _names(query.getall("handler", []))
        known = {status.name for status in self._supervisor.statuses()} | {event.handler for event in self._hub.past}
        for handler in handlers - known:
            raise UnknownHandler(f"unknown handler {handler!r}; it is not installed and has no events", param="handler")
        replay = query.get("replay", "0" if query.get("follow", "true") == "true" else "all")
        if replay != "all" and not (replay.isdecimal() and len(replay) < 10):
            raise InvalidInput(f"replay = {replay!r}: must be a number of events, or all", param="replay")
        follow = query.get("follow", "true")
        if follow not in ("true", "false"):
            raise InvalidInput(f"follow = {follow!r}: must be true or false", param="follow")
        return _Options(
            EventFilter(handlers, kinds),
            replay=ALL_PAST if replay == "all" else int(replay),
            follow=follow == "true",
        )


def _names(values: Iterable[str]) -> frozenset[str]:
    """Return the names in all values of an option; commas separate several names in one value."""
    return frozenset(name.strip() for value in values for name in value.split(",") if name.strip())


def _frames(run: str, lost: int | None, events: Iterable[Event]) -> list[bytes]:
    """Return the frames of events, after a gap event if some are lost (None: the host has restarted since)."""
    frames = [b"id: %s-%d\ndata: %s" % (run.encode(), event.number, event.data) for event in events]
    if lost != 0:
        reason = "the client read too slowly or was away too long" if lost is not None else "the host has restarted"
        gap = {"kind": "gap", "lost": lost, "reason": reason}
        frames.insert(0, sse.event(msgspec.json.encode(gap), "gap"))
    return frames
