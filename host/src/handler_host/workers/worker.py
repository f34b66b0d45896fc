"""One worker of a handler: from its launch to its reaped process.

One task runs it, :meth:`Worker.run`, and owns all of it: the process, the channel, the
output pipe. It reports what happens as events (``handler_host.workers.events``). When it
returns, nothing of the worker is left.
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
from handler_host.memory.footprints import HandlerVersion
from handler_host.memory.views import MemoryUsage
from handler_host.plugin.errors import ActivationFailed, ActivationTimeout, HandlerCrashed, HostError, OutOfResources
from handler_host.workers.events import (
    Cause,
    MemoryLimitExceeded,
    WorkerEvent,
    WorkerExited,
    WorkerLost,
    WorkerReady,
    WorkerStartFailed,
)
from handler_host.workers.exit_report import ExitReport
from handler_host.workers.launchers.base import Launcher
from handler_host.workers.output_logger import OutputLogger
from handler_host.workers.worker_process import ExitStatus, WorkerProcess

EXIT_GRACE = 1.0
"""Seconds for a worker whose channel has closed to exit by itself, so that its own exit status is seen."""

LAUNCH_GRACE = 10.0
"""Seconds that a launch may still take after its worker was aborted."""

TERM_GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL for a worker that did not exit by itself."""


MakeCallRunner = Callable[[str, Channel], HandlerCallRunner]
"""Makes the runner of a worker's dispatches, from the name of its handler and its channel."""


class LaunchSpec(msgspec.Struct, frozen=True):
    """Everything that one worker is launched with."""

    generation: int
    worker: WorkerSpec
    policy: HandlerPolicy
    launcher: Launcher
    limits: ChannelLimits
    output_lines_per_second: int
    on_log: Callable[[Log], None]
    on_uncompiled: Callable[[], None]
    """Called if the worker becomes ready with packages that could be lean, but are not compiled."""
    make_call_runner: Callable[[Channel], HandlerCallRunner] | None = None
    """Makes the runner of the dispatches that the worker makes itself."""


class Worker:
    """One worker, identified by its handler and generation.

    ``post`` takes its events: ``WorkerReady`` or ``WorkerStartFailed``, then, after an
    activation, ``WorkerLost`` if it ends by itself, and last ``WorkerExited``.
    ``was_oom_kill`` returns whether the kernel has just killed a process for memory; it
    is asked when the sender of a SIGKILL is unknown.
    """

    def __init__(
        self, spec: LaunchSpec, post: Callable[[WorkerEvent], None], was_oom_kill: Callable[[], Awaitable[bool]]
    ) -> None:
        self.handler = spec.worker.handler
        self.generation = spec.generation
        self.version: HandlerVersion = (spec.worker.handler, spec.worker.distribution, spec.worker.version)
        """The version of the handler that it runs."""
        self.launched_at = time.monotonic()
        self.ready_at: float | None = None
        self.stopped_at: float | None = None
        """When it was told to stop; all three on the monotonic clock."""
        self.process: WorkerProcess | None = None
        self.channel: Channel | None = None
        self.ready: Ready | None = None
        """Its report on becoming ready: its operations."""
        self.exit: ExitStatus | None = None
        self.usage = MemoryUsage()
        self.served = 0
        """Dispatches that got a lease on it."""
        self._spec = spec
        self._post = post
        self._was_oom_kill = was_oom_kill
        self._killed_by_host = False
        self._killed_for_memory = False
        self._stopping = asyncio.Event()
        self._aborted = False
        self._launching: asyncio.Task[WorkerProcess] | None = None

    @property
    def policy(self) -> HandlerPolicy:
        """The policy that it was launched with."""
        return self._spec.policy

    @property
    def pid(self) -> int | None:
        """Its process ID, while it has a process."""
        return self.process.pid if self.process is not None and self.exit is None else None

    @property
    def place(self) -> str | None:
        """The machine that it runs on; None for this one, and before the launch."""
        return self.process.place if self.process is not None else None

    @property
    def pss(self) -> int | None:
        """Bytes of PSS at the latest measurement; None before the first."""
        return self.usage.latest.pss if self.usage.latest is not None else None

    @property
    def is_ready(self) -> bool:
        """Whether its activation is complete."""
        return self.ready_at is not None

    @property
    def is_exiting(self) -> bool:
        """Whether it was stopped or killed, or has exited."""
        return self.stopped_at is not None or self._killed_by_host or self.exit is not None

    @property
    def out_of_memory(self) -> bool:
        """Whether it was killed for memory, or an allocation failed."""
        return self._killed_for_memory or (self.channel is not None and self.channel.out_of_memory)

    def exit_report(self, cause: Cause, reason: str | None) -> ExitReport:
        """Return how and why it exited; ``reason`` takes the place of a description of the exit status."""
        assert self.exit is not None, "only a worker that has exited is reported"
        return ExitReport(
            kind=cause.value,
            text=reason if reason is not None else self.exit.describe(),
            at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            generation=self.generation,
            code=self.exit.code,
            signal=self.exit.signal,
            pss=self.pss,
            given_back=self.usage.latest.uss if self.usage.latest is not None else None,
        )

    def abort(self) -> None:
        """Kill it while it activates; ``WorkerExited`` follows."""
        self._aborted = True
        if self.process is not None:
            self._kill(self.process)
        elif self._launching is not None:
            # Not at once: the process may exist already, and must have exited when the unload is answered.
            asyncio.get_running_loop().call_later(LAUNCH_GRACE, self._launching.cancel)

    def stop(self) -> None:
        """Stop it: it deactivates and exits, or is killed in the end; ``WorkerExited`` follows."""
        self.stopped_at = time.monotonic()
        self._stopping.set()

    async def run(self) -> None:
        """Launch, activate and supervise the worker until its process is reaped."""
        spec = self._spec
        try:
            self.process = await self._launch()
        except HostError as error:
            self._post_start_failure(error)
            return
        if self._aborted:
            self._kill(self.process)
        exiting = asyncio.create_task(self._wait(self.process), name=f"exit of {self._name}")
        output: OutputLogger | None = None
        try:
            output = OutputLogger(self.process.output, self.handler, spec.output_lines_per_second)
            self.channel = await Channel.open(
                self.process.connection,
                handler=self.handler,
                generation=self.generation,
                limits=spec.limits,
                on_log=spec.on_log,
                # After a failed allocation the state of the plugin's code is undefined.
                on_out_of_memory=partial(self._post, MemoryLimitExceeded(self.generation, Cause.OUT_OF_MEMORY)),
                make_call_runner=spec.make_call_runner,
            )
            failure = await self._activate(self.channel, exiting)
            if failure is None:
                self.ready_at = time.monotonic()
                if self.ready is not None and self.ready.uncompiled:
                    spec.on_uncompiled()
                self._post(WorkerReady(self.generation))
                await self._supervise(self.channel, exiting)
        finally:
            # Also when the host's event loop is torn down: no process outlives its worker.
            if not exiting.done():
                self._kill(self.process)
            try:
                await exiting
            finally:
                self._close(self.process, output)
        if failure is not None:
            self._post_start_failure(failure)
        else:
            self._post(WorkerExited(self.generation, random.random()))

    @property
    def _name(self) -> str:
        return f"{self.handler} generation {self.generation}"

    async def _launch(self) -> WorkerProcess:
        """Return the process; raises the launcher's error, or ``ActivationTimeout`` if the launcher hangs."""
        spec = self._spec
        if self._aborted:
            raise ActivationFailed(f"{self.handler} was aborted before its launch")
        work = spec.launcher.launch(self.handler, self.generation, spec.worker.environment)
        self._launching = launching = asyncio.create_task(work, name=f"launch of {self._name}")
        limit = spec.policy.activate_timeout
        try:
            await asyncio.wait({launching}, timeout=limit)
        finally:
            launching.cancel()
        await asyncio.wait({launching})
        if launching.cancelled():
            raise ActivationTimeout(
                f"no process for {self.handler} within {limit:g} s (activate_timeout): the fork server hangs, "
                "perhaps in a module that it preloads",
                retry_after=limit,
            )
        return launching.result()

    async def _activate(self, channel: Channel, exiting: asyncio.Task[ExitStatus]) -> HostError | None:
        """Return None when the worker is ready, else the reason why it is not, with its exit explained."""
        spec = self._spec
        try:
            self.ready = await channel.start(spec.worker, spec.policy.activate_timeout)
        except HandlerCrashed:
            closed = channel.closed.result()
            exit = None if closed.broken else await self._wait_for_exit(exiting, EXIT_GRACE)
            if exit is not None and exit.lost:
                # Not the handler's failure: it gets no backoff.
                return OutOfResources(f"{self.handler}: {exit.describe()}; retry the request", retry_after=1.0)
            text = (await self._explain(exit))[1] if exit is not None else closed.text
            return ActivationFailed(f"the worker of {self.handler} ended before it was ready: {text}")
        except HostError as error:
            return error
        return None

    async def _supervise(self, channel: Channel, exiting: asyncio.Task[ExitStatus]) -> None:
        """Wait until the worker is stopped or ends by itself, and until its process is reaped."""
        stopping = asyncio.create_task(self._stopping.wait(), name=f"stop of {self._name}")
        try:
            outcomes: set[asyncio.Future[Any]] = {stopping, exiting, channel.closed}
            await asyncio.wait(outcomes, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        process = self.process
        assert process is not None, "a supervised worker was launched"
        if not self._stopping.is_set():
            await self._handle_loss(channel, exiting, process)
            return
        policy = self._spec.policy
        channel.stop(policy.stop_grace)
        if await self._wait_for_exit(exiting, policy.stop_grace) is None:
            process.kill(signal.SIGTERM)
            if await self._wait_for_exit(exiting, TERM_GRACE) is None:
                self._kill(process)
                await exiting

    async def _handle_loss(self, channel: Channel, exiting: asyncio.Task[ExitStatus], process: WorkerProcess) -> None:
        """Reap a worker that ended by itself, hung or broke the protocol, then post ``WorkerLost``."""
        reason = channel.closed.result() if channel.closed.done() else None
        if reason is not None and reason.broken:
            text = reason.text
            if process.place is not None:
                # Its end may take long to confirm, for example after a cut of the network: no call waits for that.
                text = f"{text}, on {process.place}"
                channel.fail(HandlerCrashed(f"the worker of {self.handler} ended: {text}"))
            self._kill(process)
            exit = await exiting
            cause = Cause.LOST if exit.lost else Cause.HANG if reason.hang else Cause.CRASH
        else:
            if await self._wait_for_exit(exiting, EXIT_GRACE) is None:
                self._kill(process)
            cause, text = await self._explain(await exiting)
        error = HandlerCrashed(f"the worker of {self.handler} ended: {text}")
        channel.fail(error)
        self._post(WorkerLost(self.generation, cause, error))

    async def _explain(self, exit: ExitStatus) -> tuple[Cause, str]:
        """Return the cause and a description of an exit that the host did not ask for."""
        text = exit.describe()
        if exit.lost:
            return Cause.LOST, text
        if self.place is not None and exit.signal == signal.SIGKILL and not self._killed_by_host:
            return Cause.KILLED, f"{text} on {self.place} (not sent by the host)"
        if exit.signal != signal.SIGKILL or self._killed_by_host:
            return Cause.CRASH, text
        if await self._was_oom_kill() or exit.killed_for_memory:
            self._killed_for_memory = True
            return Cause.OUT_OF_MEMORY, f"out of memory, {text} of the kernel"
        return Cause.KILLED, f"{text} (not sent by the host, no OOM kill recorded)"

    def _post_start_failure(self, error: HostError) -> None:
        if self._aborted:
            self._post(WorkerExited(self.generation))
        else:
            counts_as_failure = not isinstance(error, OutOfResources)
            # The handler's state keeps the error: its traceback would keep this worker, in a cycle.
            failure = error.with_traceback(None)
            self._post(WorkerStartFailed(self.generation, failure, counts_as_failure, random.random()))

    def _kill(self, process: WorkerProcess) -> None:
        self._killed_by_host = True
        process.kill(signal.SIGKILL)

    def _close(self, process: WorkerProcess, output: OutputLogger | None) -> None:
        """Close the host's ends of socket and pipe."""
        if self.channel is not None:
            self.channel.close()
        else:
            process.connection.close()
        if output is not None:
            output.close()
        elif process.output >= 0:
            os.close(process.output)

    async def _wait(self, process: WorkerProcess) -> ExitStatus:
        self.exit = await process.wait()
        return self.exit

    async def _wait_for_exit(self, exiting: asyncio.Task[ExitStatus], seconds: float) -> ExitStatus | None:
        """Return how the process exited, or None if it is still running after ``seconds``."""
        await asyncio.wait({exiting}, timeout=seconds)
        return exiting.result() if exiting.done() else None
