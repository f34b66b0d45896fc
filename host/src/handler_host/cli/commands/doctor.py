"""``handler-host doctor``."""

from __future__ import annotations

import argparse
from types import SimpleNamespace

from handler_host.cli.options import add_config_options

DESCRIPTION = (
    "doctor checks a host that would be started from this shell, with its environment and configuration, and the "
    "learned memory in its state file. If a running host is set with --url or HANDLER_HOST_URL, its learned memory "
    "and its secrets are taken into account. No plugin is imported, except with --measure: it activates each handler "
    "once in a temporary host, and shows and stores the real memory and cold start. In the plan, `idle` is the host "
    "with its pinned handlers, and `expected` the handlers that are active at the same time: the pinned ones and the "
    "two largest others, or those of --expect. The engine of each launcher ([launchers.NAME]) is connected to, and "
    "reports its version, authentication and machines; so does the server of [shared]. With the name of a launcher, "
    "only its engine is checked; `handler-host ray doctor` is the same as `handler-host doctor ray`. The exit status "
    "is 1 if there is a problem."
)
EXAMPLES = (
    "handler-host doctor --config host.toml",
    "handler-host doctor --measure --expect gpt_a,sheets",
    "handler-host doctor ray",
    "handler-host doctor --json | jq '.findings[] | select(.level == \"problem\")'",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("launcher", nargs="?", metavar="LAUNCHER", help="check only the engine of [launchers.LAUNCHER]")
    parser.add_argument("--measure", action="store_true", help="activate each handler once to measure it")
    parser.add_argument(
        "--expect", metavar="A,B", help="handlers that are active at the same time (default: the two largest)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--url", help="running host to query (default: HANDLER_HOST_URL, or none)")
    parser.add_argument(
        "--token-file", metavar="FILE", help="file with its admin token (default: HANDLER_HOST_ADMIN_TOKEN)"
    )
    add_config_options(parser)


def run(arguments: SimpleNamespace) -> int:
    """Print the findings and the plan; return 1 if there is a problem."""
    from handler_host.cli.diagnosis import diagnose

    return diagnose(arguments)
