"""Checks of the installation and the configuration, from metadata alone: nothing of a plugin is imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from handler_host._internal.suggestions import did_you_mean
from handler_host._internal.units import format_size
from handler_host.auth.access_flaws import find_address_flaws, find_unknown_handlers
from handler_host.auth.file_flaws import find_file_flaws
from handler_host.catalog.catalog import Catalog
from handler_host.catalog.catalog_entry import CatalogEntry
from handler_host.catalog.manifest import check_configured
from handler_host.catalog.secrets import find_lacking_secret, read_secrets
from handler_host.cli.findings import Finding, Level
from handler_host.config import Config
from handler_host.dispatch.config_flaws import find_config_flaws
from handler_host.http.tls import load_certificate
from handler_host.memory.cgroups import OOM_GROUP_ADVICE, MemoryLimit, find_oom_group
from handler_host.memory.procfs import read_memory
from handler_host.plugin.errors import ConfigError
from handler_host.workers.control_groups import find_control_groups
from handler_host.workers.preload_check import missing_modules


def check_handlers(catalog: Catalog) -> Iterator[Finding]:
    """Yield whether each handler can run, and the warnings of the catalog."""
    if not catalog.entries:
        text = "no handler is installed; install a plugin with pip, or set catalog.roots"
        yield Finding(Level.PROBLEM, "catalog", text)
    for entry in catalog.entries.values():
        yield _check_handler(entry)
    for warning in catalog.warnings:
        yield Finding(Level.WARNING, "catalog", warning)


def _check_handler(entry: CatalogEntry) -> Finding:
    plugin = f"{entry.distribution} {entry.version}".strip()
    if entry.plugin is not None:
        plugin = f"instance of {entry.plugin}, {plugin}".removesuffix(", ")
    if entry.problem is None:
        environment = f", in its own environment ({entry.python})" if entry.python is not None else ""
        note = "" if entry.manifest is not None else "; without a manifest, its memory and settings are unknown"
        return Finding(Level.OK, entry.name, f"{plugin}{environment}{note}{_describe_secrets(entry)}")
    level = Level.NOTE if entry.problem.state == "blocked" else Level.PROBLEM
    where = (
        "; missing in the environment of this shell, a running host may have it"
        if entry.problem.state == "missing-secret"
        else ""
    )
    return Finding(level, entry.name, f"{plugin}: {entry.problem.state}: {entry.problem.reason}{where}")


def _describe_secrets(entry: CatalogEntry) -> str:
    """Return the secrets that a handler receives, and whether the configuration lists them."""
    names = sorted(read_secrets(entry, os.environ))
    if not names:
        return ""
    source = "as the configuration lists them" if entry.secrets_are_vetted else "as its manifest declares them"
    return f"; receives {', '.join(names)}, {source}"


def check_confinement(config: Config) -> Iterator[Finding]:
    """Yield by which measures the kernel confines workers, or why it does not."""
    if config.workers.confine == "off":
        text = "is off: plugins reach the files and processes of this user; remove workers.confine to change that"
        yield Finding(Level.NOTE, "confinement", text)
        return
    missing = Level.PROBLEM if config.workers.confine == "strict" else Level.WARNING
    if sys.platform != "linux":
        yield Finding(missing, "confinement", f"{sys.platform} cannot confine workers; Linux can")
        return
    from handler_host.workers.runtime.kernel import ConfinementError
    from handler_host.workers.runtime.landlock import ABI_WITH_SCOPES, find_abi

    try:
        abi = find_abi()
    except ConfinementError as error:
        yield Finding(missing, "confinement", f"this kernel cannot confine workers to their files: {error}")
        return
    if abi < ABI_WITH_SCOPES:
        text = f"Landlock {abi} confines workers to their files, but not their signals; Linux 6.12 does"
        yield Finding(missing, "confinement", text)
    else:
        yield Finding(Level.OK, "confinement", f"Landlock {abi} confines workers to their files and processes")


def check_control_groups(config: Config) -> Iterator[Finding]:
    """Yield whether a host started here can make control groups of workers, if `workers.control_groups` is set."""
    if not config.workers.control_groups:
        return
    try:
        groups = find_control_groups()
        groups.check()
    except OSError as error:
        text = f"{error}; workers stay in the control group of the host ([workers] control_groups)"
        yield Finding(Level.WARNING, "workers", text)
    else:
        text = f"each has a control group of its own ({groups.version}) in {groups.workers}"
        yield Finding(Level.OK, "workers", text)


def check_settings(config: Config, entries: Mapping[str, CatalogEntry]) -> Iterator[Finding]:
    """Yield settings of handlers that are not installed, settings that do not fit the manifest, missing modules.

    Also names of unknown handlers in fallbacks and ``[models]``.
    """
    for name in config.handlers:
        place = f"[handlers.{name}]"
        if name not in entries:
            yield Finding(Level.WARNING, place, f"no such handler is installed{did_you_mean(name, entries)}")
            continue
        try:
            check_configured(entries[name].manifest, config, name)
        except ConfigError as error:
            yield Finding(Level.PROBLEM, place, error.message)
    for name, entry in entries.items():
        if entry.problem is None and (lack := find_lacking_secret(entry, os.environ, config.handlers.get(name, ()))):
            yield Finding(Level.WARNING, name, lack)
    for flaw in find_config_flaws(config, entries):
        yield Finding(Level.PROBLEM, "handlers", flaw)
    for place, reason in missing_modules(config):
        yield Finding(Level.WARNING, place, reason)


def check_access(config: Config, handlers: Collection[str]) -> Iterator[Finding]:
    """Yield flaws of keys, addresses and their certificate, and notes about missing keys and tokens."""
    for flaw in find_address_flaws(config, os.environ):
        yield Finding(Level.PROBLEM, "[auth]", flaw)
    try:
        load_certificate(config.server)
    except ConfigError as error:
        yield Finding(Level.PROBLEM, "[server]", error.message)
    try:
        for flaw in find_unknown_handlers(config.auth, handlers):
            yield Finding(Level.WARNING, "[auth]", flaw)
    except ConfigError as error:
        yield Finding(Level.PROBLEM, "[auth]", error.message)
    if config.auth.open:
        text = "no API keys: the host serves only this machine; set HANDLER_HOST_API_KEYS to serve others"
        yield Finding(Level.NOTE, "[auth]", text)
    if config.auth.admin_token is None:
        text = "no admin token: the host generates one at each start; set HANDLER_HOST_ADMIN_TOKEN to choose it"
        yield Finding(Level.NOTE, "[auth]", text)


def check_files(config: Config) -> Iterator[Finding]:
    """Yield the files of the host that others can replace or read."""
    for flaw in find_file_flaws(config, os.environ):
        yield Finding(Level.WARNING, flaw.setting, flaw.text)


def describe_scope(config_file: str | None, state_file: Path | None) -> Iterator[Finding]:
    """Yield what is checked: a host started from this shell, not one that runs."""
    file = config_file or "no configuration file"
    text = f"a host started from this shell, with its environment (secrets, HANDLER_HOST_...) and {file}"
    yield Finding(Level.OK, "scope", text)
    if state_file is None:
        text = "no file: neither a data directory nor a home directory is set"
    elif state_file.exists():
        text = str(state_file)
    else:
        text = f"{state_file}, which does not exist yet"
    yield Finding(Level.OK, "learned", f"memory of handlers is read from {text}")


def check_machine(limit: MemoryLimit) -> Iterator[Finding]:
    """Yield the memory limit, how memory is measured, and how workers are started."""
    path = f" ({limit.path})" if limit.path is not None else ""
    yield Finding(
        Level.OK,
        "memory",
        f"limit {format_size(limit.bytes)}, {limit.source}{path}; budget {format_size(limit.usable)}",
    )
    oom_group = find_oom_group()
    if oom_group is not None:
        yield Finding(Level.WARNING, "memory", f"{oom_group} is 1: {OOM_GROUP_ADVICE}")
    own = read_memory(os.getpid())
    if own is not None and own.measure != "pss":
        text = (
            f"PSS is not available here; the budget counts {own.measure.upper()}, where shared pages count repeatedly"
        )
        yield Finding(Level.WARNING, "memory", text)
    if sys.platform == "linux":
        yield Finding(Level.OK, "workers", "are forked from a fork server and share its pages")
    else:
        text = f"are started with exec on {sys.platform}, which is untested, and share no pages"
        yield Finding(Level.WARNING, "workers", text)
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding(Level.OK, "python", f"{version} at {sys.executable}")
