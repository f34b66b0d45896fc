"""``handler-host top``.

The screen (``handler_host.cli.top_screen``) needs textual, from the extra ``tools``. A terminal that
cannot move its cursor gets one table after the other, without textual.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

from handler_host.cli.failure import OK, UNREACHABLE, USAGE, Failure
from handler_host.cli.options import add_host_options
from handler_host.cli.render import echo, note

if TYPE_CHECKING:
    from handler_host.cli.client import Client

DESCRIPTION = (
    "Keys: arrows or j and k select a handler, l loads it, u unloads it after the dispatches in progress, U unloads "
    "it at once, r reloads it, p pins or unpins it, q quits. The bars show the memory since the start of the command "
    "against the limit. A narrow terminal shows fewer columns. Needs the extra: pip install 'handler-host[tools]'. "
    "With --plain, for several hosts, and on a terminal that cannot move its cursor (TERM=dumb), it prints one table "
    "after the other."
)
EXAMPLES = (
    "handler-host top",
    "handler-host top --interval 5s",
    "handler-host top --plain --interval 10s",
)
MIN_INTERVAL_S = 0.2
"""More often is unreadable, and each refresh makes the host measure its memory."""
HISTORY = 1000
"""Measurements to keep: more than a terminal has columns."""
DUMB_TERMINALS = frozenset({"dumb", "unknown", ""})
"""Values of ``TERM`` for a terminal that cannot move its cursor."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--interval", metavar="2s", default="2s", help="time between two refreshes (default: 2s)")
    parser.add_argument("--plain", action="store_true", help="print tables without colours and keys")
    parser.add_argument("--once", action="store_true", help="print one table and end")
    add_host_options(parser, json=False, several=True)


def run(arguments: SimpleNamespace) -> int:
    """Show the handlers until ``q`` or Ctrl-C."""
    from handler_host._internal.units import parse_duration
    from handler_host.cli.several_hosts import clients_from

    try:
        interval_s = parse_duration(arguments.interval)
    except ValueError as error:
        raise Failure(f"--interval: {error}", USAGE) from None
    if interval_s < MIN_INTERVAL_S:
        raise Failure(f"--interval {arguments.interval}: must be {MIN_INTERVAL_S:g} s or more", USAGE)
    clients = clients_from(arguments)
    if len(clients) > 1:
        return _print_tables_of_several(clients, interval_s, once=arguments.once)
    (client,) = clients
    if arguments.plain or arguments.once:
        return _print_tables(client, interval_s, once=arguments.once)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Failure("top needs a terminal; in a pipe use `ps --json`, `top --plain` or `top --once`", USAGE)
    if os.environ.get("TERM", "") in DUMB_TERMINALS:
        return _print_tables(client, interval_s)
    try:
        from handler_host.cli.top_screen import Screen
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("textual", "rich"):
            raise
        raise Failure(
            "top needs textual, which is not installed: pip install 'handler-host[tools]'; or use `top --plain`", USAGE
        ) from error
    client.call_admin("GET", "memory")  # report a wrong URL or token before the screen is taken over
    screen = Screen(client, interval_s)
    screen.run()
    if screen.failure is not None:
        raise screen.failure
    return OK


def _print_tables_of_several(clients: list[Client], interval_s: float, *, once: bool) -> int:
    """Print the tables of all hosts, one below the other, until Ctrl-C, or once."""
    from handler_host.cli.several_hosts import call_each, label
    from handler_host.cli.top_table import table_lines

    histories: dict[str, list[int]] = {}
    while True:
        responses, status = call_each(
            clients, lambda client: (client.call_admin("GET", "memory"), client.call_admin("GET", "handlers"))
        )
        width = shutil.get_terminal_size().columns
        for client, (memory, response) in responses:
            history = histories[client.url] = [*histories.get(client.url, [])[-HISTORY:], memory["used"]]
            lines = table_lines(response["handlers"], memory, history, width, draining=response.get("draining", False))
            echo("\n".join([label(client), *lines, ""]))
        if once or not histories:
            return status
        time.sleep(interval_s)


def _print_tables(client: Client, interval_s: float, *, once: bool = False) -> int:
    """Print tables until Ctrl-C, or one. Wait for a host that goes away, but fail if it was never reached."""
    from handler_host.cli.top_table import table_lines

    history: list[int] = []
    while True:
        try:
            memory, response = client.call_admin("GET", "memory"), client.call_admin("GET", "handlers")
        except Failure as failure:
            if failure.status != UNREACHABLE or not history:
                raise
            note(f"{failure}; retry in {interval_s:g} s")
        else:
            history = [*history[-HISTORY:], memory["used"]]
            width = shutil.get_terminal_size().columns
            lines = table_lines(response["handlers"], memory, history, width, draining=response.get("draining", False))
            echo("\n".join([*lines, ""]))
            if once:
                return OK
        time.sleep(interval_s)
