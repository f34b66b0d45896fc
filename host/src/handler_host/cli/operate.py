"""The operators' commands: ``ps``, ``load``, ``unload``, ``reload``, ``pin``, ``rescan``, ``memory``, ``drain``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from handler_host._internal.units import parse_duration
from handler_host.cli.client import Client
from handler_host.cli.failure import OK, UNREACHABLE, USAGE, Failure
from handler_host.cli.memory import put_memory
from handler_host.cli.receipts import of_load, of_pin, of_unload
from handler_host.cli.render import (
    duration,
    echo,
    note,
    put_failure,
    put_fields,
    put_json,
    put_json_line,
    put_table,
    size,
)

WITHOUT_WORKER = frozenset({"cold", "failed", "invalid", "incompatible", "conflict", "blocked", "missing-secret"})


def ps(arguments: SimpleNamespace) -> int:
    """List the handlers; of those that are named tell all there is."""
    client = Client(arguments)
    if arguments.handlers:
        return _each(arguments, lambda name: client.admin("GET", "handlers", name), arguments.handlers, _put_handler)
    response = client.admin("GET", "handlers")
    if arguments.json:
        put_json(response)
        return OK
    rows = [
        (
            handler["name"],
            handler["state"],
            str(handler["generation"] or "-"),
            str(handler["pid"] or "-"),
            size(handler["pss"]),
            size(handler["learned_pss"]),
            str(handler["in_flight"]),
            str(handler["queued"]),
            duration(handler["idle_for"]),
            "pinned" if handler["pin"] else duration(handler["expires_in"]),
            handler["reason"] or "",
        )
        for handler in response["handlers"]
    ]
    columns = ("NAME", "STATE", "GEN", "PID", "PSS", "LEARNED", "BUSY", "QUEUED", "IDLE", "EXPIRES", "REASON")
    put_table(columns, rows, left=("NAME", "STATE", "REASON"))
    if not rows:
        note("there are no handlers: install a plugin, then run `handler-host rescan`")
    return OK


def _put_handler(handler: dict[str, Any]) -> None:
    last = handler["last_exit"]
    operations = handler["operations"]
    fields = {
        "name": handler["name"],
        "state": handler["state"],
        "reason": handler["reason"] or "",
        "plugin": f"{handler['distribution']} {handler['version']}",
        "title": handler["title"],
        "description": handler["description"],
        "operations": "known once it was active"
        if operations is None
        else ", ".join(one["name"] for one in operations),
        "isolation": handler["isolation"],
        "pinned": "yes" if handler["pin"] else "",
        "generation": str(handler["generation"] or "-"),
        "pid": str(handler["pid"] or "-"),
        "PSS": size(handler["pss"]),
        "learned": size(handler["learned_pss"]),
        "in flight": str(handler["in_flight"]),
        "queued": str(handler["queued"]),
        "dispatches": str(handler["dispatches"]),
        "idle for": duration(handler["idle_for"]),
        "expires in": duration(handler["expires_in"]),
        "retry in": duration(handler["retry_in"]),
        "last exit": f"{last['text']} ({last['kind']}, generation {last['generation']}, {last['at']})" if last else "",
    }
    put_fields(fields)
    echo()


def load(arguments: SimpleNamespace) -> int:
    """Activate handlers."""
    client, query = Client(arguments), _options(arguments)
    return _each(
        arguments,
        lambda name: {"handler": name} | client.admin("POST", "handlers", name, "load", **query),
        arguments.handlers,
        lambda receipt: echo(of_load(receipt)),
    )


def unload(arguments: SimpleNamespace) -> int:
    """Take workers away."""
    return _take_away(arguments)


def reload(arguments: SimpleNamespace) -> int:
    """Take workers away, so that new ones run what is installed now."""
    return _take_away(arguments)


def pin(arguments: SimpleNamespace) -> int:
    """Keep handlers from idleness and eviction, until the host's next start."""
    return _pin(arguments)


def unpin(arguments: SimpleNamespace) -> int:
    """Let them go again."""
    return _pin(arguments)


def _pin(arguments: SimpleNamespace) -> int:
    client = Client(arguments)
    return _each(
        arguments,
        lambda name: client.admin("POST", "handlers", name, arguments.command),
        arguments.handlers,
        lambda handler: echo(of_pin(handler)),
    )


def _take_away(arguments: SimpleNamespace) -> int:
    client, query = Client(arguments), _options(arguments)
    names: Iterable[str] = arguments.handlers
    if arguments.all:
        if names:
            raise Failure("--all means all handlers: name none beside it", USAGE)
        handlers = client.admin("GET", "handlers")["handlers"]
        names = [handler["name"] for handler in handlers if handler["state"] not in WITHOUT_WORKER]
        if not names:
            note("no handler has a worker")
    elif not names:
        raise Failure(f"name handlers, or all that have a worker: handler-host {arguments.command} --all", USAGE)
    return _each(
        arguments,
        lambda name: {"handler": name} | client.admin("POST", "handlers", name, arguments.command, **query),
        names,
        lambda receipt: echo(of_unload(receipt)),
    )


def _options(arguments: SimpleNamespace) -> dict[str, object]:
    """Return the query of a load, an unload or a reload."""
    query: dict[str, object] = {}
    if arguments.no_wait:
        query["wait"] = "false"
    if arguments.command == "load":
        return query
    query["mode"] = arguments.mode
    if arguments.deadline is not None:
        try:
            query["deadline_s"] = parse_duration(arguments.deadline)
        except ValueError as error:
            raise Failure(f"--deadline: {error}", USAGE) from None
    return query


def _each(
    arguments: SimpleNamespace, ask: Callable[[str], Any], names: Iterable[str], show: Callable[[Any], None]
) -> int:
    """Ask for each handler and show its answer; a refusal of one is told, and the others get their turn."""
    status = OK
    for name in dict.fromkeys(names):
        try:
            response = ask(name)
        except Failure as failure:
            if failure.status in (USAGE, UNREACHABLE):
                raise
            put_failure(failure, as_json=arguments.json)
            status = failure.status
            continue
        if arguments.json:
            put_json_line(response)
        else:
            show(response)
    return status


def rescan(arguments: SimpleNamespace) -> int:
    """Read anew what is installed."""
    report = Client(arguments).admin("POST", "rescan")
    if arguments.json:
        put_json(report)
        return OK
    changes = [(what, report[what]) for what in ("added", "removed", "changed") if report[what]]
    for what, names in changes:
        echo(f"{what}: {', '.join(names)}")
    if not changes:
        echo("nothing has changed")
    for name, reason in report["problems"].items():
        echo(f"cannot run: {name}: {reason}")
    for warning in report["warnings"]:
        note(f"warning: {warning}")
    return OK


def memory(arguments: SimpleNamespace) -> int:
    """Show the memory of the host and its processes, and who would have to go next."""
    report = Client(arguments).admin("GET", "memory")
    if arguments.json:
        put_json(report)
    else:
        put_memory(report)
    return OK


def drain(arguments: SimpleNamespace) -> int:
    """Let the host take no new work."""
    response = Client(arguments).admin("POST", "drain")
    if arguments.json:
        put_json(response)
    else:
        echo(f"the host takes no new work; dispatches under way: {response['in_flight']}")
    return OK
