"""The difference between two configurations, and the part of it that a running host can apply.

A handler's policy and settings apply from its next activation; a running worker keeps
its own. Changes of addresses, keys and routes need a restart.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from handler_host.config import Config

_APPLIED_SECTIONS = frozenset({"memory", "workers", "defaults", "catalog", "log", "models", "handlers"})
"""Sections that a running host applies."""
_APPLIED_KEYS = frozenset({"server.drain_timeout", "server.shutdown_delay", "server.max_answer"})
"""Keys of other sections that it also applies."""
_RESTART_KEYS = frozenset({"memory.state_file"})
"""Keys of these sections that need a restart."""
_IGNORED = frozenset({"source"})
_ABSENT = object()


class Changes(NamedTuple):
    """The keys that differ, by name (``server.port``), without values, which may be secrets."""

    applied: list[str]
    restart: list[str]
    """The keys whose changes need a restart."""


def compare(old: Config, new: Config) -> Changes:
    """Return the keys that differ between two configurations."""
    before, after = _flat(old), _flat(new)
    different = sorted(
        key for key in before.keys() | after.keys() if before.get(key, _ABSENT) != after.get(key, _ABSENT)
    )
    return Changes(
        applied=[key for key in different if _is_applied(key)],
        restart=[key for key in different if not _is_applied(key)],
    )


def merge(old: Config, new: Config) -> Config:
    """Return the configuration in force after a reload: ``new``, with the keys that need a restart from ``old``."""
    server = msgspec.structs.replace(
        old.server,
        drain_timeout=new.server.drain_timeout,
        shutdown_delay=new.server.shutdown_delay,
        max_answer=new.server.max_answer,
    )
    sections = {name: getattr(new, name) for name in _APPLIED_SECTIONS}
    sections["memory"] = msgspec.structs.replace(new.memory, state_file=old.memory.state_file)
    return msgspec.structs.replace(old, server=server, **sections)


def _is_applied(key: str) -> bool:
    return key in _APPLIED_KEYS or (key.partition(".")[0] in _APPLIED_SECTIONS and key not in _RESTART_KEYS)


def _flat(config: Config) -> dict[str, Any]:
    """Return the value of each key; a handler without keys counts as a key."""
    values: dict[str, Any] = {}
    for name in config.__struct_fields__:
        value = getattr(config, name)
        if name in _IGNORED:
            continue
        if name == "handlers":
            for handler, keys in value.items():
                values[f"handlers.{handler}"] = True
                values |= {f"handlers.{handler}.{key}": item for key, item in keys.items()}
        elif name == "models":
            values |= {f"models.{alias}": target for alias, target in value.items()}
        elif isinstance(value, msgspec.Struct):
            values |= {f"{name}.{key}": getattr(value, key) for key in value.__struct_fields__}
        else:
            values[name] = value
    return values
