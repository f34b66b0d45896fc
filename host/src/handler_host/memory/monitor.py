"""Watches the memory of all processes: measures, learns, and acts before the kernel has to.

One task samples while there are workers. Every measurement, whoever asked for it,
is applied in the same way: to the budget, to what is learned, to the workers'
own limits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping

import msgspec

from handler_host._internal.units import format_size
from handler_host.catalog.catalog import CatalogEntry
from handler_host.config import Config, HandlerPolicy
from handler_host.lifecycle import state as life
from handler_host.lifecycle.controller import HandlerController
from handler_host.lifecycle.state import Cause, Phase
from handler_host.memory.budget import Budget, MemoryEstimate
from handler_host.memory.footprints import Footprint, FootprintStore, Subject
from handler_host.memory.ledger import Candidate, Key
from handler_host.memory.pressure import KernelView, read_kernel_view
from handler_host.memory.sampler import MemorySampler, Reading
from handler_host.workers.launch_spec import LaunchSpecBuilder
from handler_host.workers.worker import Worker

log = logging.getLogger(__name__)

MAX_SHARE = 0.02
"""Of a processor's time that sampling may take: where a measurement is slow, there are fewer."""
HURRY = 4
"""So many times as often is measured while a worker activates, or a tenth of the budget or less is free."""
SHORTEST_LOOK = 0.2
"""Seconds over which waits for memory are looked at, at least: shorter ones tell nothing."""
KILL_AGE = 10.0
"""Seconds for which a kill that the kernel has counted can explain the end of a worker."""
REST = 60.0
"""Seconds between two measurements while there is no worker."""
SAVE_INTERVAL = 10.0
"""Seconds between two writings of the state file while workers run."""
FORK_SERVER: Subject = ("fork server", "handler-host", "")
"""Where its footprint is kept: no handler can have this name."""
FORK_SERVER_ESTIMATE = 12 * 1024**2
"""Bytes of PSS beside a worker, which shares the rest; with pydantic preloaded, measured on Python 3.11."""
NORMAL = frozenset({Cause.IDLE, Cause.OPERATOR, Cause.RELOAD, Cause.EVICTED})
"""Ends after which a footprint tells what a worker usually takes."""


class PressureTracker:
    """Whether the kernel reports pressure: the share of time in which tasks waited for memory."""

    def __init__(self, threshold: float | None) -> None:
        self.share = 0.0
        self.threshold = threshold
        self._last: tuple[float, float] | None = None

    @property
    def pressed(self) -> bool:
        """Whether the share is over the threshold."""
        return self.threshold is not None and self.share >= self.threshold

    def note(self, stalled: float | None, now: float) -> None:
        """Take the kernel's counter, in seconds."""
        if stalled is None:
            return
        if self._last is not None:
            before, then = self._last
            if now - then < SHORTEST_LOOK:
                return
            self.share = max(0.0, stalled - before) / (now - then)
        self._last = (stalled, now)


class OomKillCounter:
    """What the kernel counts of kills for memory, each of which explains the end of one process."""

    def __init__(self) -> None:
        self.count: int | None = None
        self._unexplained: deque[float] = deque(maxlen=1000)

    def note(self, count: int | None, now: float) -> int:
        """Take the kernel's counter; return by how much it has grown."""
        if count is None:
            return 0
        grown = count - self.count if self.count is not None else 0
        # Two readings may come in the wrong order: the counter itself never falls.
        self.count = max(count, self.count or 0)
        self._unexplained.extend([now] * max(0, grown))
        return max(0, grown)

    def explain(self, now: float) -> bool:
        """Return whether a process that was killed just now, by nobody known, was one of them."""
        while self._unexplained and now - self._unexplained[0] > KILL_AGE:
            self._unexplained.popleft()
        if not self._unexplained:
            return False
        self._unexplained.popleft()
        return True


class MemoryMonitor:
    """Measures the processes of ``owners`` and of ``planner``'s launchers; has the budget, and what is learned."""

    def __init__(
        self,
        config: Config,
        controllers: Mapping[str, HandlerController],
        planner: LaunchSpecBuilder,
        on_reading: Callable[[Reading], None] = lambda reading: None,
    ) -> None:
        self.config = config.memory
        self.learned = FootprintStore(config.memory.state_file)
        self.meter = MemorySampler(config.memory)
        self.budget = Budget(
            self.meter.limit.usable,
            limit=self.meter.limit.bytes,
            wait=config.memory.wait,
            candidates=self.candidates,
            evict=self._evict,
            pinned=self._pinned,
            chance=self._chance,
        )
        self.stalls = PressureTracker(config.memory.pressure)
        self.kills = OomKillCounter()
        self.cost = 0.0
        """Seconds of processor time that the last measurement took."""
        self.pause = config.memory.sample_interval
        """Seconds between the last two samples."""
        self.controllers = controllers
        self._planner = planner
        self._fork_server = 0
        """Bytes that the fork server is expected to take, while its first worker activates."""
        self._measured_at: float | None = None
        self.last: Reading | None = None
        """The last measurement."""
        self._on_reading = on_reading
        self._refreshing = asyncio.Lock()
        self._saved_at = 0.0

    async def reconfigure(self, config: Config) -> None:
        """Go on with this configuration, all but its state file; the limit is that of a measurement made now."""
        self.config = config.memory
        self.stalls = PressureTracker(config.memory.pressure)
        self.meter.reconfigure(config.memory)
        await self.measure()
        limit = self.meter.limit
        self.budget.resize(limit.usable, limit.bytes, config.memory.wait)

    async def start(self) -> None:
        """Read what an earlier run has learned."""
        await self.meter.run(self.learned.load)

    async def close(self) -> None:
        """Write what was learned, and measure no more."""
        if self.learned.path is not None:
            content = self.learned.snapshot()
            await self.meter.run(lambda: self.learned.save(content))
        self.meter.close()

    async def sample(self) -> None:
        """Measure again and again while there are workers or activations that wait; for a task of its own."""
        while True:
            await asyncio.sleep(self.pause)
            at_work = self.budget.ledger.queue or any(
                controller.generation is not None for controller in self.controllers.values()
            )
            if at_work or self._age() >= REST:
                try:
                    await self.measure()
                    if time.monotonic() - self._saved_at > SAVE_INTERVAL:
                        await self.save()
                except Exception:
                    # Once it failed is no reason to look no more.
                    log.exception("the memory could not be measured")
            self.pause = self._next_pause()

    async def measure(self) -> Reading:
        """Measure all processes, and act on what is found."""
        workers = {key: generation for key, generation in self._generations() if generation.pid is not None}
        pids = {key: generation.pid for key, generation in workers.items() if generation.pid is not None}
        reading = await self.meter.read(self._planner.fork_servers, pids)
        noted = {key: workers[key].note_memory(memory) for key, memory in reading.workers.items()}
        reading = msgspec.structs.replace(reading, workers=noted)
        self._apply(reading, workers)
        self.last = reading
        self._on_reading(reading)
        return reading

    async def refresh(self) -> None:
        """Measure, unless that was done within ``memory.sample_interval``; who asks meanwhile waits for the same."""
        async with self._refreshing:
            if self._age() >= self.config.sample_interval:
                await self.measure()

    def _age(self) -> float:
        """Return the seconds since the last measurement."""
        return time.monotonic() - self._measured_at if self._measured_at is not None else float("inf")

    async def save(self) -> None:
        """Write the state file if there is something new in it."""
        if self.learned.changed and self.learned.path is not None:
            self._saved_at = time.monotonic()
            content = self.learned.snapshot()
            await self.meter.run(lambda: self.learned.save(content))

    async def estimate(self, controller: HandlerController) -> MemoryEstimate:
        """Return what an activation of the handler is expected to take; nothing of it is older than a sample."""
        if self._age() >= self.config.sample_interval:
            await self.measure()
        if controller.policy.isolation == "process" and not self._planner.fork_servers and not self._fork_server:
            # It is started for the first worker, and is nobody's own.
            found = self.learned.of(FORK_SERVER)
            self._fork_server = found.steady if found is not None else FORK_SERVER_ESTIMATE
            self.budget.ledger.base += self._fork_server
        return self.expected(controller.entry, controller.policy)

    def expected(self, entry: CatalogEntry, policy: HandlerPolicy) -> MemoryEstimate:
        """Return what a worker of the handler is expected to take."""
        found = self.footprint(entry)
        if found is not None and found.peak:
            # What was raised is a guess: no reason to refuse for ever.
            return MemoryEstimate(max(found.peak, found.raised), found.steady or found.peak, "learned")
        if policy.memory_estimate is not None:
            manifest = entry.manifest.memory_estimate if entry.manifest is not None else None
            source = "manifest" if policy.memory_estimate == manifest else "configured"
            return MemoryEstimate(policy.memory_estimate, policy.memory_estimate, source)
        default = self.config.default_estimate
        return MemoryEstimate(default, default, "default")

    def footprint(self, entry: CatalogEntry) -> Footprint | None:
        """Return what was learned of the handler's version that is installed now."""
        return self.learned.of((entry.name, entry.distribution, entry.version))

    async def killed_for_memory(self) -> bool:
        """Return whether a worker that was killed just now, by nobody known, was killed by the kernel for memory."""
        limit = self.meter.limit
        view = await self.meter.run(lambda: read_kernel_view(limit))
        now = time.monotonic()
        self.kills.note(view.kills, now)
        return self.kills.explain(now)

    def activated(self, controller: HandlerController) -> None:
        """Learn from an activation."""
        if controller.generation is not None and controller.activate_seconds is not None:
            self.learned.activated(controller.generation.subject, controller.activate_seconds)

    def ended(self, generation: Worker, cause: Cause) -> None:
        """Learn from the end of a worker."""
        subject = generation.subject
        if cause is Cause.OUT_OF_MEMORY and generation.exit is not None and generation.exit.signal is not None:
            resident = (generation.exit.maxrss or 0) - generation.shared
            self.learned.killed(subject, max(generation.peak, resident), max(0, self.budget.ledger.max_grantable))
        elif cause in NORMAL and generation.served:
            self.learned.ended(subject, peak=generation.peak, steady=generation.steady)
        if generation.stop_at is not None:
            self.learned.stopped(subject, time.monotonic() - generation.stop_at)

    def _generations(self) -> Iterator[tuple[Key, Worker]]:
        """Yield those that have a process of their own."""
        for name, controller in self.controllers.items():
            if controller.generation is not None and not controller.inline:
                yield (name, controller.generation.number), controller.generation

    def _apply(self, reading: Reading, workers: Mapping[Key, Worker]) -> None:
        self.cost, self._measured_at = reading.cost, reading.at
        ledger, sizes, promises = self.budget.ledger, {}, {}
        for key, memory in reading.workers.items():
            generation = workers[key]
            if generation.exit is not None:
                continue
            ready = generation.ready_at is not None
            self.learned.seen(generation.subject, peak=generation.peak, steady=generation.steady if ready else None)
            sizes[key] = memory.pss
            footprint = self.learned.of(generation.subject)
            if ready and footprint is not None:
                promises[key] = max(footprint.steady, footprint.raised)
        if reading.fork_server is not None:
            self.learned.seen(FORK_SERVER, peak=reading.fork_server, steady=reading.fork_server)
        if (ledger.limit, ledger.usable) != (reading.limit.bytes, reading.limit.usable):
            log.info(
                "the memory limit has changed",
                extra={"fields": {"limit": reading.limit.bytes, "limit_source": reading.limit.source}},
            )
            ledger.limit, ledger.usable = reading.limit.bytes, reading.limit.usable
        pressure = self._pressure(reading.kernel, reading.at)
        pressed = pressure is not None
        if pressed is not ledger.under_pressure:
            level = logging.WARNING if pressed else logging.INFO
            told = f"{pressure}; activations wait" if pressed else "over"
            log.log(level, "memory pressure: %s", told, extra={"fields": {"stalled": self.stalls.share}})
            ledger.under_pressure = pressed
        ledger.measure(reading.host + self._of_fork_server(reading), reading.others, sizes, promises)
        if pressed:
            ledger.relieve_by_one()
        ledger.evict_excess()
        self._recycle(sizes)

    def _of_fork_server(self, reading: Reading) -> int:
        """Return the bytes that the fork server counts with: while it starts, at least what it is expected to take."""
        activating = any(
            controller.state.phase in (Phase.WAITING, Phase.ACTIVATING) for controller in self.controllers.values()
        )
        if not activating:
            self._fork_server = 0
        return max(reading.fork_server or 0, self._fork_server)

    def _pressure(self, kernel: KernelView, now: float) -> str | None:
        """Return by what the kernel tells that memory is short, however much of the limit is free; None: it is not."""
        self.stalls.note(kernel.stalled, now)
        if kills := self.kills.note(kernel.kills, now):
            return f"the kernel has killed for memory, {kills} more ({kernel.kills_source})"
        if self.stalls.pressed:
            share, threshold = f"{self.stalls.share:.0%}", f"{self.stalls.threshold:.0%}"
            return f"tasks waited for memory {share} of the time, {threshold} is too much ({kernel.stalled_source})"
        return None

    def _recycle(self, sizes: Mapping[Key, int]) -> None:
        """Let workers go that have outgrown their handler's own limit, when they have ended what they do."""
        for (name, number), size in sizes.items():
            controller = self.controllers.get(name)
            limit = controller.policy.memory_soft_limit if controller is not None else None
            if controller is not None and limit is not None and size > limit and controller.state.phase is Phase.READY:
                fields = {"handler": name, "generation": number, "pss": size}
                log.warning("over memory_soft_limit (%s): recycled", format_size(limit), extra={"fields": fields})
                controller.post(life.MemoryLimitExceeded(number, Cause.RECYCLED))

    def _next_pause(self) -> float:
        ledger = self.budget.ledger
        activating = any(generation.ready_at is None for _, generation in self._generations())
        hurried = activating or ledger.queue or ledger.usable - ledger.used - ledger.others < ledger.usable // 10
        return max(self.config.sample_interval / (HURRY if hurried else 1), self.cost / MAX_SHARE)

    def candidates(self) -> list[Candidate]:
        """Return the handlers that are idle now."""
        found = (controller.candidate() for controller in self.controllers.values())
        return [candidate for candidate in found if candidate is not None]

    def _pinned(self) -> list[Key]:
        return [key for key, _ in self._generations() if self.controllers[key[0]].policy.pin]

    def _evict(self, name: str, generation: int) -> None:
        self.controllers[name].post(life.Evicted(generation))

    def _chance(self) -> float:
        """Return after how many seconds there may be room, by what activations and busy spells took so far."""
        now = time.monotonic()
        times = []
        for (name, _), generation in self._generations():
            controller = self.controllers[name]
            if controller.policy.pin:
                continue
            footprint = self.learned.of(generation.subject)
            left = 0.0
            if generation.ready_at is None:
                usual = footprint.activate_seconds if footprint is not None else None
                left = max(0.0, (usual or self.config.wait) - (now - generation.launched_at))
            elif controller.state.leases:
                left = controller.spells.busy_left(self.config.wait)
            times.append(left + ((footprint.stop_seconds if footprint is not None else None) or 0.0))
        return max(1.0, min(times, default=self.config.wait))
