"""The flags that are keys of the configuration, and the configuration that they make."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from handler_host.config.loader import Loaded


class Flag(NamedTuple):
    """One of them: ``--host``, the key that it sets, how its value is written, what it means."""

    name: str
    key: str
    metavar: str
    meaning: str

    @property
    def attribute(self) -> str:
        """Where the parsed arguments have it."""
        return self.key.replace(".", "_")


FLAGS = (
    Flag("--host", "server.host", "ADDRESS", "address to listen on"),
    Flag("--port", "server.port", "PORT", "port to listen on; 0 takes a free one"),
    Flag("--memory-limit", "memory.limit", "SIZE", "what all processes together may take (512MB), or auto"),
    Flag("--log-format", "log.format", "FORMAT", "text or json"),
    Flag("--log-level", "log.level", "LEVEL", "debug, info, warning or error"),
)


def loaded(arguments: SimpleNamespace) -> Loaded:
    """Return the configuration of file, environment and flags; raises ``ConfigError``."""
    # Of no use to commands that only talk to a host.
    from handler_host.config.loader import load_config

    name = arguments.config or os.environ.get("HANDLER_HOST_CONFIG")
    given = {flag.key: getattr(arguments, flag.attribute) for flag in FLAGS}
    set_ones = {key: value for key, value in given.items() if value is not None}
    return load_config(Path(name) if name else None, os.environ, set_ones)
