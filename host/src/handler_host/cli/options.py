"""Options that several commands share, and the configuration they lead to."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from handler_host.config.loader import LoadedConfig


class ConfigOption(NamedTuple):
    """An option that sets one configuration key."""

    name: str
    """As it is typed: ``--port``."""
    key: str
    """``server.port``"""
    metavar: str
    help: str

    @property
    def attribute(self) -> str:
        """The attribute of the parsed arguments that has its value."""
        return self.key.replace(".", "_")


CONFIG_OPTIONS = (
    ConfigOption("--host", "server.host", "ADDRESS", "address to listen on"),
    ConfigOption("--port", "server.port", "PORT", "port to listen on; 0 selects a free one"),
    ConfigOption("--memory-limit", "memory.limit", "SIZE", "memory of all processes together (512MB), or auto"),
    ConfigOption("--log-format", "log.format", "FORMAT", "text or json"),
    ConfigOption("--log-level", "log.level", "LEVEL", "debug, info, warning or error"),
)


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--config`` and the options that set configuration keys."""
    parser.add_argument("--config", metavar="FILE", help="configuration file (default: HANDLER_HOST_CONFIG, or none)")
    for option in CONFIG_OPTIONS:
        parser.add_argument(option.name, dest=option.attribute, metavar=option.metavar, help=option.help)


def add_host_options(
    parser: argparse.ArgumentParser, *, admin: bool = True, json: bool = True, several: bool = False
) -> None:
    """Add the options of commands that send requests to a running host.

    ``admin``: the command uses admin routes and needs the admin token. ``json``: it can print JSON. ``several``: it
    accepts ``--url`` more than once, as ``urls``.
    """
    help = "address of the host (default: HANDLER_HOST_URL, or http://127.0.0.1:8080)"
    if several:
        parser.add_argument("--url", dest="urls", action="append", help=f"{help}; repeat it for several hosts")
    else:
        parser.add_argument("--url", help=help)
    if admin:
        parser.add_argument(
            "--token-file", metavar="FILE", help="file with the admin token (default: HANDLER_HOST_ADMIN_TOKEN)"
        )
    if json:
        parser.add_argument("--json", action="store_true", help="print the host's JSON, also for errors")


def config_file(arguments: SimpleNamespace, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the configuration file that the arguments or the environment name."""
    return arguments.config or environ.get("HANDLER_HOST_CONFIG")


def load_configuration(
    arguments: SimpleNamespace, environ: Mapping[str, str] = os.environ, key_hashes: Mapping[str, Any] | None = None
) -> LoadedConfig:
    """Return the configuration from file, environment and options.

    ``key_hashes`` takes the place of keys in clear that ``environ`` has no more. Raises
    :class:`handler_host.plugin.errors.ConfigError` with all that is wrong.
    """
    # Here: commands that only send requests to a host do without it.
    from handler_host.config.loader import load_config

    file = config_file(arguments, environ)
    values = {option.key: getattr(arguments, option.attribute) for option in CONFIG_OPTIONS}
    overrides = {key: value for key, value in values.items() if value is not None}
    return load_config(Path(file) if file else None, environ, overrides | dict(key_hashes or {}))
