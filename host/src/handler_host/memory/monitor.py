"""Monitors the memory of all processes: measures, learns, and acts before the kernel does.

One task samples while there are workers. Every measurement, whoever requested it, is
applied in the same way: to the budget, to the learned footprints, to the workers' own
limits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from handler_host._internal.units import format_size
from handler_host.catalog.catalog_entry import CatalogEntry
from handler_host.config import Config, HandlerPolicy
from handler_host.config.launchers import launcher_config
from handler_host.memory.budget import Budget, MemoryEstimate, WorkerBudget, configured_estimate
from handler_host.memory.eviction import Candidate
from handler_host.memory.footprints import Footprint, FootprintStore, HandlerVersion, version_of
from handler_host.memory.ledger import Key
from handler_host.memory.pressure import KernelView, OomKillCounter, PressureTracker, read_kernel_view
from handler_host.memory.procfs import Memory
from handler_host.memory.sampler import MemorySampler, Reading
from handler_host.memory.views import ProcessTree, WorkerView

if TYPE_CHECKING:
    from handler_host.memory.places import PlacesBudget

log = logging.getLogger(__name__)

MAX_CPU_SHARE = 0.02
"""Share of one processor that sampling may use: where a measurement is slow, there are fewer."""
HURRY = 4
"""Factor on the sampling rate while a worker activates, or a tenth of the budget or less is free."""
IDLE_INTERVAL_S = 60.0
"""Seconds between two measurements without a worker."""
SAVE_INTERVAL_S = 10.0
"""Shortest time between two writes of the state file while workers run, in seconds."""
FORK_SERVER: HandlerVersion = ("fork server", "handler-host", "")
"""Key of the fork server's footprint: no handler can have this name."""
FORK_SERVER_ESTIMATE = 12 * 1024**2
"""Bytes of PSS beside a worker, which shares the rest: with pydantic preloaded on Python 3.11, `make bench-memory`."""


class MemoryMonitor:
    """Measures the processes of ``tree``; owns the budget and the learned footprints.

    ``on_reading`` is called with each measurement.
    """

    def __init__(
        self, config: Config, tree: ProcessTree, on_reading: Callable[[Reading], None] = lambda reading: None
    ) -> None:
        self.config = config.memory
        self.footprints = FootprintStore(config.memory.state_file)
        self.sampler = MemorySampler(config.memory)
        self.budget = Budget(
            self.sampler.limit.usable,
            limit=self.sampler.limit.bytes,
            wait=config.memory.wait,
            candidates=self.candidates,
            evict=tree.evict,
            pinned=self._pinned,
            seconds_until_available=self._seconds_until_available,
        )
        self.places = {name: self._places_of(name, keys, tree) for name, keys in config.launchers.items()}
        """Accounts of the machines of each launcher, by its name."""
        self.pressure = PressureTracker(config.memory.pressure)
        self.oom_kills = OomKillCounter()
        self.cost = 0.0
        """Seconds of processor time that the latest measurement took."""
        self.interval = config.memory.sample_interval
        """Seconds between the last two samples."""
        self.latest: Reading | None = None
        """The latest measurement."""
        self._tree = tree
        self._on_reading = on_reading
        self._fork_server = 0
        """Bytes that the fork server is expected to use, while its first worker activates."""
        self._measured_at: float | None = None
        self._refreshing = asyncio.Lock()
        self._saved_at = 0.0

    def budget_of(self, policy: HandlerPolicy) -> WorkerBudget:
        """Return the accounts of the machines that run the workers of a handler."""
        return self.places.get(policy.isolation, self.budget)

    def size_of(self, handler: str, generation: int) -> int:
        """Return the bytes that a worker counts with, wherever it runs."""
        remote = sum(budget.size_of(handler, generation) for budget in self.places.values())
        return remote + self.budget.ledger.size_of(handler, generation)

    async def reconfigure(self, config: Config) -> None:
        """Apply another configuration, except its state file; the limit is that of a new measurement."""
        self.config = config.memory
        self.pressure = PressureTracker(config.memory.pressure)
        self.sampler.reconfigure(config.memory)
        await self.measure()
        limit = self.sampler.limit
        self.budget.resize(limit.usable, limit.bytes, config.memory.wait)

    async def start(self) -> None:
        """Read the footprints that an earlier run has learned."""
        await self.sampler.run(self.footprints.load)

    async def close(self) -> None:
        """Write the footprints, and stop measuring."""
        if self.footprints.path is not None:
            content = self.footprints.snapshot()
            await self.sampler.run(lambda: self.footprints.save(content))
        self.sampler.close()

    async def sample(self) -> None:
        """Measure at intervals while there are workers or waiting activations; runs until cancelled."""
        while True:
            await asyncio.sleep(self.interval)
            if self.budget.ledger.queue or any(True for _ in self._tree.workers()) or self._age() >= IDLE_INTERVAL_S:
                try:
                    await self.measure()
                    if time.monotonic() - self._saved_at > SAVE_INTERVAL_S:
                        await self.save()
                except Exception:
                    # One failure must not end the sampling.
                    log.exception("the memory could not be measured")
            self.interval = self._next_interval()

    async def measure(self) -> Reading:
        """Measure all processes, and act on the figures."""
        self._apply_remote()
        workers = {key: worker for key, worker in self._own_processes() if worker.pid is not None}
        pids = {key: worker.pid for key, worker in workers.items() if worker.pid is not None}
        reading = await self.sampler.read(self._tree.fork_servers(), pids, self._tree.drivers())
        counted = {
            key: worker.usage.record(memory, is_ready=worker.is_ready, is_exiting=worker.is_exiting)
            for key, memory in reading.workers.items()
            for worker in (workers[key],)
        }
        reading = msgspec.structs.replace(reading, workers=counted)
        self._apply(reading, workers)
        self.latest = reading
        self._on_reading(reading)
        return reading

    async def refresh(self) -> None:
        """Measure, unless the latest measurement is younger than ``memory.sample_interval``."""
        # Concurrent callers wait for one measurement.
        async with self._refreshing:
            if self._age() >= self.config.sample_interval:
                await self.measure()

    async def save(self) -> None:
        """Write the state file if the footprints have changed."""
        if self.footprints.has_changes and self.footprints.path is not None:
            self._saved_at = time.monotonic()
            content = self.footprints.snapshot()
            await self.sampler.run(lambda: self.footprints.save(content))

    async def estimate(self, entry: CatalogEntry, policy: HandlerPolicy) -> MemoryEstimate:
        """Return what an activation of the handler is expected to use, from figures no older than one sample."""
        if self._age() >= self.config.sample_interval:
            await self.measure()
        if policy.isolation in self.places:
            return self.expected(entry, policy, for_activation=True)._replace(resources=policy.resources)
        if policy.isolation == "process" and not self._tree.fork_servers() and not self._fork_server:
            # It starts with the first worker, and belongs to no handler.
            footprint = self.footprints.get(FORK_SERVER)
            self._fork_server = footprint.steady if footprint is not None else FORK_SERVER_ESTIMATE
            self.budget.ledger.base += self._fork_server
        return self.expected(entry, policy, for_activation=True)

    def expected(self, entry: CatalogEntry, policy: HandlerPolicy, *, for_activation: bool = False) -> MemoryEstimate:
        """Return what a worker of the handler is expected to use."""
        configured = configured_estimate(entry, policy, self.config.default_estimate)
        footprint = self.footprint(entry)
        if footprint is None or not footprint.peak or not policy.learn_memory:
            return configured
        # ``raised`` is a guess: no reason for a final refusal.
        minimum = footprint.steady or footprint.peak
        amount = max(footprint.peak, footprint.raised)
        if not footprint.steady:
            # No worker was ready when it was measured: it would have used more.
            amount = max(amount, configured.amount)
        estimate = MemoryEstimate(amount, minimum, "learned")
        possible = self.places.get(policy.isolation, self.budget.ledger).max_worker
        if minimum <= possible:
            return estimate
        version, now = version_of(entry), time.monotonic()
        wait_s = self.footprints.seconds_until_trial(version, now, starts_wait=for_activation)
        if wait_s:
            return estimate._replace(seconds_until_trial=wait_s)
        # A trial with all that the limit allows: the learned memory may be that of one spike.
        return estimate._replace(amount=possible, minimum=possible)

    def footprint(self, entry: CatalogEntry) -> Footprint | None:
        """Return what was learned of the handler's installed version."""
        return self.footprints.get(version_of(entry))

    async def was_oom_kill(self) -> bool:
        """Return whether the kernel, for want of memory, sent the SIGKILL of unknown origin that ended a worker."""
        limit = self.sampler.limit
        view = await self.sampler.run(lambda: read_kernel_view(limit))
        now = time.monotonic()
        self.oom_kills.update(view.kills, now)
        return self.oom_kills.explain(now)

    def record_exit(
        self,
        worker: WorkerView,
        *,
        killed_for_memory: bool,
        is_typical: bool,
        max_resident: int | None,
        stop_seconds: float | None,
    ) -> None:
        """Learn from the exit of a worker.

        ``is_typical`` means that its figures tell what workers of its handler usually
        use; ``max_resident`` is the kernel's high-water mark in bytes.
        """
        usage = worker.usage
        if killed_for_memory:
            size = max(usage.peak, (max_resident or 0) - usage.shared)
            self.footprints.record_oom_kill(worker.version, size, max(0, self.budget.ledger.max_grantable))
        elif is_typical:
            self.footprints.record_typical_exit(worker.version, peak=usage.peak, steady=usage.steady)
        if stop_seconds is not None:
            self.footprints.record_stop(worker.version, stop_seconds)

    def candidates(self) -> list[Candidate]:
        """Return the workers that could be evicted now."""
        candidates = (_candidate(worker) for _, worker in self._own_processes())
        return [candidate for candidate in candidates if candidate is not None]

    def _age(self) -> float:
        """Return the seconds since the latest measurement."""
        return time.monotonic() - self._measured_at if self._measured_at is not None else float("inf")

    def _own_processes(self) -> Iterator[tuple[Key, WorkerView]]:
        """Yield the workers that have a process of their own on this machine."""
        for worker in self._tree.workers():
            if not worker.is_inline and worker.place is None:
                yield (worker.handler, worker.generation), worker

    def _places_of(self, launcher: str, keys: dict[str, Any], tree: ProcessTree) -> PlacesBudget:
        """Return the accounts of a launcher's machines."""
        from handler_host.memory.places import PlacesBudget  # only a host with other machines needs it

        config = launcher_config(keys)

        def candidate(handler: str, generation: int) -> Candidate | None:
            worker = tree.worker(handler, generation)
            return _candidate(worker) if worker is not None else None

        def is_pinned(handler: str, generation: int) -> bool:
            worker = tree.worker(handler, generation)
            return worker is not None and worker.is_pinned

        return PlacesBudget(
            launcher,
            strategy=config.strategy,
            headroom=config.headroom,
            wait=lambda: self.config.wait,
            candidate=candidate,
            is_pinned=is_pinned,
            evict=tree.evict,
        )

    def _apply_remote(self) -> None:
        """Apply what the workers on other machines have reported with their latest heartbeats."""
        for launcher, budget in self.places.items():
            workers = {
                (worker.handler, worker.generation): worker
                for worker in self._tree.workers()
                if worker.launcher == launcher and worker.reported is not None and not worker.has_exited
            }
            sizes: dict[Key, int] = {}
            reservations: dict[Key, int] = {}
            most = budget.max_worker  # looks at all machines: once for all workers
            for key, worker in workers.items():
                assert worker.reported is not None, "chosen above"
                worker.usage.record(worker.reported, is_ready=worker.is_ready, is_exiting=worker.is_exiting)
                self._learn(key, worker, worker.reported, most, sizes, reservations)
            budget.measure(sizes, reservations)
            self._recycle(workers, sizes)

    def _apply(self, reading: Reading, workers: Mapping[Key, WorkerView]) -> None:
        self.cost, self._measured_at = reading.cost, reading.at
        ledger = self.budget.ledger
        sizes: dict[Key, int] = {}
        reservations: dict[Key, int] = {}
        for key, memory in reading.workers.items():
            worker = workers[key]
            if worker.has_exited:
                continue
            self._learn(key, worker, memory, ledger.max_worker, sizes, reservations)
        if reading.fork_server is not None:
            self.footprints.record_usage(FORK_SERVER, peak=reading.fork_server, steady=reading.fork_server)
        if (ledger.limit, ledger.usable) != (reading.limit.bytes, reading.limit.usable):
            fields = {"limit": reading.limit.bytes, "limit_source": reading.limit.source}
            log.info("the memory limit has changed", extra={"fields": fields})
            ledger.limit, ledger.usable = reading.limit.bytes, reading.limit.usable
        reason = self._pressure_reason(reading.kernel, reading.at)
        is_high = reason is not None
        if is_high is not ledger.under_pressure:
            level = logging.WARNING if is_high else logging.INFO
            text = f"{reason}; activations wait" if is_high else "over"
            log.log(level, "memory pressure: %s", text, extra={"fields": {"stalled": self.pressure.share}})
            ledger.under_pressure = is_high
        ledger.measure(reading.host + self._fork_server_size(reading), reading.external_usage, sizes, reservations)
        if is_high:
            ledger.evict_one()
        ledger.evict_excess()
        self._recycle(workers, sizes)

    def _learn(
        self,
        key: Key,
        worker: WorkerView,
        memory: Memory,
        most: int,
        sizes: dict[Key, int],
        reservations: dict[Key, int],
    ) -> None:
        """Add what the worker counts with to ``sizes`` and ``reservations``; learn from it once it is ready."""
        sizes[key] = memory.pss
        if not worker.is_ready:
            return  # its activation may fail: what it uses until then is less than what the handler needs
        usage = worker.usage
        self.footprints.record_usage(worker.version, peak=usage.peak, steady=usage.steady)
        footprint = self.footprints.get(worker.version)
        if footprint is not None:
            # At most what the limit allows, or a worker after a spike would keep all others out.
            reservations[key] = min(max(footprint.steady, footprint.raised), most)

    def _fork_server_size(self, reading: Reading) -> int:
        """Return the bytes that the fork server counts with: while it starts, at least the expected ones."""
        if not self._tree.has_activations():
            self._fork_server = 0
        return max(reading.fork_server or 0, self._fork_server)

    def _pressure_reason(self, kernel: KernelView, now: float) -> str | None:
        """Return how the kernel reports that memory is short, however much of the limit is free; None if it is not."""
        self.pressure.update(kernel.stalled, now)
        if kills := self.oom_kills.update(kernel.kills, now):
            return f"the kernel killed {kills} more processes for memory ({kernel.kills_source})"
        if self.pressure.is_high:
            share, threshold = f"{self.pressure.share:.0%}", f"{self.pressure.threshold:.0%}"
            return (
                f"tasks waited for memory {share} of the time, over the limit of {threshold} ({kernel.stalled_source})"
            )
        return None

    def _recycle(self, workers: Mapping[Key, WorkerView], sizes: Mapping[Key, int]) -> None:
        """Recycle the workers that are over their handler's soft limit."""
        for key, size in sizes.items():
            worker = workers[key]
            limit = worker.soft_limit
            if limit is not None and size > limit:
                fields = {"handler": worker.handler, "generation": worker.generation, "pss": size}
                log.warning("over memory_soft_limit (%s): recycled", format_size(limit), extra={"fields": fields})
                self._tree.recycle(worker.handler, worker.generation)

    def _next_interval(self) -> float:
        ledger = self.budget.ledger
        activating = any(not worker.is_ready for _, worker in self._own_processes())
        is_tight = ledger.usable - ledger.used - ledger.external_usage < ledger.usable // 10
        factor = HURRY if activating or ledger.queue or is_tight else 1
        return max(self.config.sample_interval / factor, self.cost / MAX_CPU_SHARE)

    def _pinned(self) -> list[Key]:
        return [key for key, worker in self._own_processes() if worker.is_pinned]

    def _seconds_until_available(self) -> float:
        """Estimate when memory may become available, from past activations, busy times and stops."""
        estimates = []
        for _, worker in self._own_processes():
            if worker.is_pinned:
                continue
            footprint = self.footprints.get(worker.version)
            if worker.is_ready:
                seconds = worker.busy_for_another(self.config.wait)
            else:
                usual = footprint.activate_seconds if footprint is not None else None
                seconds = max(0.0, (usual or self.config.wait) - worker.seconds_since_launch)
            estimates.append(seconds + ((footprint.stop_seconds if footprint is not None else None) or 0.0))
        return max(1.0, min(estimates, default=self.config.wait))


def _candidate(worker: WorkerView) -> Candidate | None:
    """Return the worker as one that could be evicted; None while it must not be."""
    idle_since = worker.idle_since
    if idle_since is None:
        return None
    return Candidate(worker.handler, worker.generation, idle_since, worker.is_surplus)
