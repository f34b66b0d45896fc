"""``handler-host events``: what has happened in the host, and what happens."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from handler_host._internal.units import format_duration, format_size
from handler_host.cli.client import Client
from handler_host.cli.failure import OK, UNREACHABLE, USAGE, Failure
from handler_host.cli.render import echo, note, put_json_line

LONGEST_PAUSE = 10.0
"""Seconds between two tries to reach a host that has gone."""
SHOWN_FIRST = 10
"""Events of the past that ``--follow`` begins with."""
_HIDDEN = frozenset({"id", "at", "kind", "handler", "host", "fork_server", "workers", "limit", "limit_source"})
_SIZES = frozenset({"pss", "given_back"})


def events(arguments: SimpleNamespace) -> int:
    """Print the events."""
    if arguments.last is not None and arguments.last < 0:
        raise Failure(f"--last {arguments.last}: has to be 0 or more", USAGE)
    client = Client(arguments)
    query: dict[str, object] = {"follow": "true" if arguments.follow else "false"}
    for option in ("handler", "kind"):
        if getattr(arguments, option):
            query[option] = ",".join(getattr(arguments, option))
    first = "all" if not arguments.follow else str(SHOWN_FIRST)
    query["replay"] = first if arguments.last is None else str(arguments.last)
    for event in _followed(client, query) if arguments.follow else _asked(client, query, None):
        if arguments.json:
            put_json_line(event)
        else:
            echo(_line(event))
    return OK


def _asked(client: Client, query: dict[str, object], after: str | None) -> Iterator[dict[str, Any]]:
    stream = client.happenings(after=after, **query)
    try:
        for _, data in stream:
            event: dict[str, Any] = json.loads(data)
            yield event
    finally:
        stream.close()


def _followed(client: Client, query: dict[str, object]) -> Iterator[dict[str, Any]]:
    """Yield events without an end; a host that goes away is waited for, once it has been there."""
    after: str | None = None
    reached, pause = False, 0.5
    while True:
        try:
            for event in _asked(client, query, after):
                reached, pause = True, 0.5
                after = event.get("id", after)
                yield event
            reached = True
        except Failure as failure:
            if failure.status != UNREACHABLE or not reached:
                raise
        note(f"the host has gone; trying again in {format_duration(pause)}")
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _line(event: dict[str, Any]) -> str:
    if event["kind"] == "gap":
        lost = "events may be missing" if event["lost"] is None else f"{event['lost']} events are missing"
        return f"-- {lost}: {event['reason']}"
    figures = [
        f"{name}={format_size(value) if name in _SIZES and isinstance(value, int) else _shown(value)}"
        for name, value in event.items()
        if name not in _HIDDEN and value is not None
    ]
    return " ".join([event["at"], event["kind"].ljust(10), (event.get("handler") or "-").ljust(12), *figures])


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return repr(text) if not text or any(character.isspace() for character in text) else text
