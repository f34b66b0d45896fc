"""``handler-host ps``."""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from handler_host.cli.failure import OK
from handler_host.cli.options import add_host_options
from handler_host.cli.render import echo, echo_fields, echo_json, echo_table, note, show_duration, show_size
from handler_host.cli.top_table import may_have_several

if TYPE_CHECKING:
    from handler_host.cli.client import Client

DESCRIPTION = (
    "STATE is cold for a handler without a worker; with a worker it is activating, idle, active or draining. GEN "
    "is the number of the worker, PSS its memory, LEARNED the largest memory seen so far, BUSY the number of "
    "dispatches in progress, and EXPIRES the time until an unused handler is unloaded. With names, ps shows "
    "everything known of these handlers, with their error rate and last failures (`why` explains one)."
)
EXAMPLES = (
    "handler-host ps",
    "handler-host ps gpt_e",
    "handler-host ps --url http://10.0.0.1:8080 --url http://10.0.0.2:8080",
    "handler-host ps --json | jq -r '.handlers[] | select(.state == \"idle\").name'",
)
SHOWN_FAILURES = 5
DRAINING = "is draining: it refuses new work until it is restarted"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("handlers", nargs="*", metavar="HANDLER", help="handlers to show in full (default: a table)")
    add_host_options(parser, several=True)


def run(arguments: SimpleNamespace) -> int:
    """Print the table of handlers, or all details of the named ones."""
    from handler_host.cli.batch import request_each
    from handler_host.cli.several_hosts import clients_from

    clients = clients_from(arguments)
    if len(clients) > 1:
        return _run_for_several(clients, arguments)
    (client,) = clients
    if arguments.handlers:
        return request_each(
            arguments.handlers,
            lambda name: _details(client, name, with_failures=not arguments.json),
            _echo_details,
            step="reading",
            as_json=arguments.json,
        )
    response = client.call_admin("GET", "handlers")
    if arguments.json:
        echo_json(response)
        return OK
    handlers = response["handlers"]
    _echo_handlers(handlers)
    if not handlers:
        note("no handlers: install a plugin, then run `handler-host rescan`")
    if response.get("draining", False):
        note(f"the host {DRAINING}")
    return OK


def _run_for_several(clients: list[Client], arguments: SimpleNamespace) -> int:
    """Print the handlers of several hosts in one table, or the details of the named ones."""
    from handler_host.cli.several_hosts import call_each, label

    names = arguments.handlers

    def read(client: Client) -> dict[str, Any]:
        if not names:
            response: dict[str, Any] = client.call_admin("GET", "handlers")
            return response
        return {"handlers": [_details(client, name, with_failures=not arguments.json) for name in names]}

    responses, status = call_each(clients, read)
    if arguments.json:
        echo_json({"hosts": [{"url": client.url} | response for client, response in responses]})
    elif names:
        for client, response in responses:
            for handler in response["handlers"]:
                _echo_details({"host": label(client)} | handler)
    else:
        hosts = [(label(client), response) for client, response in responses]
        _echo_handlers([{"host": host} | handler for host, response in hosts for handler in response["handlers"]])
        for host, response in hosts:
            if response.get("draining", False):
                note(f"{host} {DRAINING}")
    return status


def _echo_handlers(handlers: list[dict[str, Any]]) -> None:
    has_hosts = any("host" in handler for handler in handlers)
    has_places = any(handler.get("place") for handler in handlers)
    has_several = may_have_several(handlers)
    rows = [
        (
            *((handler["host"],) if has_hosts else ()),
            *((handler.get("place") or "-",) if has_places else ()),
            handler["name"],
            handler["state"],
            str(handler["generation"] or "-"),
            str(handler["pid"] or "-"),
            *((f"{len(handler.get('workers', ()))}/{handler.get('max_workers', 1)}",) if has_several else ()),
            show_size(handler["pss"]),
            show_size(handler["learned_pss"]),
            str(handler["in_flight"]),
            str(handler["queued"]),
            show_duration(handler["idle_for"]),
            "pinned" if handler["pin"] else show_duration(handler["expires_in"]),
            handler["reason"] or "",
        )
        for handler in handlers
    ]
    columns = (
        *(("HOST",) if has_hosts else ()),
        *(("PLACE",) if has_places else ()),
        *("NAME", "STATE", "GEN", "PID"),
        *(("WORKERS",) if has_several else ()),
        *("PSS", "LEARNED", "BUSY", "QUEUED", "IDLE", "EXPIRES", "REASON"),
    )
    echo_table(columns, rows, left=("HOST", "PLACE", "NAME", "STATE", "REASON"))


def _details(client: Client, name: str, *, with_failures: bool) -> dict[str, Any]:
    """Return the status of a handler; with its last failures, unless the host's own JSON is printed."""
    status: dict[str, Any] = client.call_admin("GET", "handlers", name)
    if not with_failures:
        return status
    failures = client.call_admin("GET", "failures", handler=name, limit=SHOWN_FAILURES)
    return status | {"last_failures": failures["failures"]}


def _describe_confinement(measures: list[str] | None) -> str:
    if measures is None:
        return ""
    return ", ".join(measures) if measures else "no"


def _describe_plugin(handler: dict[str, Any]) -> str:
    """Return the installed distribution, and the other versions that its workers run until they are replaced."""
    installed = f"{handler['distribution']} {handler['version']}"
    versions = {worker.get("version") for worker in handler.get("workers", ())} - {None, handler["version"]}
    if not versions:
        return installed
    running = ", ".join(sorted(versions))
    return f"{installed} (running: {running}, until `handler-host reload {handler['name']}`)"


def _describe_worker(worker: dict[str, Any]) -> str:
    process = f"pid {worker['pid']}, {show_size(worker['pss'])}, " if worker["pid"] is not None else ""
    cpu = f", {worker['cpu']:.0%} of a processor" if worker["cpu"] is not None else ""
    return f"{worker['state']}, {process}{worker['in_flight']} in flight, started for {worker['started_for']}{cpu}"


def _echo_details(handler: dict[str, Any]) -> None:
    last, operations = handler["last_exit"], handler["operations"]
    fields = {
        "host": handler.get("host", ""),
        "name": handler["name"],
        "state": handler["state"],
        "reason": handler["reason"] or "",
        "plugin": _describe_plugin(handler),
        "instance of": handler.get("plugin") or "",
        "title": handler["title"],
        "description": handler["description"],
        "operations": "unknown until it is activated"
        if operations is None
        else ", ".join(operation["name"] for operation in operations),
        "isolation": handler["isolation"],
        "interpreter": handler.get("python") or "",
        "pinned": "yes" if handler["pin"] else "",
        "generation": str(handler["generation"] or "-"),
        "pid": str(handler["pid"] or "-"),
        "confined": _describe_confinement(handler.get("confinement")),
        "place": handler.get("place") or "",
        "PSS": show_size(handler["pss"]),
        "learned": show_size(handler["learned_pss"]),
        "in flight": str(handler["in_flight"]),
        "queued": str(handler["queued"]),
        "dispatches": str(handler["dispatches"]),
        "error rate": "" if handler["error_rate"] is None else f"{handler['error_rate']:.1%} of the last dispatches",
        "idle for": show_duration(handler["idle_for"]),
        "expires in": show_duration(handler["expires_in"]),
        "retry in": show_duration(handler["retry_in"]),
        "last exit": f"{last['text']} ({last['kind']}, generation {last['generation']}, {last['at']})" if last else "",
    }
    if handler.get("max_workers", 1) > 1:
        for worker in handler["workers"]:
            fields[f"worker {worker['generation']}"] = _describe_worker(worker)
    for number, failure in enumerate(handler["last_failures"], 1):
        text = f"{failure['at']} {failure['request_id']} {failure['code']}: {failure['message']}"
        fields[f"failure {number}"] = text
    echo_fields(fields)
    echo()
