"""``handler-host top``: the handlers and the memory, live; keys load and unload.

The screen (``handler_host.cli.top_screen``) needs textual, of the extra ``tools``; a terminal
that cannot move its cursor gets a table after the other, without it.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from types import SimpleNamespace

from handler_host._internal.units import parse_duration
from handler_host.cli.client import Client
from handler_host.cli.failure import OK, UNREACHABLE, USAGE, Failure
from handler_host.cli.render import echo, note
from handler_host.cli.top_table import frame

SHORTEST = 0.2
"""Seconds: more often nobody reads, and the host measures for nothing."""
HISTORY = 1000
"""Measurements that are kept: more than a terminal has columns."""
CANNOT_MOVE = frozenset({"dumb", "unknown", ""})
"""What ``TERM`` says of a terminal that only prints."""


def top(arguments: SimpleNamespace) -> int:
    """Show the handlers until ``q`` or Ctrl-C."""
    try:
        interval = parse_duration(arguments.interval)
    except ValueError as error:
        raise Failure(f"--interval: {error}", USAGE) from None
    if interval < SHORTEST:
        raise Failure(f"--interval {arguments.interval}: has to be {SHORTEST:g} s or more", USAGE)
    client = Client(arguments)
    if arguments.plain or arguments.once:
        return _plain(client, interval, once=arguments.once)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Failure("top needs a terminal; for a pipe there are `ps --json`, `top --plain` and `top --once`", USAGE)
    if os.environ.get("TERM", "") in CANNOT_MOVE:
        return _plain(client, interval)
    try:
        from handler_host.cli.top_screen import Screen
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("textual", "rich"):
            raise
        raise Failure(
            "top needs textual, which is not installed: pip install 'handler-host[tools]'; or use `top --plain`", USAGE
        ) from error
    client.admin("GET", "memory")  # what is wrong with URL and token is said before the screen is taken
    screen = Screen(client, interval)
    screen.run()
    if screen.failure is not None:
        raise screen.failure
    return OK


def _plain(client: Client, interval: float, *, once: bool = False) -> int:
    """Print a table after the other, or one; a host that goes away is waited for, once it has been there."""
    history: list[int] = []
    while True:
        try:
            memory, handlers = client.admin("GET", "memory"), client.admin("GET", "handlers")
        except Failure as failure:
            if failure.status != UNREACHABLE or not history:
                raise
            note(f"{failure}; trying again in {interval:g} s")
        else:
            history = [*history[-HISTORY:], memory["used"]]
            width = shutil.get_terminal_size().columns
            echo("\n".join([*frame(handlers, memory, history, width), ""]))
            if once:
                return OK
        time.sleep(interval)
