"""The handlers of the catalog and their controllers, kept up to date by rescans."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import msgspec

from handler_host.catalog import catalog as catalogs
from handler_host.catalog.catalog import Catalog
from handler_host.catalog.catalog_entry import CatalogEntry
from handler_host.catalog.manifest import check_configured
from handler_host.catalog.secrets import find_lacking_secret, read_secrets
from handler_host.config import Config, HandlerPolicy
from handler_host.lifecycle.controller import ControllerServices, HandlerController
from handler_host.lifecycle.operation_registry import OperationRegistry
from handler_host.lifecycle.reports import RescanReport
from handler_host.plugin.errors import ConfigError, UnknownHandler
from handler_host.workers.events import Cause
from handler_host.workers.launch_spec import missing_launchers, policy_of, unknown_handlers
from handler_host.workers.preload_check import missing_modules

log = logging.getLogger(__name__)

ConfigCheck = Callable[[Config, Collection[str]], Iterable[str]]
"""Yields a sentence for each flaw of a configuration, given the names of all handlers."""


class HandlerRegistry:
    """One controller for each handler of the catalog, and for each removed one that still has a worker.

    ``environ`` tells which secrets are set; ``check_config`` finds flaws that need the
    names of all handlers.
    """

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str],
        controllers: dict[str, HandlerController],
        operations: OperationRegistry,
        services: ControllerServices,
        check_config: ConfigCheck,
    ) -> None:
        self.catalog = Catalog.empty()
        self.config = config
        self._environ = environ
        self._controllers = controllers
        self._operations = operations
        self._services = services
        self._check_config = check_config
        self._pins: dict[str, bool] = {}
        self._keep_alive: dict[str, float] = {}
        """Idle time in seconds that a client has set last, by handler; negative: without end."""
        self._rescanning = asyncio.Lock()

    def get(self, name: str) -> HandlerController:
        """Return the controller of a handler; raises ``UnknownHandler``."""
        controller = self._controllers.get(name)
        if controller is None:
            known = ", ".join(sorted(self._controllers)) or "none"
            raise UnknownHandler(f"unknown handler {name!r}; known: {known}", param="handler")
        return controller

    def pin(self, name: str, *, pinned: bool) -> bool:
        """Pin or unpin a handler until the host's next start; return whether that changes anything."""
        controller = self.get(name)
        changed = controller.policy.pin != pinned
        self._pins[name] = pinned
        controller.update(controller.entry, self._policy(controller.entry))
        return changed

    def set_keep_alive(self, name: str, seconds: float | None) -> None:
        """Set the idle time of a handler until the next call; None: that of the configuration, negative: no end.

        ``max_keep_alive`` bounds it.
        """
        if self._keep_alive.get(name) == seconds:
            return
        if seconds is None:
            del self._keep_alive[name]
        else:
            self._keep_alive[name] = seconds
        controller = self.get(name)
        controller.update(controller.entry, self._policy(controller.entry))

    def config_flaws(self) -> list[str]:
        """Return the flaws of the configuration that need the names of all handlers."""
        return list(self._check_config(self.config, self.catalog.entries))

    async def scan(self, config: Config) -> Catalog:
        """Return the handlers that a configuration has."""
        return await asyncio.to_thread(catalogs.scan_config, config, self._environ)

    async def rescan(self) -> RescanReport:
        """Read the catalog again; new workers run what is installed now.

        Running workers are not touched, unless their distribution was removed, and is installed again.
        """
        async with self._rescanning:
            catalog = await self.scan(self.config)
            changes = catalogs.diff(self.catalog, catalog)
            before, self.catalog = self.catalog, catalog
            reinstalled = [
                name for name in catalog.entries if name in self._controllers and self._controllers[name].removed
            ]
            self._remove_missing()
            for name, entry in catalog.entries.items():
                if name in changes.changed:
                    self._operations.forget(name)
                if name in self._controllers:
                    self._controllers[name].update(entry, self._policy(entry))
                else:
                    self._controllers[name] = HandlerController(entry, self._policy(entry), self._services)
            for name in reinstalled:
                # Its worker runs the code that was removed.
                self._controllers[name].request_unload("drain", None, Cause.RELOAD)
        secrets = {name: self._new_secrets(before, name) for name in (*changes.added, *changes.changed)}
        secrets = {name: names for name, names in secrets.items() if names}
        if before.entries:
            for name, names in secrets.items():
                log.warning("handler receives secrets", extra={"fields": {"handler": name, "secrets": names}})
        problems = {name: entry.problem.reason for name, entry in catalog.entries.items() if entry.problem is not None}
        for name, reason in problems.items():
            log.warning("cannot run", extra={"fields": {"handler": name, "reason": reason}})
        warnings = [
            *catalog.warnings,
            *unknown_handlers(self.config, catalog),
            *missing_launchers(self.config),
            *(f"{place}: {reason}" for place, reason in missing_modules(self.config)),
            *self.config_flaws(),
        ]
        for warning in (*warnings, *self._setting_flaws({*changes.added, *changes.changed})):
            log.warning(warning)
        return RescanReport(
            added=sorted(changes.added),
            removed=sorted(changes.removed),
            changed=sorted(changes.changed),
            secrets=secrets,
            problems=problems,
            warnings=warnings,
        )

    def _setting_flaws(self, names: Collection[str]) -> Iterator[str]:
        """Yield what the activation of these handlers would refuse: a missing key, a setting against the manifest."""
        for name in sorted(names):
            entry = self.catalog.entries[name]
            if entry.problem is not None:
                continue
            try:
                check_configured(entry.manifest, self.config, name)
            except ConfigError as error:
                yield error.message
            lack = find_lacking_secret(entry, self._environ, self.config.handlers.get(name, ()))
            if lack is not None:
                yield f"{name} {lack}"

    def _new_secrets(self, before: Catalog, name: str) -> list[str]:
        """Return the secrets that a handler receives now, and that the configuration does not list for it."""
        entry = self.catalog.entries[name]
        if entry.secrets_are_vetted:
            return []
        known = before.entries[name].secrets if name in before.entries else ()
        return sorted(read_secrets(entry, self._environ).keys() - set(known))

    def _remove_missing(self) -> None:
        """Drop the controllers of removed handlers; one that has a worker goes when that has exited."""
        for name, controller in list(self._controllers.items()):
            controller.removed = name not in self.catalog.entries
            if controller.removed and controller.is_unloaded:
                del self._controllers[name]

    def _policy(self, entry: CatalogEntry) -> HandlerPolicy:
        policy = policy_of(self.config, entry)
        pinned = self._pins.get(entry.name, policy.pin)
        policy = policy if pinned == policy.pin else msgspec.structs.replace(policy, pin=pinned)
        keep_alive_s = self._keep_alive.get(entry.name)
        if keep_alive_s is None:
            return policy
        limit_s = policy.max_keep_alive
        if keep_alive_s < 0:
            return msgspec.structs.replace(policy, idle_after=limit_s)
        return msgspec.structs.replace(
            policy, idle_after=keep_alive_s if limit_s is None else min(keep_alive_s, limit_s)
        )
