"""``handler-host rescan``."""

from __future__ import annotations

import argparse
from types import SimpleNamespace

from handler_host.cli.failure import OK
from handler_host.cli.options import add_host_options
from handler_host.cli.render import echo, echo_json, note

DESCRIPTION = "The host needs no restart, and the dispatches in progress continue."
EXAMPLES = ("pip install my-plugin && handler-host rescan",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_host_options(parser)


def run(arguments: SimpleNamespace) -> int:
    """Request a rescan and print what changed."""
    from handler_host.cli.client import Client
    from handler_host.cli.progress import show_progress

    client = Client.from_arguments(arguments)
    with show_progress("looking for plugins"):
        report = client.call_admin("POST", "rescan")
    if arguments.json:
        echo_json(report)
        return OK
    changes = [(change, report[change]) for change in ("added", "removed", "changed") if report[change]]
    for change, names in changes:
        echo(f"{change}: {', '.join(names)}")
    if not changes:
        echo("nothing has changed")
    for name, secrets in report.get("secrets", {}).items():
        echo(f"receives secrets: {name}: {', '.join(secrets)} ([handlers.{name}] secrets = [] withholds them)")
    for name, reason in report["problems"].items():
        echo(f"cannot run: {name}: {reason}")
    for warning in report["warnings"]:
        note(f"warning: {warning}")
    return OK
