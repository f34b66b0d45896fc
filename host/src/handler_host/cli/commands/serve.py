"""``handler-host serve``."""

from __future__ import annotations

import argparse
from types import SimpleNamespace

from handler_host.cli.options import add_config_options, load_configuration

DESCRIPTION = (
    "The first line on standard output is `ready URL`; the log goes to standard error. On SIGTERM or Ctrl-C the "
    "host finishes the dispatches in progress and ends. Options override the environment "
    "(HANDLER_HOST_SERVER__PORT), and the environment overrides the file."
)
EXAMPLES = (
    "handler-host serve --config host.toml --port 8080",
    "HANDLER_HOST_ADMIN_TOKEN=... handler-host serve --port 0 --memory-limit 512MB",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_config_options(parser)


def run(arguments: SimpleNamespace) -> int:
    """Run the host until a signal ends it. Raises :class:`handler_host.plugin.errors.ConfigError` before it serves."""
    config = load_configuration(arguments).config
    # After the configuration: an error in it must not wait for these imports.
    from handler_host._internal.aiohttp_import import import_aiohttp

    import_aiohttp()
    from handler_host.server import run

    return run(config, lambda environ, key_hashes: load_configuration(arguments, environ, key_hashes).config)
