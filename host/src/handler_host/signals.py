"""Signals of the host: SIGTERM and SIGINT stop it, SIGHUP re-reads its configuration, SIGUSR1 unloads."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

import msgspec

from handler_host._internal import log as logs
from handler_host.config import Config
from handler_host.config.reconfigure import compare, merge
from handler_host.lifecycle.supervisor import Supervisor
from handler_host.plugin.errors import ConfigError, HandlerBusy, HostError, UnknownHandler

log = logging.getLogger(__name__)

ConfigReloader = Callable[[], Config]
"""Returns the current configuration from the same file, environment and flags; raises ``ConfigError``."""


class SignalHandler:
    """Handler of this process's signals; SIGHUP calls ``reload_config``.

    ``stops`` receives the signals that stop the host. :meth:`run`, a task of the
    owner, handles the others one after the other.
    """

    def __init__(self, supervisor: Supervisor, reload_config: ConfigReloader) -> None:
        self.stops: asyncio.Queue[signal.Signals] = asyncio.Queue()
        self._supervisor = supervisor
        self._reload_config = reload_config
        self._pending: asyncio.Queue[signal.Signals] = asyncio.Queue()
        self._at_terminal = _at_terminal()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stops.put_nowait, number)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        loop.add_signal_handler(signal.SIGUSR1, self._pending.put_nowait, signal.SIGUSR1)

    def _hang_up(self) -> None:
        """Stop the host if its terminal was closed; any other SIGHUP comes from an operator and re-reads the file."""
        if self._at_terminal and not _at_terminal():
            self.stops.put_nowait(signal.SIGHUP)
        else:
            self._pending.put_nowait(signal.SIGHUP)

    async def run(self) -> None:
        """Handle SIGHUP and SIGUSR1 until cancelled."""
        while True:
            number = await self._pending.get()
            try:
                if number is signal.SIGHUP:
                    await reconfigure(self._supervisor, self._reload_config)
                else:
                    await unload_idle(self._supervisor)
            except Exception:
                log.exception("defect of the host: %s failed", number.name)


async def reconfigure(supervisor: Supervisor, reload_config: ConfigReloader) -> None:
    """Apply the changes of the configuration and log them in one line; an invalid configuration changes nothing."""
    old = supervisor.config
    try:
        new = await asyncio.to_thread(reload_config)
        if new.auth.admin_token is None:
            # The token that was generated for this run stays valid.
            new = msgspec.structs.replace(new, auth=msgspec.structs.replace(new.auth, admin_token=old.auth.admin_token))
        changes = compare(old, new)
        await supervisor.reconfigure(merge(old, new))
    except ConfigError as error:
        log.error("the configuration stays as it is", extra={"fields": {"reason": error.message}})
        return
    if any(key.startswith("log.") for key in changes.applied):
        logs.setup(new.log)
    fields = {"applied": changes.applied, "needs_restart": changes.restart}
    log.log(logging.WARNING if changes.restart else logging.INFO, "configuration re-read", extra={"fields": fields})


async def unload_idle(supervisor: Supervisor) -> None:
    """Unload every idle handler; pinned ones as well, because an operator demands it."""
    names = [status.name for status in supervisor.statuses() if status.state == "idle"]
    receipts = await asyncio.gather(*(supervisor.unload(name, "if_idle") for name in names), return_exceptions=True)
    unloaded: list[str] = []
    for name, receipt in zip(names, receipts, strict=True):
        if isinstance(receipt, HandlerBusy | UnknownHandler):
            continue  # a dispatch arrived meanwhile, or the handler was removed
        if isinstance(receipt, HostError):
            log.warning("not unloaded", extra={"fields": {"handler": name, "reason": receipt.message}})
        elif isinstance(receipt, BaseException):
            raise receipt
        else:
            unloaded.append(name)
    memory = await supervisor.memory()
    log.info("unloaded idle handlers", extra={"fields": {"handlers": unloaded, "used": memory.used}})


def _at_terminal() -> bool:
    with suppress(OSError, ValueError, AttributeError):
        return os.isatty(sys.stdin.fileno())
    return False
