"""Default locations of the host's files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from handler_host.config.types import Config, MemoryConfig


def default_data_dir(environ: Mapping[str, str]) -> Path | None:
    """Return the user's data directory (XDG Base Directory Specification); None without a home directory."""
    base = Path(environ.get("XDG_DATA_HOME", ""))
    if not base.is_absolute():
        base = Path(environ.get("HOME", "")) / ".local" / "share"
    return base / "handler-host" if base.is_absolute() else None


def with_state_file(config: Config, environ: Mapping[str, str]) -> Config:
    """Return the configuration with a state file, if none is configured.

    The file is ``DATA_DIR/.handler-host/memory.json``, else ``handler-host/memory.json`` in
    ``XDG_STATE_HOME`` or ``~/.local/state`` (XDG Base Directory Specification 0.8).
    """
    if config.memory.state_file is not None:
        return config
    if config.data_dir is not None:
        directory = config.data_dir / ".handler-host"
    else:
        # The specification says to ignore relative paths.
        state, home = Path(environ.get("XDG_STATE_HOME", "")), Path(environ.get("HOME", ""))
        if not state.is_absolute():
            state = home / ".local" / "state"
        if not state.is_absolute():
            return config
        directory = state / "handler-host"
    memory = msgspec.structs.replace(config.memory, state_file=directory / "memory.json")
    return msgspec.structs.replace(config, memory=memory)


def kept_state_file(config: MemoryConfig) -> Path | None:
    """Return the state file; None for a host that keeps no state, as with ``/dev/null``."""
    return config.state_file if config.state_file != Path(os.devnull) else None
