"""``handler-host compile``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

from handler_host._internal.suggestions import did_you_mean
from handler_host.cli.failure import OK, REFUSED, USAGE, Failure
from handler_host.cli.options import add_config_options, load_configuration
from handler_host.cli.render import echo, echo_json

if TYPE_CHECKING:
    from handler_host.cli.lean_packages import LeanStatus

DESCRIPTION = (
    "Rewrites the packages that handlers list in [lean] of their manifests, so that their imports are deferred until "
    "they are used. A running host does this by itself after the first activation of a handler; run it in the build "
    "of an image, so that the first activation is lean too. The code is stored in the virtual environment, or in "
    "LEAN_CACHE. The exit status is 1 if a package cannot be compiled."
)
EXAMPLES = ("handler-host compile", "handler-host compile gpt_a gpt_b")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("handler", nargs="*", metavar="HANDLER", help="handlers (default: all that are installed)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_config_options(parser)


def run(arguments: SimpleNamespace) -> int:
    """Compile what is not compiled yet, and print the state of each package."""
    import msgspec

    from handler_host.catalog.catalog import scan_config
    from handler_host.cli.lean_packages import LeanFailed, run_lean_job
    from handler_host.cli.progress import show_progress
    from handler_host.config import with_state_file

    config = with_state_file(load_configuration(arguments).config, os.environ)
    entries = scan_config(config, os.environ).entries
    for name in arguments.handler:
        if name not in entries:
            raise Failure(f"no handler {name!r} is installed{did_you_mean(name, entries)}", USAGE)
    statuses = []
    for name in arguments.handler or entries:
        try:
            with show_progress(f"compiling the packages of {name}"):
                status = run_lean_job(config, entries[name], compile=True)
        except LeanFailed as error:
            raise Failure(f"{name}: its packages cannot be compiled: {error}", REFUSED) from error
        if status is not None:
            statuses.append(status)
    if arguments.json:
        echo_json({status.handler: msgspec.to_builtins(status.result) for status in statuses})
    else:
        _echo_statuses(statuses)
    return REFUSED if any(status.result.failures for status in statuses) else OK


def _echo_statuses(statuses: Sequence[LeanStatus]) -> None:
    for handler, result in statuses:
        for package in result.lean:
            echo(f"{handler}: {package}: {'compiled' if package in result.compiled else 'was compiled before'}")
        for package, reason in result.eager.items():
            echo(f"{handler}: {package}: stays eager: {reason}")
    if not statuses:
        echo("no handler has packages to compile")
