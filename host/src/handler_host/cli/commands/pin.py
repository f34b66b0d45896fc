"""``handler-host pin``, and what ``unpin`` shares with it."""

from __future__ import annotations

import argparse
from types import SimpleNamespace

from handler_host.cli.options import add_host_options
from handler_host.cli.render import echo

DESCRIPTION = (
    "A pinned handler stays active until `unpin` or the next start of the host. To keep it active after a restart, "
    "set pin = true in its section of the configuration."
)
EXAMPLES = ("handler-host pin gpt_a",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("handlers", nargs="+", metavar="HANDLER", help="handlers to change")
    add_host_options(parser)


def run(arguments: SimpleNamespace) -> int:
    """Pin (or unpin) handlers and print the result for each."""
    from handler_host.cli.batch import request_each
    from handler_host.cli.client import Client
    from handler_host.cli.receipts import describe_pin

    client = Client.from_arguments(arguments)
    return request_each(
        arguments.handlers,
        lambda name: client.call_admin("POST", "handlers", name, arguments.command),
        lambda handler: echo(describe_pin(handler)),
        step=f"{arguments.command}ning",
        as_json=arguments.json,
    )
