"""The interface between the host and an engine that starts workers on other machines.

A launcher is a distribution with an entry point in the group ``handler_host.launchers.v1``: its name is a value of
``isolation``, its object a factory of :class:`Engine`. It runs in a process of its own, the driver
(``handler_host.workers.remote.driver``); the host never imports it. An engine starts worker processes and reports
machines and exits. Requests, responses and secrets never pass through it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from handler_host.memory.place import PlaceReport
from handler_host.workers.worker_process import ExitStatus

__all__ = ["Engine", "EngineError", "EngineWorker", "ExitStatus", "Finding", "PlaceReport", "WorkerRequest"]


class EngineError(Exception):
    """The engine cannot serve a request of the host; the text has the reason and the remedy.

    ``is_final`` marks a mistake of the configuration, which a retry does not mend.
    """

    def __init__(self, message: str, *, is_final: bool = False) -> None:
        super().__init__(message)
        self.is_final = is_final


class WorkerRequest(msgspec.Struct, frozen=True):
    """A worker to start, by :class:`handler_host.workers.remote.node.NodeWorker` on the place."""

    handler: str
    place: str
    """Name of the place, as the engine has reported it."""
    memory: int
    """Bytes that the host has reserved there."""
    resources: dict[str, float]
    """Further resources that the host has reserved there."""
    connection: bytes
    """The worker's standard input: the host's address, certificate and one-use token."""


class EngineWorker(Protocol):
    """A worker that the engine has started."""

    async def wait(self) -> ExitStatus:
        """Wait until its process has exited; ``lost`` if its status is unknown."""

    async def kill(self) -> None:
        """Kill its process and its process group."""


class Finding(msgspec.Struct, frozen=True):
    """One result of ``handler-host doctor NAME``."""

    ok: bool
    text: str
    """The result, and the remedy if it is not ok."""


class Engine(Protocol):
    """An engine, made from the options of ``[launchers.NAME]``; all methods run in the event loop of the driver."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Check the options; raises :class:`EngineError`."""

    async def start(self) -> str:
        """Connect; return the address of this machine that workers can reach. Raises :class:`EngineError`."""

    async def places(self) -> Sequence[PlaceReport]:
        """Return the machines that take workers now; raises :class:`EngineError` if the engine is gone."""

    async def launch(self, request: WorkerRequest) -> EngineWorker:
        """Start a worker; raises :class:`EngineError`.

        It is cancelled if the host no longer needs the worker, and must then leave none behind.
        """

    async def examine(self) -> Sequence[Finding]:
        """Return the findings for ``handler-host doctor``, after :meth:`start`."""

    async def close(self) -> None:
        """Stop all workers, and disconnect."""
