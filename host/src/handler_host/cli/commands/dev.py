"""``handler-host dev``."""

from __future__ import annotations

import argparse
from types import SimpleNamespace

DESCRIPTION = (
    "The host keeps running, and only the worker is replaced: the next dispatch runs what you saved. The command "
    "shows what the handler logs and prints, one line for each reload, and a prompt to chat with it. The plugin's "
    "dependencies must be installed, the plugin itself need not be. --log-level debug shows the log of the host, too."
)
EXAMPLES = ("handler-host dev .", "handler-host dev my_gpt --config host.toml --port 8080")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "path", nargs="?", default=".", metavar="PATH", help="project of the plugin (default: this directory)"
    )
    parser.add_argument("--handler", metavar="NAME", help="handler to chat with, if the project has several")
    parser.add_argument("--port", type=int, default=0, metavar="PORT", help="port to listen on (default: a free one)")
    parser.add_argument("--config", metavar="FILE", help="configuration file with the handler's settings")
    parser.add_argument("--log-level", metavar="LEVEL", help="debug, info (default), warning or error")


def run(arguments: SimpleNamespace) -> int:
    """Serve the project and reload it on each change until Ctrl-D or Ctrl-C."""
    from handler_host.cli.dev_server import serve_project

    return serve_project(
        arguments.path,
        handler=arguments.handler,
        port=arguments.port,
        config=arguments.config,
        log_level=arguments.log_level or "info",
    )
