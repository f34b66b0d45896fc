"""``handler-host unload``, and what ``reload`` shares with it."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from types import SimpleNamespace

from handler_host.cli.failure import OK, USAGE, Failure
from handler_host.cli.options import add_host_options
from handler_host.cli.render import echo, note

DESCRIPTION = (
    "An unloaded handler stays in the list as cold, and its next dispatch activates it again. The command returns "
    "when the worker process has ended, with a receipt: the memory it freed, and the dispatches that were drained "
    "or killed."
)
EXAMPLES = (
    "handler-host unload gpt_e",
    "handler-host unload --all --mode if_idle",
    "handler-host unload gpt_e --mode drain --deadline 10s",
)
STATES_WITHOUT_WORKER = frozenset(
    {"cold", "failed", "invalid", "incompatible", "conflict", "blocked", "missing-secret"}
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("handlers", nargs="*", metavar="HANDLER", help="handlers to unload")
    parser.add_argument("--all", action="store_true", help="all handlers that have a worker")
    parser.add_argument(
        "--mode",
        choices=("drain", "if_idle", "force"),
        default="drain",
        help="drain: finish the dispatches in progress first (default); if_idle: only if there are none; "
        "force: end them with an error",
    )
    parser.add_argument("--deadline", metavar="10s", help="time for the dispatches in progress before they are killed")
    parser.add_argument("--no-wait", action="store_true", help="return at once; the unload continues")
    add_host_options(parser)


def run(arguments: SimpleNamespace) -> int:
    """Unload (or reload) handlers and print a receipt for each."""
    from handler_host.cli.batch import request_each
    from handler_host.cli.client import Client
    from handler_host.cli.receipts import describe_unload

    client, query = Client.from_arguments(arguments), _query(arguments)
    names: Iterable[str] = arguments.handlers
    if arguments.all:
        if names:
            raise Failure("--all: handlers are named as well; use either names or --all", USAGE)
        handlers = client.call_admin("GET", "handlers")["handlers"]
        names = [handler["name"] for handler in handlers if handler["state"] not in STATES_WITHOUT_WORKER]
        if not names:
            note("no handler has a worker")
            return OK
    elif not names:
        raise Failure(f"no handler is named; name one, or all: handler-host {arguments.command} --all", USAGE)
    return request_each(
        names,
        lambda name: {"handler": name} | client.call_admin("POST", "handlers", name, arguments.command, **query),
        lambda receipt: echo(describe_unload(receipt)),
        step=f"{arguments.command}ing",
        as_json=arguments.json,
    )


def _query(arguments: SimpleNamespace) -> dict[str, object]:
    from handler_host._internal.units import parse_duration

    query: dict[str, object] = {"mode": arguments.mode}
    if arguments.no_wait:
        query["wait"] = "false"
    if arguments.deadline is not None:
        try:
            query["deadline_s"] = parse_duration(arguments.deadline)
        except ValueError as error:
            raise Failure(f"--deadline: {error}", USAGE) from None
    return query
