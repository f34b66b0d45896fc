"""``handler-host drain``."""

from __future__ import annotations

import argparse
from types import SimpleNamespace

from handler_host.cli.failure import OK
from handler_host.cli.options import add_host_options
from handler_host.cli.render import echo, echo_json

DESCRIPTION = (
    "The host answers new dispatches with 503, and /health/ready reports that it is not ready, so that a load "
    "balancer uses other hosts. Only a restart ends this."
)
EXAMPLES = ("handler-host drain",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_host_options(parser)


def run(arguments: SimpleNamespace) -> int:
    """Drain the host and print how many dispatches are in progress."""
    from handler_host.cli.client import Client

    response = Client.from_arguments(arguments).call_admin("POST", "drain")
    if arguments.json:
        echo_json(response)
    else:
        echo(f"the host refuses new work until it is restarted; dispatches in progress: {response['in_flight']}")
    return OK
