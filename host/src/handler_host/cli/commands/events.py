"""``handler-host events``."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from handler_host._internal.units import SIZE_FIGURES, format_duration, format_size
from handler_host.cli.failure import OK, UNREACHABLE, USAGE, Failure
from handler_host.cli.options import add_host_options
from handler_host.cli.render import echo, echo_json_line, note

if TYPE_CHECKING:
    from handler_host.cli.client import Client

DESCRIPTION = (
    "One line for each step in a handler's life and for each action of an operator. With --follow the command "
    "survives a restart of the host: it reconnects and shows the events that it missed. --json prints one event "
    "in a line."
)
EXAMPLES = (
    "handler-host events",
    "handler-host events --follow --handler gpt_a",
    "handler-host events --follow --url http://one:8080 --url http://two:8080",
    "handler-host events --follow --kind unloaded --json | jq .cause",
)
FIRST_RETRY_S, MAX_RETRY_S = 0.5, 10.0
"""Seconds between attempts to reach a host that has gone; they double up to the maximum."""
REPLAYED = 10
"""Past events that ``--follow`` shows first."""
_HIDDEN = frozenset({"id", "at", "kind", "handler", "host", "fork_server", "workers", "limit", "limit_source"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--follow", "-f", action="store_true", help="keep showing new events until Ctrl-C")
    parser.add_argument(
        "--last", metavar="N", type=int, help=f"past events to show first (default: all; {REPLAYED} with --follow)"
    )
    parser.add_argument("--handler", action="append", metavar="HANDLER", help="only of this handler; repeatable")
    parser.add_argument("--kind", action="append", metavar="KIND", help="only of this kind; repeatable")
    add_host_options(parser, several=True)


def run(arguments: SimpleNamespace) -> int:
    """Print the events."""
    from handler_host.cli.several_hosts import clients_from, label, merge

    if arguments.last is not None and arguments.last < 0:
        raise Failure(f"--last {arguments.last}: must be 0 or more", USAGE)
    clients = clients_from(arguments)
    query: dict[str, object] = {"follow": "true" if arguments.follow else "false"}
    for option in ("handler", "kind"):
        if getattr(arguments, option):
            query[option] = ",".join(getattr(arguments, option))
    replayed = "all" if not arguments.follow else str(REPLAYED)
    query["replay"] = replayed if arguments.last is None else str(arguments.last)

    def stream(client: Client) -> Iterator[dict[str, Any]]:
        return _follow(client, query) if arguments.follow else _request(client, query, after=None)

    if len(clients) == 1:
        for event in stream(clients[0]):
            _echo(event, None, as_json=arguments.json)
        return OK
    merged = merge(clients, stream)
    for client, event in merged if arguments.follow else sorted(merged, key=lambda pair: str(pair[1].get("at", ""))):
        _echo(event, label(client), as_json=arguments.json)
    return OK


def _echo(event: dict[str, Any], host: str | None, *, as_json: bool) -> None:
    """Print an event; ``host`` is where it comes from, if there are several."""
    if as_json:
        echo_json_line(event if host is None else {"from_host": host} | event)
    else:
        echo(_format(event) if host is None else f"{host} {_format(event)}")


def _request(client: Client, query: dict[str, object], *, after: str | None) -> Iterator[dict[str, Any]]:
    """Yield the events of one response."""
    stream = client.stream_admin_events(after=after, **query)
    try:
        for _, data in stream:
            event: dict[str, Any] = json.loads(data)
            yield event
    finally:
        stream.close()


def _follow(client: Client, query: dict[str, object]) -> Iterator[dict[str, Any]]:
    """Yield events without end. Reconnect to a host that goes away, but fail if it was never reached."""
    after: str | None = None
    was_reached, retry_s = False, FIRST_RETRY_S
    while True:
        try:
            for event in _request(client, query, after=after):
                was_reached, retry_s = True, FIRST_RETRY_S
                after = event.get("id", after)
                yield event
            was_reached = True
        except Failure as failure:
            if failure.status != UNREACHABLE or not was_reached:
                raise
        note(f"{client.url}: the host is gone; retry in {format_duration(retry_s)}")
        time.sleep(retry_s)
        retry_s = min(2 * retry_s, MAX_RETRY_S)


def _format(event: dict[str, Any]) -> str:
    if event["kind"] == "gap":
        lost = "events may be missing" if event["lost"] is None else f"{event['lost']} events are missing"
        return f"-- {lost}: {event['reason']}"
    fields = [
        f"{name}={format_size(value) if name in SIZE_FIGURES and isinstance(value, int) else _format_value(value)}"
        for name, value in event.items()
        if name not in _HIDDEN and value is not None
    ]
    return " ".join([event["at"], event["kind"].ljust(10), (event.get("handler") or "-").ljust(12), *fields])


def _format_value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return repr(text) if not text or any(character.isspace() for character in text) else text
