"""Commands, and the options that several of them have."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

from handler_host.cli.flags import FLAGS

WIDTH = 78
"""Characters of a line of explanation."""


def add(commands: Any, name: str, module: str, what: str, more: str, *examples: str) -> argparse.ArgumentParser:
    """Add a command, and say what it is for, the small print, and how it is used."""
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=what,
        description=f"{what[0].upper()}{what[1:]}.\n\n{textwrap.fill(more, WIDTH)}".rstrip(),
        epilog="\n  ".join([f"example{'s' if len(examples) > 1 else ''}:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.set_defaults(module=module)
    return command


def unload_options(command: argparse.ArgumentParser) -> None:
    """Add what unload and reload have in common."""
    command.add_argument("handlers", nargs="*", metavar="HANDLER")
    command.add_argument("--all", action="store_true", help="all handlers that have a worker")
    command.add_argument(
        "--mode",
        choices=("drain", "if_idle", "force"),
        default="drain",
        help="drain: let what is under way come to its end (default); if_idle: only if nothing is under way; "
        "force: end it with an error",
    )
    command.add_argument("--deadline", metavar="10s", help="what dispatches under way get before they are ended")
    command.add_argument("--no-wait", action="store_true", help="do not wait until it is done")
    client_options(command, json=True)


def client_options(command: argparse.ArgumentParser, *, json: bool = False) -> None:
    """Add where the host is, and how its answer is shown."""
    command.add_argument("--url", help="where the host is (default: HANDLER_HOST_URL, or http://127.0.0.1:8080)")
    if command.get_default("module") in ("operate", "events", "top"):
        command.add_argument(
            "--token-file", metavar="FILE", help="file with the admin token (default: HANDLER_HOST_ADMIN_TOKEN)"
        )
    if json:
        command.add_argument("--json", action="store_true", help="print the host's own JSON; errors, too")


def config_options(command: argparse.ArgumentParser) -> None:
    """Add the configuration file, and the flags that are keys of it."""
    command.add_argument("--config", metavar="FILE", help="the TOML file (default: HANDLER_HOST_CONFIG, or none)")
    for flag in FLAGS:
        command.add_argument(flag.name, dest=flag.attribute, metavar=flag.metavar, help=flag.meaning)
