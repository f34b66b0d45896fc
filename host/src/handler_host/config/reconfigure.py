"""What differs between two configurations, and what of it a running host can take on.

A handler's policy and settings are for its next activation; a worker that runs keeps
what it was launched with. What was wired at the start (addresses, keys, routes) needs
a restart.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from handler_host.config import Config

_WHOLE = frozenset({"memory", "workers", "defaults", "catalog", "log", "handlers"})
"""Sections that a running host takes on."""
_KEYS = frozenset({"server.drain_timeout", "server.max_answer"})
"""Keys of other sections that it takes on, too."""
_AT_THE_START = frozenset({"memory.state_file"})
"""Keys of those sections that it does not."""
_OF_NO_MEANING = frozenset({"source"})
_ABSENT = object()


class Changes(NamedTuple):
    """The keys that differ, by name (``server.port``), never with their values: they may be secrets."""

    applied: list[str]
    restart: list[str]
    """What needs a restart."""


def changes(old: Config, new: Config) -> Changes:
    """Return what differs between two configurations."""
    before, after = _flat(old), _flat(new)
    different = sorted(
        key for key in before.keys() | after.keys() if before.get(key, _ABSENT) != after.get(key, _ABSENT)
    )
    return Changes(
        applied=[key for key in different if _can_be_applied(key)],
        restart=[key for key in different if not _can_be_applied(key)],
    )


def merged(old: Config, new: Config) -> Config:
    """Return ``new`` with what needs a restart as it is in ``old``: what is in force then."""
    server = msgspec.structs.replace(
        old.server, drain_timeout=new.server.drain_timeout, max_answer=new.server.max_answer
    )
    sections = {name: getattr(new, name) for name in _WHOLE}
    sections["memory"] = msgspec.structs.replace(new.memory, state_file=old.memory.state_file)
    return msgspec.structs.replace(old, server=server, **sections)


def _can_be_applied(key: str) -> bool:
    return key in _KEYS or (key.partition(".")[0] in _WHOLE and key not in _AT_THE_START)


def _flat(config: Config) -> dict[str, Any]:
    """Return each key with its value; a handler without keys is one, too."""
    found: dict[str, Any] = {}
    for name in config.__struct_fields__:
        value = getattr(config, name)
        if name in _OF_NO_MEANING:
            continue
        if name == "handlers":
            for handler, keys in value.items():
                found[f"handlers.{handler}"] = True
                found |= {f"handlers.{handler}.{key}": item for key, item in keys.items()}
        elif isinstance(value, msgspec.Struct):
            found |= {f"{name}.{key}": getattr(value, key) for key in value.__struct_fields__}
        else:
            found[name] = value
    return found
