"""What is installed and configured, and what is wrong with it: read from metadata, with nothing imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from handler_host._internal.suggestions import did_you_mean
from handler_host._internal.units import format_size
from handler_host.catalog.catalog import Catalog, CatalogEntry
from handler_host.catalog.manifest import check_configured
from handler_host.config import Config
from handler_host.memory.cgroups import MemoryLimit
from handler_host.memory.procfs import read_memory
from handler_host.plugin.errors import ConfigError

Level = Literal["ok", "note", "warning", "problem"]


class Finding(NamedTuple):
    """One thing that was looked at. A ``problem`` keeps something from working; a ``warning`` may."""

    level: Level
    place: str
    """A handler, a section of the configuration, or a part of the machine."""
    text: str
    """What is so and, where something is wrong, the remedy."""


def of_handlers(catalog: Catalog) -> Iterator[Finding]:
    """Yield what the catalog says of each handler, and of metadata that belongs to none."""
    if not catalog.entries:
        yield Finding("problem", "catalog", "no handler is installed: pip install a plugin, or name catalog.roots")
    for entry in catalog.entries.values():
        yield _of_handler(entry)
    for warning in catalog.warnings:
        yield Finding("warning", "catalog", warning)


def _of_handler(entry: CatalogEntry) -> Finding:
    plugin = f"{entry.distribution} {entry.version}"
    if entry.problem is None:
        own = f", in its own environment ({entry.python})" if entry.python is not None else ""
        bare = "" if entry.manifest is not None else "; it has no manifest, so its memory and settings are not known"
        return Finding("ok", entry.name, f"{plugin}{own}{bare}")
    level: Level = "note" if entry.problem.state == "blocked" else "problem"
    whose = "; this shell's lacks it, a running host's may not" if entry.problem.state == "missing-secret" else ""
    return Finding(level, entry.name, f"{plugin}: {entry.problem.state}: {entry.problem.reason}{whose}")


def of_settings(config: Config, entries: Mapping[str, CatalogEntry]) -> Iterator[Finding]:
    """Yield what is set for handlers that are not installed, and what does not fit their manifests."""
    for name in config.handlers:
        if name not in entries:
            text = f"no such handler is installed{did_you_mean(name, entries)}"
            yield Finding("warning", f"[handlers.{name}]", text)
            continue
        try:
            check_configured(entries[name].manifest, config, name)
        except ConfigError as error:
            yield Finding("problem", f"[handlers.{name}]", error.message)


def of_access(config: Config) -> Iterator[Finding]:
    """Yield who may call the host."""
    if config.auth.open:
        yield Finding("note", "[auth]", "no API keys: the host serves this machine only; set HANDLER_HOST_API_KEYS")
    if config.auth.admin_token is None:
        yield Finding("note", "[auth]", "no admin token: each start makes another one; set HANDLER_HOST_ADMIN_TOKEN")


def of_place(config: str | None, state_file: Path | None) -> Iterator[Finding]:
    """Yield what is judged: a host that would be started here and now, which is not any that runs."""
    file = config or "no configuration file"
    text = f"a host that is started from this shell: its environment (secrets, HANDLER_HOST_...) and {file}"
    yield Finding("ok", "judged", text)
    learned = "nowhere: there is no place for it" if state_file is None else str(state_file)
    if state_file is not None and not state_file.exists():
        learned += ", which is not there yet"
    yield Finding("ok", "learned", f"what handlers take is read from {learned}")


def of_machine(limit: MemoryLimit) -> Iterator[Finding]:
    """Yield what the machine offers: memory, how it is measured, how workers are started."""
    where = f" ({limit.path})" if limit.path is not None else ""
    yield Finding(
        "ok",
        "memory",
        f"the limit is {format_size(limit.bytes)}, {limit.source}{where}; "
        f"{format_size(limit.usable)} of it is the budget",
    )
    own = read_memory(os.getpid())
    if own is not None and own.measure != "pss":
        text = f"there is no PSS to be read here; the budget counts {own.measure.upper()}, shared pages more than once"
        yield Finding("warning", "memory", text)
    if sys.platform == "linux":
        yield Finding("ok", "workers", "are forked from a fork server, and share its pages")
    else:
        yield Finding("warning", "workers", f"are exec'ed on {sys.platform}, which is untested, and share no pages")
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("ok", "python", f"{version} at {sys.executable}")
