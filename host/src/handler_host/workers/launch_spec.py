"""Builds the launch specification of each worker: launcher, policy, settings, secrets, limits."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from handler_host._internal.log import level_of, register_secrets
from handler_host._internal.suggestions import did_you_mean
from handler_host.catalog.catalog import Catalog
from handler_host.catalog.catalog_entry import CatalogEntry
from handler_host.catalog.manifest import check_configured
from handler_host.catalog.secrets import read_secrets
from handler_host.config import Config, HandlerPolicy
from handler_host.config.launchers import installed_launchers
from handler_host.lean import CACHE_VARIABLE
from handler_host.plugin.errors import ConfigError
from handler_host.workers.environment import worker_environment
from handler_host.workers.launchers.fork import ForkLauncher

if TYPE_CHECKING:
    from handler_host.channel.frames import LeanImports, Log
    from handler_host.memory.places import PlacesBudget
    from handler_host.workers.control_groups import ControlGroups
    from handler_host.workers.launchers.base import Launcher
    from handler_host.workers.launchers.remote import RemoteLauncher
    from handler_host.workers.lean_compiler import LeanCompiler
    from handler_host.workers.worker import LaunchSpec, MakeCallRunner


log = logging.getLogger(__name__)


def policy_of(config: Config, entry: CatalogEntry) -> HandlerPolicy:
    """Return the policy of a handler: its own configuration, else its manifest, else the configured defaults."""
    policy, manifest = config.policy(entry.name), entry.manifest
    allowed = 1 if policy.isolation == "inline" else manifest.workers.max if manifest is not None else None
    if allowed is not None and policy.max_workers > allowed:
        policy = msgspec.structs.replace(policy, max_workers=allowed)
    if manifest is None:
        return policy
    timeouts = manifest.timeouts
    suggestions = {
        "activate_timeout": timeouts.activate,
        "first_byte_timeout": timeouts.first_byte,
        "gap_timeout": timeouts.gap,
        "drain_timeout": timeouts.drain,
        "memory_estimate": manifest.memory_estimate,
    }
    own = config.handlers.get(entry.name, {})
    changes = {key: value for key, value in suggestions.items() if value is not None and key not in own}
    return msgspec.structs.replace(policy, **changes) if changes else policy


def default_model(config: Config, entry: CatalogEntry) -> str | None:
    """Return the model of requests that name none: the setting ``model``, which is a convention of chat handlers."""
    declared = entry.manifest.config.get("model") if entry.manifest is not None else None
    model = config.settings(entry.name).get("model", declared.default if declared is not None else None)
    return model if isinstance(model, str) else None


def unknown_handlers(config: Config, catalog: Catalog) -> list[str]:
    """Return a warning for each handler that is configured, but not installed."""
    places = [(name, f"[handlers.{name}]") for name in config.handlers]
    places += [(name, "log.levels") for name in config.log.levels]
    return [
        f"{place}: unknown handler {name!r}{did_you_mean(name, catalog.entries)}"
        for name, place in places
        if name not in catalog.entries
    ]


def check_all_settings(config: Config, catalog: Catalog) -> None:
    """Check the settings of each handler against its manifest; raises ``ConfigError``."""
    for name, entry in catalog.entries.items():
        check_configured(entry.manifest, config, name)


def preload_of(config: Config, catalog: Catalog) -> tuple[str, ...]:
    """Return the modules that the fork server imports: the configured ones, and those that several workers share."""
    modules = dict.fromkeys(config.preload())
    for entry in catalog.entries.values():
        policy = policy_of(config, entry)
        is_forked = policy.isolation == "process" and python_of(policy, entry) is None
        if is_forked and policy.max_workers > 1 and entry.problem is None and entry.manifest is not None:
            modules |= dict.fromkeys(entry.manifest.workers.preload)
    return tuple(modules)


def python_of(policy: HandlerPolicy, entry: CatalogEntry) -> str | None:
    """Return the interpreter of a handler's worker; None: that of the host."""
    return str(policy.python) if policy.python is not None else entry.python


def lean_imports_of(
    config: Config, policy: HandlerPolicy, entry: CatalogEntry, environ: Mapping[str, str]
) -> LeanImports | None:
    """Return the packages whose imports the handler's worker defers, or None if all imports are eager."""
    # Inline, the hook would change the host's own imports.
    if policy.lean == "off" or policy.isolation == "inline" or entry.manifest is None:
        return None
    note = entry.manifest.lean
    if not note.packages:
        return None
    from handler_host.channel.frames import LeanImports  # with the first worker

    return LeanImports(
        requirements=note.packages,
        eager=note.eager,
        any_version=policy.lean == "force",
        # Workers and compilers have other working directories.
        cache=os.path.abspath(environ[CACHE_VARIABLE]) if environ.get(CACHE_VARIABLE) else None,
        fallback_cache=_fallback_cache(config),
    )


def _fallback_cache(config: Config) -> str | None:
    """Return a directory beside the host's own state, for environments that are read-only."""
    state_file = config.memory.state_file
    # With `state_file = "/dev/null"` an operator wants no state, least of all a directory in /dev.
    if state_file is None or (os.path.exists(state_file) and not os.path.isfile(state_file)):
        return None
    return os.path.join(os.path.abspath(state_file.parent), "lean")


def missing_launchers(config: Config) -> list[str]:
    """Return a warning for each launcher that is configured, but not installed beside the host."""
    beside = [name for name, keys in config.launchers.items() if "python" not in keys]
    missing = sorted(set(beside) - set(installed_launchers())) if beside else []
    return [
        f"[launchers.{name}]: launcher {name!r} is not installed; install handler-host-{name.replace('_', '-')}, or "
        f"name an interpreter that has it (launchers.{name}.python)"
        for name in missing
    ]


def _own_variables(launcher: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of an engine: ``RAY_AUTH_MODE`` is one of the launcher ``ray``."""
    prefix = launcher.upper().replace("-", "_") + "_"
    return {name: value for name, value in environ.items() if name.startswith(prefix)}


class LaunchSpecBuilder:
    """Builds launch specifications, and owns the launchers.

    ``environ`` holds the secrets.
    """

    def __init__(self, config: Config, environ: Mapping[str, str]) -> None:
        self.make_call_runner: MakeCallRunner | None = None
        """Makes the runner of the dispatches of a worker; None: handlers cannot dispatch to other handlers."""
        self.before_first_launch: Callable[[], None] | None = None
        """Prepares the process of the host before code of a plugin can run."""
        self._config = config
        self._environ = environ
        self._environment = worker_environment(environ)
        workers = config.workers
        self._fork = ForkLauncher(
            config.preload(), workers.linger, self._environment, confined=workers.confine != "off"
        )
        self._exec: dict[str | None, Launcher] = {}
        self._groups: ControlGroups | None = None
        """None: workers stay in the control group of the host."""
        self._compiler: LeanCompiler | None = None
        """None until a worker has reported packages that are not compiled."""
        self.places: Mapping[str, PlacesBudget] = {}
        """Accounts of the machines of each launcher."""
        self._remote: dict[str, RemoteLauncher] = {}
        self._lean_failures: set[tuple[str, str]] = set()
        """Handlers, with their versions, in which a deferred import has failed: their imports stay eager."""

    @property
    def fork_server_pids(self) -> list[int]:
        """The process IDs of the fork servers: none, one, or more after a rescan."""
        return self._fork.pids

    @property
    def driver_pids(self) -> list[int]:
        """The process IDs of the drivers of launchers."""
        return [pid for launcher in self._remote.values() for pid in launcher.pids]

    async def open_control_groups(self) -> None:
        """Give workers control groups of their own, with ``workers.control_groups``, where the host may make them."""
        if not self._config.workers.control_groups:
            return
        from handler_host.workers.control_groups import open_control_groups  # few hosts have them

        try:
            self._groups = await asyncio.to_thread(open_control_groups)
        except OSError as error:
            log.warning("workers.control_groups: %s; workers stay in the control group of the host", error)

    def retire_fork_server(self) -> None:
        """Launch from a new fork server from now on: the modules preloaded in this one may be outdated."""
        self._fork.retire()

    async def try_fork(self) -> int:
        """Fork a worker without a handler, and kill it; return its process ID. Raises ``OutOfResources``."""
        worker = await self._fork.launch("verify", 0, self._environment)
        worker.kill(signal.SIGKILL)
        worker.connection.close()
        os.close(worker.output)
        await worker.wait()
        assert worker.pid is not None, "a process of this machine"
        return worker.pid

    def add_launchers(self, places: Mapping[str, PlacesBudget]) -> None:
        """Create the launchers of ``[launchers.NAME]``; ``places`` are the accounts of their machines."""
        if not places:
            return
        from handler_host.workers.launchers.remote import RemoteLauncher  # only a host with other machines needs it

        self.places = places
        workers = self._config.workers
        for name, budget in places.items():
            self._remote[name] = RemoteLauncher(
                name,
                self._config.launchers[name],
                budget,
                {**self._environment, **_own_variables(name, self._environ)},
                hang_after=workers.hang_after,
                linger=workers.linger,
            )

    def stop_idle_fork_server(self) -> None:
        """Stop the fork server if it has no worker."""
        self._fork.stop_idle()

    def reconfigure(self, config: Config) -> None:
        """Build specifications from this configuration from now on."""
        self._config = config

    def use_catalog(self, catalog: Catalog) -> None:
        """Preload what the handlers of this catalog share, from the next fork server on."""
        workers = self._config.workers
        preload = preload_of(self._config, catalog)
        self._fork.reconfigure(preload, workers.linger, confined=workers.confine != "off")

    async def close(self) -> None:
        """Close the launchers and the compiler, and end the processes that they have started."""
        if self._compiler is not None:
            await self._compiler.close()
        launchers: list[Launcher] = [self._fork, *self._exec.values(), *self._remote.values()]
        for launcher in launchers:
            await launcher.close()
        if self._groups is not None:
            await asyncio.to_thread(self._groups.close)

    async def build(self, entry: CatalogEntry, generation: int) -> LaunchSpec:
        """Return the specification of worker ``generation`` of the handler.

        Raises :class:`handler_host.plugin.errors.ConfigError` for settings that do not fit the manifest.
        """
        if self.before_first_launch is not None:
            prepare, self.before_first_launch = self.before_first_launch, None
            prepare()
        # An idle host carries neither workers nor channels.
        from handler_host.channel.call import ChannelLimits
        from handler_host.channel.frames import WorkerSpec
        from handler_host.workers.worker import LaunchSpec

        policy = policy_of(self._config, entry)
        secrets = read_secrets(entry, self._environ)
        register_secrets(secrets.values())
        settings = check_configured(entry.manifest, self._config, entry.name)
        data_dir = self._config.data_dir / entry.name if self._config.data_dir is not None else None
        workers = self._config.workers
        is_remote = policy.isolation in self.places
        lean = self._lean_imports(policy, entry) if not is_remote else None
        return LaunchSpec(
            generation=generation,
            worker=WorkerSpec(
                handler=entry.name,
                entry_point=entry.entry_point,
                distribution=entry.distribution,
                version=entry.version,
                paths=entry.paths,
                config=settings,
                secrets=secrets,
                environment=self._environment if not is_remote else {},
                # A directory of this machine is not there, or is another one.
                data_dir=str(data_dir) if data_dir is not None and not is_remote else None,
                log_level=level_of(self._config.log, entry.name),
                memory_hard_limit=policy.memory_hard_limit,
                max_frame=workers.max_frame,
                lean=lean,
                confine=workers.confine,
                read_paths=tuple(map(str, policy.read_paths)),
                write_paths=tuple(map(str, policy.write_paths)),
                hang_after=workers.hang_after if is_remote else None,
                is_remote=is_remote,
            ),
            policy=policy,
            launcher=self._launcher(policy, entry),
            limits=ChannelLimits(
                max_frame=workers.max_frame,
                window=workers.window,
                heartbeat_interval=workers.heartbeat_interval,
                hang_after=workers.hang_after,
                max_answer=self._config.server.max_answer,
            ),
            output_lines_per_second=workers.output_lines_per_second,
            on_log=lambda record: self._log_record(entry, generation, record),
            on_uncompiled=functools.partial(self._compile_lean, entry, policy, lean),
            make_call_runner=functools.partial(self.make_call_runner, entry.name) if self.make_call_runner else None,
        )

    def _lean_imports(self, policy: HandlerPolicy, entry: CatalogEntry) -> LeanImports | None:
        if (entry.name, entry.version) in self._lean_failures and policy.lean != "force":
            return None
        return lean_imports_of(self._config, policy, entry, self._environ)

    def compile_lean(self, entry: CatalogEntry) -> None:
        """Compile the packages of a handler before its first activation, in a process of its own."""
        policy = policy_of(self._config, entry)
        self._compile_lean(entry, policy, self._lean_imports(policy, entry))

    def _compile_lean(self, entry: CatalogEntry, policy: HandlerPolicy, lean: LeanImports | None) -> None:
        if lean is None or not self._config.workers.compile_lean:
            return
        from handler_host.workers.lean_compiler import LeanCompiler, lean_job  # an idle host does not need it

        self._compiler = self._compiler or LeanCompiler(self._environment)
        job = lean_job(lean, entry.paths, compile=True, is_background=True)
        self._compiler.request(entry.name, python_of(policy, entry), job)

    def _log_record(self, entry: CatalogEntry, generation: int, record: Log) -> None:
        fields: dict[str, object] = {"handler": entry.name, "generation": generation, "logger": record.logger}
        if record.request_id is not None:
            fields["request_id"] = record.request_id
        if record.is_lazy_import_failure:
            self._lean_failures.add((entry.name, entry.version))
        logging.getLogger(f"handler.{entry.name}").log(record.level, "%s", record.message, extra={"fields": fields})

    def _launcher(self, policy: HandlerPolicy, entry: CatalogEntry) -> Launcher:
        if policy.isolation == "inline":
            from handler_host.workers.launchers.inline import InlineLauncher  # for debugging only

            return InlineLauncher()
        if policy.isolation in self._remote:
            return self._remote[policy.isolation]
        if policy.isolation not in ("process", "exec"):
            raise ConfigError(
                f"isolation = {policy.isolation!r}: [launchers.{policy.isolation}] is new since the host's start; "
                "restart the host"
            )
        launcher = self._local_launcher(policy, entry)
        if self._groups is None:
            return launcher
        from handler_host.workers.launchers.grouped import GroupedLauncher  # few hosts have control groups

        return GroupedLauncher(launcher, self._groups, self._config.memory, policy.memory_hard_limit)

    def _local_launcher(self, policy: HandlerPolicy, entry: CatalogEntry) -> Launcher:
        python = python_of(policy, entry)
        if policy.isolation == "process" and python is None and sys.platform == "linux":
            return self._fork
        if python not in self._exec:
            from handler_host.workers.launchers.exec import (
                ExecLauncher,  # few handlers have an interpreter of their own
            )

            self._exec[python] = ExecLauncher(python)
        return self._exec[python]
