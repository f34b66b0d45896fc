"""One generation of a handler's worker: from its launch to its reaped process.

One task runs it, :meth:`Worker.run`, and owns all of it: the process, the
channel, the output pipe. It tells what happens as lifecycle events, and when it
returns, nothing of the generation is left.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec

from handler_host.channel.call import ChannelLimits
from handler_host.channel.channel import Channel, HandlerCallRunner
from handler_host.channel.frames import Log, Ready, WorkerSpec
from handler_host.config import HandlerPolicy
from handler_host.lifecycle import state as life
from handler_host.lifecycle.state import Cause
from handler_host.memory.procfs import Memory
from handler_host.plugin.errors import ActivationFailed, ActivationTimeout, HandlerCrashed, HostError, OutOfResources
from handler_host.workers.exit_report import ExitReport
from handler_host.workers.launchers.base import ExitStatus, Launcher, WorkerProcess
from handler_host.workers.output_logger import OutputLogger

EXIT_GRACE = 1.0
"""Seconds that a worker whose channel has closed gets to be gone, so that its own exit status is seen."""

LAUNCH_GRACE = 10.0
"""Seconds that a launch may still take when nobody wants the worker any more."""

TERM_GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL for a worker that did not go by itself."""


class LaunchSpec(msgspec.Struct, frozen=True):
    """What a generation is launched with."""

    number: int
    spec: WorkerSpec
    policy: HandlerPolicy
    launcher: Launcher
    limits: ChannelLimits
    output_lines_per_second: int
    on_log: Callable[[Log], None]
    make_call_runner: Callable[[Channel], HandlerCallRunner] | None = None
    """Makes the runner of the dispatches that the worker makes itself."""


class Worker:
    """The worker of one generation.

    ``post`` takes the events: ``WorkerReady`` or ``WorkerStartFailed``, then, after an
    activation, ``WorkerLost`` if it ends unasked, and last ``WorkerExited``. ``killed_for_memory``
    tells whether the kernel has just killed a worker, when nobody else is known to.
    """

    def __init__(
        self, plan: LaunchSpec, post: Callable[[life.Event], None], killed_for_memory: Callable[[], Awaitable[bool]]
    ) -> None:
        self.number = plan.number
        self.launched_at = time.monotonic()
        self.ready_at: float | None = None
        self.process: WorkerProcess | None = None
        self.channel: Channel | None = None
        self.ready: Ready | None = None
        self.exit: ExitStatus | None = None
        self.subject = (plan.spec.handler, plan.spec.distribution, plan.spec.version)
        """What is learned of it belongs to this version of the handler."""
        self.memory: Memory | None = None
        """What it took when it was last measured before it was told to go: then its memory is on its way back."""
        self.peak = 0
        """The most that it took, in bytes of PSS."""
        self.steady = 0
        """The most that it took since it was ready."""
        self.shared = 0
        """What of its resident memory is others' share, in bytes."""
        self.served = 0
        """Dispatches that it was given."""
        self.stop_at: float | None = None
        self._plan = plan
        self._post = post
        self._killed_for_memory = killed_for_memory
        self._killed = False
        """The host has sent it a signal that ends it."""
        self._killed_by_kernel = False
        """For memory."""
        self._stopping = asyncio.Event()
        self._aborted = False
        self._launching: asyncio.Task[WorkerProcess] | None = None

    @property
    def policy(self) -> HandlerPolicy:
        """What it was launched with."""
        return self._plan.policy

    @property
    def pid(self) -> int | None:
        """The worker's process number, while it has one."""
        return self.process.pid if self.process is not None and self.exit is None else None

    @property
    def pss(self) -> int | None:
        """What it takes, as far as that was measured."""
        return self.memory.pss if self.memory is not None else None

    @property
    def out_of_memory(self) -> bool:
        """Whether it was killed for memory, or could get no more."""
        return self._killed_by_kernel or (self.channel is not None and self.channel.out_of_memory)

    def note_memory(self, memory: Memory) -> Memory:
        """Take a measurement of its process; return what it counts with from now on."""
        self.peak = max(self.peak, memory.peak, memory.pss)
        going = self.stop_at is not None or self._killed or self.exit is not None
        if self.memory is not None and going:
            return self.memory
        self.memory = memory
        self.shared = max(0, memory.rss - memory.pss)
        if self.ready_at is not None:
            self.steady = max(self.steady, memory.pss)
        return memory

    def report(self, cause: Cause, reason: str | None) -> ExitReport:
        """Return how and why it ended; ``reason`` says it better than the process's end does."""
        assert self.exit is not None, "what has not ended is not reported"
        return ExitReport(
            kind=cause.value,
            text=reason if reason is not None else self.exit.describe(),
            at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            generation=self.number,
            code=self.exit.code,
            signal=self.exit.signal,
            pss=self.pss,
            given_back=self.memory.uss if self.memory is not None else None,
        )

    def abort(self) -> None:
        """Kill it while it activates; ``WorkerExited`` follows."""
        self._aborted = True
        if self.process is not None:
            self._kill(self.process)
        elif self._launching is not None:
            # Not at once: the process may be there already, and it has to be gone when the unload is answered.
            asyncio.get_running_loop().call_later(LAUNCH_GRACE, self._launching.cancel)

    def stop(self) -> None:
        """Let it deactivate and go, by force in the end; ``WorkerExited`` follows."""
        self.stop_at = time.monotonic()
        self._stopping.set()

    async def run(self) -> None:
        """Launch, activate, watch and end the worker."""
        plan = self._plan
        try:
            self.process = await self._launch()
        except HostError as error:
            self._never_ready(error)
            return
        if self._aborted:
            self._kill(self.process)
        exiting = asyncio.create_task(self._wait(self.process), name=f"exit of {self._name}")
        output: OutputLogger | None = None
        try:
            output = OutputLogger(self.process.output, plan.spec.handler, plan.output_lines_per_second)
            self.channel = await Channel.open(
                self.process.socket,
                handler=plan.spec.handler,
                generation=self.number,
                limits=plan.limits,
                on_log=plan.on_log,
                # What it is in after that, nobody knows.
                on_out_of_memory=partial(self._post, life.MemoryLimitExceeded(self.number, Cause.OUT_OF_MEMORY)),
                make_call_runner=plan.make_call_runner,
            )
            failure = await self._activate(self.channel, exiting)
            if failure is None:
                self.ready_at = time.monotonic()
                self._post(life.WorkerReady(self.number))
                await self._watch(self.channel, exiting)
        finally:
            # Also when the host's own loop is torn down: no worker outlives its generation.
            if not exiting.done():
                self._kill(self.process)
            try:
                await exiting
            finally:
                self._close(self.process, output)
        if failure is not None:
            self._never_ready(failure)
        else:
            self._post(life.WorkerExited(self.number, random.random()))

    def _kill(self, process: WorkerProcess) -> None:
        self._killed = True
        process.kill(signal.SIGKILL)

    @property
    def _name(self) -> str:
        return f"{self._plan.spec.handler} generation {self.number}"

    async def _launch(self) -> WorkerProcess:
        """Return the process; raises what the launcher raises, and ``ActivationTimeout`` if it does not answer."""
        plan = self._plan
        if self._aborted:
            raise ActivationFailed(f"{plan.spec.handler} was aborted before its launch")
        work = plan.launcher.launch(plan.spec.handler, self.number, plan.spec.environment)
        self._launching = launching = asyncio.create_task(work, name=f"launch of {self._name}")
        limit = plan.policy.activate_timeout
        try:
            await asyncio.wait({launching}, timeout=limit)
        finally:
            launching.cancel()
        await asyncio.wait({launching})
        if launching.cancelled():
            raise ActivationTimeout(
                f"no process for {plan.spec.handler} within {limit:g} s (activate_timeout): the fork server hangs, "
                "perhaps in what it preloads",
                retry_after=limit,
            )
        return launching.result()

    def _close(self, process: WorkerProcess, output: OutputLogger | None) -> None:
        """Close the host's ends."""
        if self.channel is not None:
            self.channel.close()
        else:
            process.socket.close()
        if output is not None:
            output.close()
        elif process.output >= 0:
            os.close(process.output)

    async def _wait(self, process: WorkerProcess) -> ExitStatus:
        self.exit = await process.wait()
        return self.exit

    def _never_ready(self, error: HostError) -> None:
        if self._aborted:
            self._post(life.WorkerExited(self.number))
        else:
            counts_as_failure = not isinstance(error, OutOfResources)
            self._post(life.WorkerStartFailed(self.number, error, counts_as_failure, random.random()))

    async def _activate(self, channel: Channel, exiting: asyncio.Task[ExitStatus]) -> HostError | None:
        """Return None when the worker is ready; else why it is not, with the worker's end explained."""
        plan = self._plan
        try:
            self.ready = await channel.start(plan.spec, plan.policy.activate_timeout)
        except HandlerCrashed:
            closed = channel.closed.result()
            exit = None if closed.broken else await self._gone(exiting, EXIT_GRACE)
            if exit is not None and exit.lost:
                # No fault of the handler, which is not paused for it.
                return OutOfResources(f"{plan.spec.handler}: {exit.describe()}; ask again", retry_after=1.0)
            how = (await self._explain(exit))[1] if exit is not None else closed.text
            return ActivationFailed(f"the worker of {plan.spec.handler} ended before it was ready: {how}")
        except HostError as error:
            return error
        return None

    async def _watch(self, channel: Channel, exiting: asyncio.Task[ExitStatus]) -> None:
        """Wait until the worker is told to stop or is lost, and see it out."""
        stopping = asyncio.create_task(self._stopping.wait(), name=f"stop of {self._name}")
        try:
            ends: set[asyncio.Future[Any]] = {stopping, exiting, channel.closed}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        process = self.process
        assert process is not None, "a generation that is watched was launched"
        if not self._stopping.is_set():
            await self._lose(channel, exiting, process)
            return
        policy = self._plan.policy
        channel.stop(policy.stop_grace)
        if await self._gone(exiting, policy.stop_grace) is None:
            process.kill(signal.SIGTERM)
            if await self._gone(exiting, TERM_GRACE) is None:
                self._kill(process)
                await exiting

    async def _lose(self, channel: Channel, exiting: asyncio.Task[ExitStatus], process: WorkerProcess) -> None:
        """Tell that the worker ended unasked, or is given up; its process is gone before anybody is told."""
        reason = channel.closed.result() if channel.closed.done() else None
        if reason is not None and reason.broken:
            # A hang or a broken protocol: the worker is there, but of no use.
            self._kill(process)
            text = reason.text
            cause = Cause.HANG if reason.hang else Cause.CRASH
            await exiting
        else:
            if await self._gone(exiting, EXIT_GRACE) is None:
                self._kill(process)
            cause, text = await self._explain(await exiting)
        error = HandlerCrashed(f"the worker of {self._plan.spec.handler} ended: {text}")
        channel.fail(error)
        self._post(life.WorkerLost(self.number, cause, error))

    async def _explain(self, exit: ExitStatus) -> tuple[Cause, str]:
        """Return why and how a worker ended that nobody has told to."""
        text = exit.describe()
        if exit.signal != signal.SIGKILL or self._killed:
            return Cause.CRASH, text
        if await self._killed_for_memory():
            self._killed_by_kernel = True
            return Cause.OUT_OF_MEMORY, f"out of memory, {text} of the kernel"
        return Cause.KILLED, f"{text}, which neither the host has sent nor the kernel for want of memory"

    async def _gone(self, exiting: asyncio.Task[ExitStatus], seconds: float) -> ExitStatus | None:
        """Return how the process ended, or None if it is still there after ``seconds``."""
        await asyncio.wait({exiting}, timeout=seconds)
        return exiting.result() if exiting.done() else None
