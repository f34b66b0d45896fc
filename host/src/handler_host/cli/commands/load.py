"""``handler-host load``."""

from __future__ import annotations

import argparse
from types import SimpleNamespace

from handler_host.cli.options import add_host_options
from handler_host.cli.render import echo

DESCRIPTION = (
    "A dispatch to a cold handler activates it, too, but waits for the activation. Load the handlers whose first "
    "request must not wait."
)
EXAMPLES = ("handler-host load gpt_a gpt_e",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("handlers", nargs="+", metavar="HANDLER", help="handlers to activate")
    parser.add_argument("--no-wait", action="store_true", help="return at once; the activation continues")
    add_host_options(parser)


def run(arguments: SimpleNamespace) -> int:
    """Activate handlers and print a receipt for each."""
    from handler_host.cli.batch import request_each
    from handler_host.cli.client import Client
    from handler_host.cli.receipts import describe_load

    client = Client.from_arguments(arguments)
    query = {"wait": "false"} if arguments.no_wait else {}
    return request_each(
        arguments.handlers,
        lambda name: {"handler": name} | client.call_admin("POST", "handlers", name, "load", **query),
        lambda receipt: echo(describe_load(receipt)),
        step="activating",
        as_json=arguments.json,
    )
