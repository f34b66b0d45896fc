"""Loads and unloads that operators have requested of one handler, until they are answered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec

from handler_host.lifecycle.actions import ReplyLoad, ReplyUnload
from handler_host.lifecycle.state import Drain
from handler_host.workers.exit_report import ExitReport


class Unloaded(msgspec.Struct, frozen=True):
    """The outcome of an unload."""

    generation: int | None
    """The last worker that exited; None if there was none."""
    drain: Drain | None
    exit: str | None
    """How the last process exited."""
    given_back: int
    """Bytes of all workers; see ``handler_host.workers.exit_report.ExitReport``."""
    workers: int
    """Processes that exited."""


class OperatorRequests:
    """The requests without a reply, by number."""

    def __init__(self) -> None:
        self._number = 0
        self._loads: dict[int, asyncio.Future[None]] = {}
        self._unloads: dict[int, asyncio.Future[Unloaded]] = {}
        self._exits: dict[int, list[ExitReport]] = {}
        """The exits so far that an unload waits for."""

    def add_load(self) -> tuple[int, asyncio.Future[None]]:
        """Return the number of a new load, and its reply."""
        self._number += 1
        self._loads[self._number] = reply = asyncio.get_running_loop().create_future()
        return self._number, reply

    def add_unload(self) -> tuple[int, asyncio.Future[Unloaded]]:
        """Return the number of a new unload, and its reply."""
        self._number += 1
        reply: asyncio.Future[Unloaded] = asyncio.get_running_loop().create_future()
        self._unloads[self._number], self._exits[self._number] = reply, []
        return self._number, reply

    def add_exit(self, unloads: Iterable[int], report: ExitReport) -> None:
        """Record the exit of a worker for the unloads that wait for it."""
        for request in unloads:
            self._exits[request].append(report)

    def reply_load(self, action: ReplyLoad) -> None:
        """Answer a load."""
        reply = self._loads.pop(action.request)
        if reply.done():
            return
        if action.error is None:
            reply.set_result(None)
        else:
            reply.set_exception(action.error.copy())

    def reply_unload(self, action: ReplyUnload) -> None:
        """Answer an unload."""
        reply, exits = self._unloads.pop(action.request), self._exits.pop(action.request)
        if reply.done():
            return
        if action.error is not None:
            reply.set_exception(action.error)
            return
        text = exits[-1].text if exits else None
        given_back = sum(report.given_back or 0 for report in exits)
        reply.set_result(Unloaded(action.generation, action.drain, text, given_back, len(exits)))
