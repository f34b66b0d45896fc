"""What the signals mean: SIGTERM and SIGINT end the host, SIGHUP re-reads its configuration, SIGUSR1 unloads."""

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
"""Returns the configuration as it stands now, of the same file, environment and flags; raises ``ConfigError``."""


class SignalHandler:
    """Takes the signals of this process; ``reread`` is what SIGHUP asks for the configuration.

    ``stops`` gets the signals that ask the host to end. The others are obeyed one
    after the other by :meth:`obey`, which whoever makes this runs as a task.
    """

    def __init__(self, supervisor: Supervisor, reread: ConfigReloader) -> None:
        self.stops: asyncio.Queue[signal.Signals] = asyncio.Queue()
        self._supervisor = supervisor
        self._reread = reread
        self._wishes: asyncio.Queue[signal.Signals] = asyncio.Queue()
        self._at_terminal = _at_terminal()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stops.put_nowait, number)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        loop.add_signal_handler(signal.SIGUSR1, self._wishes.put_nowait, signal.SIGUSR1)

    def _hang_up(self) -> None:
        """Tell an operator's SIGHUP from that of a terminal which was closed over the host that ran at it."""
        if self._at_terminal and not _at_terminal():
            self.stops.put_nowait(signal.SIGHUP)
        else:
            self._wishes.put_nowait(signal.SIGHUP)

    async def run(self) -> None:
        """Do what is asked for, until cancelled."""
        while True:
            wish = await self._wishes.get()
            try:
                if wish is signal.SIGHUP:
                    await reconfigure(self._supervisor, self._reread)
                else:
                    await unload_idle(self._supervisor)
            except Exception:
                log.exception("a defect of the host: %s was not obeyed", wish.name)


async def reconfigure(supervisor: Supervisor, reread: ConfigReloader) -> None:
    """Take on what has changed in the configuration; a wrong one changes nothing. All is told in one log line."""
    old = supervisor.config
    try:
        new = await asyncio.to_thread(reread)
        if new.auth.admin_token is None:
            # The token that was made for this run goes on.
            new = msgspec.structs.replace(new, auth=msgspec.structs.replace(new.auth, admin_token=old.auth.admin_token))
        found = compare(old, new)
        await supervisor.reconfigure(merge(old, new))
    except ConfigError as error:
        log.error("the configuration stays as it is", extra={"fields": {"reason": error.message}})
        return
    if any(key.startswith("log.") for key in found.applied):
        logs.setup(new.log)
    fields = {"applied": found.applied, "needs_restart": found.restart}
    log.log(logging.WARNING if found.restart else logging.INFO, "configuration re-read", extra={"fields": fields})


async def unload_idle(supervisor: Supervisor) -> None:
    """Unload every handler that has a worker and nothing to do, pinned ones as well: an operator asks."""
    names = [status.name for status in supervisor.statuses() if status.state == "idle"]
    receipts = await asyncio.gather(*(supervisor.unload(name, "if_idle") for name in names), return_exceptions=True)
    unloaded: list[str] = []
    for name, receipt in zip(names, receipts, strict=True):
        if isinstance(receipt, HandlerBusy | UnknownHandler):
            continue  # a dispatch has come meanwhile, or it has gone
        if isinstance(receipt, HostError):
            log.warning("not unloaded", extra={"fields": {"handler": name, "reason": receipt.message}})
        elif isinstance(receipt, BaseException):
            raise receipt
        else:
            unloaded.append(name)
    memory = await supervisor.memory()
    log.info("unloaded what was idle", extra={"fields": {"handlers": unloaded, "used": memory.used}})


def _at_terminal() -> bool:
    with suppress(OSError, ValueError, AttributeError):
        return os.isatty(sys.stdin.fileno())
    return False
