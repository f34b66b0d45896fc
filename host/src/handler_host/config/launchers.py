"""Launchers of workers on other machines: ``[launchers.NAME]``, and the check that ``isolation`` names one."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from handler_host._internal.suggestions import nearest
from handler_host.config.fields import Number, Section, Timeout

LAUNCHER_GROUP = "handler_host.launchers.v1"
"""The entry-point group of launchers."""
LOCAL_ISOLATIONS = ("process", "exec", "inline")
"""The values of ``isolation`` for workers on this machine."""


class LauncherConfig(Section, frozen=True, kw_only=True):
    """The host's keys of ``[launchers.NAME]``; all other keys are options of the launcher itself."""

    listen: str = "0.0.0.0:0"
    """Address on which the host accepts the connections of workers; port 0: a free one."""
    advertise: str | None = None
    """Host name or address that workers connect to. Default: the address of this machine that the launcher reports."""
    tls: bool = True
    """Whether the channel to the workers is encrypted. ``false``: only on a network that nobody else can read."""
    python: Path | None = None
    """Interpreter that has the launcher installed. Default: the host's."""
    strategy: Literal["pack", "spread"] = "pack"
    """``pack``: prefer the fullest machine that has enough; ``spread``: the emptiest one."""
    headroom: Annotated[float | int, Number("share")] = 0.1
    """Part of the memory of each machine to keep free: a share or a size."""
    start_timeout: Timeout = 60.0
    """Time for the launcher to connect to its engine, and for the engine to start a worker."""


LAUNCHER_KEYS = frozenset(LauncherConfig.__struct_fields__)


def launcher_config(keys: dict[str, Any]) -> LauncherConfig:
    """Return the host's keys of a table ``[launchers.NAME]``."""
    return LauncherConfig(**{key: value for key, value in keys.items() if key in LAUNCHER_KEYS})


def launcher_options(keys: dict[str, Any]) -> bytes:
    """Return the options of the launcher itself of a table ``[launchers.NAME]``, as JSON for its driver."""
    options = {key: value for key, value in keys.items() if key not in LAUNCHER_KEYS}
    return msgspec.json.encode(options, enc_hook=str)


def installed_launchers() -> list[str]:
    """Return the names of the launchers that are installed beside the host."""
    from importlib.metadata import entry_points  # only for a host that has workers on other machines, or a mistake

    return sorted({entry.name for entry in entry_points(group=LAUNCHER_GROUP)})


def isolation_flaw(isolation: str, configured: Collection[str]) -> str | None:
    """Return the error of a value of ``isolation``, or None if it is valid."""
    if isolation in LOCAL_ISOLATIONS or isolation in configured:
        return None
    choices = [*LOCAL_ISOLATIONS, *sorted({*configured, *installed_launchers()})]
    if isolation in choices:
        return f"the launcher needs a table [launchers.{isolation}], which may be empty"
    suggestion = nearest(isolation, choices)
    hint = f"; did you mean {suggestion!r}?" if suggestion else ""
    return f"must be one of {', '.join(choices)}{hint}"
