"""``handler-host serve``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from host.config_loader import Loaded, load_config

FLAGS = {
    "server_host": "server.host",
    "server_port": "server.port",
    "log_format": "log.format",
    "log_level": "log.level",
    "memory_limit": "memory.limit",
}
"""The flags that are configuration keys."""


def loaded(arguments: argparse.Namespace) -> Loaded:
    """Return the configuration that the arguments and the environment ask for."""
    name = arguments.config or os.environ.get("HANDLER_HOST_CONFIG")
    given = {key: getattr(arguments, flag) for flag, key in FLAGS.items() if getattr(arguments, flag) is not None}
    return load_config(Path(name) if name else None, os.environ, given)


def serve(arguments: argparse.Namespace) -> int:
    """Run the host until it is told to stop."""
    config = loaded(arguments).config
    # The parser has done its work; the server does not carry it.
    for module in ("argparse", "gettext", "host.cli.parser"):
        sys.modules.pop(module, None)
    from host.server import run

    return run(config)
