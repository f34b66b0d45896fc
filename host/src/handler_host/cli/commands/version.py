"""``handler-host version``."""

from __future__ import annotations

import argparse
import platform
from types import SimpleNamespace

from handler_host._internal.versions import __version__
from handler_host.cli.failure import OK
from handler_host.cli.render import echo

DESCRIPTION = "Also prints the version of Python."
EXAMPLES = ("handler-host version",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command: none."""


def run(arguments: SimpleNamespace) -> int:
    """Print the version."""
    echo(f"handler-host {__version__} (Python {platform.python_version()})")
    return OK
