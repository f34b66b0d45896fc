"""``GET /admin/events``: what happens in the host, as server-sent events."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from aiohttp import web

from handler_host.http import request_context
from handler_host.http.sse import SseResponse, event
from handler_host.lifecycle.supervisor import Supervisor
from handler_host.plugin.errors import InvalidInput, TooManyConnections, UnknownHandler
from handler_host.telemetry.events import KINDS, MAX_LISTENERS, Event, EventHub, Wanted

RECONNECT = b"retry: 2000"
"""Milliseconds after which a browser asks again when the stream has ended."""
OPTIONS = ("handler", "kind", "replay", "follow")
LAST_ID = "Last-Event-ID"


class EventRoutes:
    """The route."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def routes(self) -> list[web.RouteDef]:
        """Return it, for the composition root to guard and to add."""
        return [web.get("/admin/events", self.follow)]

    @property
    def _hub(self) -> EventHub:
        return self._supervisor.observation.events

    async def follow(self, request: web.Request) -> web.StreamResponse:
        """Send what has happened and what happens, until the client or the host goes."""
        hub = self._hub
        wanted, replay, follow = self._asked(request)
        if hub.full:
            raise TooManyConnections(f"{MAX_LISTENERS} listeners follow the events already", retry_after=5.0)
        after = request.headers.get(LAST_ID) or None
        with hub.listen(wanted, after=after, replay=replay) as listener:
            async with SseResponse(request, request_context.current.get()) as stream:
                await stream.send_events([RECONNECT])
                if not follow:
                    await stream.send_events(_frames(hub.run, *listener.ready()))
                    return stream.response
                while (batch := await listener.next()) is not None:
                    await stream.send_events(_frames(hub.run, *batch))
            return stream.response

    def _asked(self, request: web.Request) -> tuple[Wanted, int, bool]:
        """Return what the query wants; raises ``InvalidInput`` and ``UnknownHandler``."""
        query = request.query
        for name in query:
            if name not in OPTIONS:
                raise InvalidInput(f"unknown option {name!r}; there are: {', '.join(OPTIONS)}", param=name)
        kinds = _names(query.getall("kind", []))
        for kind in kinds - KINDS.keys():
            from handler_host._internal.suggestions import did_you_mean  # needed only where somebody has made a mistake

            raise InvalidInput(f"kind: unknown kind {kind!r}{did_you_mean(kind, KINDS)}", param="kind")
        handlers = _names(query.getall("handler", []))
        known = {status.name for status in self._supervisor.statuses()} | {event.handler for event in self._hub.past}
        for handler in handlers - known:
            raise UnknownHandler(f"there is no handler {handler!r}, and nothing is told of one", param="handler")
        replay = query.get("replay", "0" if query.get("follow", "true") == "true" else "all")
        if replay != "all" and not (replay.isdecimal() and len(replay) < 10):
            raise InvalidInput(f"replay = {replay!r}: has to be a number of events, or all", param="replay")
        follow = query.get("follow", "true")
        if follow not in ("true", "false"):
            raise InvalidInput(f"follow = {follow!r}: has to be true or false", param="follow")
        return Wanted(handlers, kinds), 10**9 if replay == "all" else int(replay), follow == "true"


def _names(values: Iterable[str]) -> frozenset[str]:
    """Return the names in options that may come several times, and hold several with commas between."""
    return frozenset(name.strip() for value in values for name in value.split(",") if name.strip())


def _frames(run: str, lost: int | None, events: Iterable[Event]) -> list[bytes]:
    """Return events as they are sent; before them what was lost (None: the host has started anew since)."""
    frames = [b"id: %s-%d\ndata: %s" % (run.encode(), told.number, told.data) for told in events]
    if lost != 0:
        reason = "too slow, or too long away" if lost is not None else "the host was started anew"
        gap = {"kind": "gap", "lost": lost, "reason": reason}
        frames.insert(0, event(msgspec.json.encode(gap), "gap"))
    return frames
