"""Work on large bodies: some milliseconds of it in a turn of the event loop, the longest in a thread beside it."""

from __future__ import annotations

import asyncio
import functools
import gc
import sys
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, TypeVar

from handler_host._internal.threads import is_refused
from handler_host.memory.trim import use_one_heap
from handler_host.plugin.errors import OutOfResources

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

TURN_S = 0.003
"""Time of all work in one turn of the loop after which further work waits for the next turns."""
SWITCH_INTERVAL_S = 0.001
"""Time after which the thread lets the loop run; Python's default, 5 ms, passes at each system call."""
MAX_REST_S = 0.03
"""Longest rest of the thread between the work of two requests.

A decoder holds the interpreter's lock for up to 40 ms (200,000 values), and a health check needs the loop four times:
without a rest, each of them could wait for another decoder.
"""

Argument = TypeVar("Argument")
Result = TypeVar("Result")


class BodyWork:
    """Work of all requests of one host.

    Each piece is short, but a hundred clients can make a hundred of them due in the same turn.
    """

    def __init__(self) -> None:
        self._spent_s = 0.0
        """Time of the work in this turn."""
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_turn_end_scheduled = False
        self._executor: ThreadPoolExecutor | None = None
        self._started_at = self._ended_at = 0.0
        """Times of the last work in the thread, on the clock of ``time.perf_counter``."""

    async def run_in_turn(self, function: Callable[[Argument], Result], argument: Argument) -> Result:
        """Return ``function(argument)``, called in this turn of the loop, or in a later one if this turn is full."""
        loop = asyncio.get_running_loop()
        if self._waiting or self._spent_s >= TURN_S:
            waiter = loop.create_future()
            self._waiting.append(waiter)
            await waiter
        started = time.perf_counter()
        try:
            return function(argument)
        finally:
            self._spent_s += time.perf_counter() - started
            if not self._is_turn_end_scheduled:
                self._is_turn_end_scheduled = True
                loop.call_soon(self._end_turn)

    async def run_in_steps(self, steps: Generator[None, None, Result]) -> Result:
        """Return the result of a generator; each of its steps runs in a turn as :meth:`run_in_turn` has it."""
        results: list[Result] = []
        while not results:
            await self.run_in_turn(functools.partial(_run_step, steps), results)
        return results[0]

    def _end_turn(self) -> None:
        """Wake the request that has waited longest; the others wait until it has run."""
        self._spent_s = 0.0
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():  # its request may have been cancelled
                waiter.set_result(None)
                asyncio.get_running_loop().call_soon(self._end_turn)
                return
        self._is_turn_end_scheduled = False

    async def run_in_thread(self, function: Callable[[Argument], Result], argument: Argument) -> Result:
        """Return ``function(argument)``, called in a thread after the work that is there already."""
        if self._executor is None:
            from concurrent.futures import ThreadPoolExecutor  # few hosts get bodies that need it

            use_one_heap()
            # One thread: more of them would share the interpreter's lock, and hold more decoded bodies in memory.
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="body decoder")
            sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL_S))
        function = functools.partial(self._call, time.perf_counter(), function)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, function, argument)
        except RuntimeError as error:
            if not is_refused(error):
                raise
            self._executor = None  # with the work that it has queued
            text = "the system refused a thread for a long body; raise ulimit -u, or send a shorter body"
            raise OutOfResources(text, retry_after=1.0) from error

    def _call(self, submitted_at: float, function: Callable[[Argument], Result], argument: Argument) -> Result:
        """Return ``function(argument)``, in the thread.

        Garbage is collected later: thousands of new objects would start it again and again, and each
        full one stops the loop for 30 to 60 ms.
        """
        if submitted_at < self._ended_at:
            time.sleep(min(self._ended_at - self._started_at, MAX_REST_S))
        self._started_at = time.perf_counter()
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            return function(argument)
        finally:
            if was_enabled:
                gc.enable()
            self._ended_at = time.perf_counter()


def _run_step(steps: Generator[None, None, Result], results: list[Result]) -> None:
    """Run the next step of a generator; append its result to ``results`` when it ends."""
    try:
        next(steps)
    except StopIteration as end:  # must not leave a coroutine
        results.append(end.value)
