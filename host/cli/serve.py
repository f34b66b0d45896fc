"""``handler-host serve``."""

from __future__ import annotations

import sys
from types import SimpleNamespace

from host.cli.flags import loaded

DONE_WITH = ("argparse", "gettext", "host.cli.parser")
"""Modules that have read the arguments: the server gives their memory to what it imports now."""


def serve(arguments: SimpleNamespace) -> int:
    """Run the host until it is told to stop."""
    config = loaded(arguments).config
    for module in DONE_WITH:
        sys.modules.pop(module, None)
    from host.server import run

    return run(config)
