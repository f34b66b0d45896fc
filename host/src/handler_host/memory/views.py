"""Protocols through which this package sees workers and their handlers, and the figures it keeps of each worker."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from handler_host.memory.footprints import HandlerVersion
from handler_host.memory.procfs import Memory


class MemoryUsage:
    """The measurements of one worker's process; sizes in bytes."""

    __slots__ = ("latest", "peak", "shared", "steady")

    def __init__(self) -> None:
        self.latest: Memory | None = None
        """The latest measurement before the worker began to exit: from then on its memory is on its way back."""
        self.peak = 0
        """The most PSS that it used."""
        self.steady = 0
        """The most PSS that it used since it was ready."""
        self.shared = 0
        """The part of its resident memory that other processes account for."""

    def record(self, memory: Memory, *, is_ready: bool, is_exiting: bool) -> Memory:
        """Record a measurement; return the one that the worker counts with."""
        self.peak = max(self.peak, memory.peak, memory.pss)
        if self.latest is not None and is_exiting:
            return self.latest
        self.latest = memory
        self.shared = max(0, memory.rss - memory.pss)
        if is_ready:
            self.steady = max(self.steady, memory.pss)
        return memory


class WorkerView(Protocol):
    """One worker as memory accounting sees it."""

    @property
    def handler(self) -> str:
        """The handler's name."""

    @property
    def generation(self) -> int:
        """The number of the worker."""

    @property
    def version(self) -> HandlerVersion:
        """The version of the handler that it runs: its footprint belongs to it."""

    @property
    def usage(self) -> MemoryUsage:
        """Its measurements."""

    @property
    def pid(self) -> int | None:
        """Its process ID; None without a process."""

    @property
    def launcher(self) -> str:
        """The launcher that started it (``isolation``)."""

    @property
    def place(self) -> str | None:
        """The machine that it runs on; None for this one."""

    @property
    def reported(self) -> Memory | None:
        """What it reported of its own memory with its latest heartbeat; None on this machine."""

    @property
    def is_inline(self) -> bool:
        """Whether it runs in the host's own process, and has no memory of its own."""

    @property
    def is_ready(self) -> bool:
        """Whether its activation is complete."""

    @property
    def is_exiting(self) -> bool:
        """Whether it was stopped or killed, or has exited."""

    @property
    def has_exited(self) -> bool:
        """Whether its process has exited."""

    @property
    def is_pinned(self) -> bool:
        """Whether it must not be evicted."""

    @property
    def soft_limit(self) -> int | None:
        """Bytes over which it is recycled (``memory_soft_limit``); None for no limit, and unless it is ready."""

    @property
    def idle_since(self) -> float | None:
        """Since when it could be evicted, on the monotonic clock; None while it must not be."""

    @property
    def is_surplus(self) -> bool:
        """Whether its handler stays active without it."""

    @property
    def seconds_since_launch(self) -> float:
        """Seconds since its launch."""

    def busy_for_another(self, default: float) -> float:
        """Return the seconds until it is probably idle: 0 if it is idle, ``default`` if nothing is known."""


class ProcessTree(Protocol):
    """The host's processes, and what the memory monitor may do to them."""

    def workers(self) -> Iterable[WorkerView]:
        """Return all workers, those that run inline too."""

    def worker(self, handler: str, generation: int) -> WorkerView | None:
        """Return one worker; None if it is not there, or has no process yet."""

    def fork_servers(self) -> Sequence[int]:
        """Return the process IDs of the fork servers."""

    def drivers(self) -> Sequence[int]:
        """Return the process IDs of the drivers of launchers."""

    def has_activations(self) -> bool:
        """Return whether a handler activates, or waits for memory to do so."""

    def evict(self, handler: str, generation: int) -> None:
        """Unload an idle worker for the sake of its memory."""

    def recycle(self, handler: str, generation: int) -> None:
        """Unload a worker that is over its soft limit, after its present dispatches."""
