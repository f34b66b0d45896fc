"""Work on large bodies: a bounded part of it in each turn of the loop, however many clients send one."""

from __future__ import annotations

import asyncio
import gc
import itertools
import sys
import threading

import pytest

from handler_host.http import body_work
from handler_host.http.body_work import BodyWork
from tests.support import within

THREAD_HEAP = """
import asyncio, ctypes
from handler_host.http.body_work import BodyWork

async def main():
    kept = await BodyWork().run_in_thread(lambda size: [bytes(size) for _ in range(1000)], 1000)
    libc = ctypes.CDLL(None)
    libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
    libc.fflush(None)

asyncio.run(main())
"""


class Turns:
    """Counts the turns of the event loop."""

    def __init__(self) -> None:
        self.number = 0
        self._count()

    def _count(self) -> None:
        self.number += 1
        asyncio.get_running_loop().call_soon(self._count)


@pytest.fixture
def slow_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each piece of work look as if it took a whole turn."""
    times = itertools.count(0, body_work.TURN_S)
    monkeypatch.setattr("handler_host.http.body_work.time.perf_counter", lambda: next(times))


@pytest.mark.usefixtures("slow_clock")
async def test_work_of_many_requests_is_spread_over_the_turns_in_order() -> None:
    work, turns, done = BodyWork(), Turns(), list[int]()

    def run(number: int) -> int:
        done.append(number)
        return turns.number

    numbers = await asyncio.gather(*(work.run_in_turn(run, number) for number in range(20)))
    assert done == list(range(20))
    assert len(set(numbers)) == 20


async def test_short_work_does_not_wait_for_another_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handler_host.http.body_work.time.perf_counter", lambda: 0.0)
    work, turns = BodyWork(), Turns()
    assert {await work.run_in_turn(lambda _: turns.number, None) for _ in range(3)} == {turns.number}


@pytest.mark.usefixtures("slow_clock")
async def test_a_request_that_was_cancelled_holds_up_no_other() -> None:
    work = BodyWork()
    tasks = [asyncio.create_task(work.run_in_turn(str, number)) for number in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[2].cancel()
    assert await tasks[3] == "3"
    assert await work.run_in_turn(str, 4) == "4"


async def test_an_error_reaches_its_request() -> None:
    work = BodyWork()
    for run in (work.run_in_turn, work.run_in_thread):
        with pytest.raises(ValueError, match="invalid literal"):
            await run(int, "x")
    assert await work.run_in_turn(int, "1") == await work.run_in_thread(int, "1") == 1


async def test_the_thread_pauses_and_restores_the_collector() -> None:
    work = BodyWork()
    assert not await work.run_in_thread(lambda _: gc.isenabled(), None)
    assert gc.isenabled()
    gc.disable()
    try:
        assert not await work.run_in_thread(lambda _: gc.isenabled(), None)
        assert not gc.isenabled()
    finally:
        gc.enable()


async def test_the_thread_has_no_heap_of_its_own() -> None:
    """It kept 9 MB after a burst of bodies of 4 MB."""
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-c", THREAD_HEAP, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await within(started.communicate())
    assert output.count(b"<heap nr=") == 1, errors.decode()


async def test_the_thread_rests_between_requests_that_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder holds the interpreter's lock; without a rest the loop would wait for one after the other."""
    rests: list[float] = []
    work, is_queued = BodyWork(), threading.Event()
    monkeypatch.setattr("handler_host.http.body_work.time.sleep", rests.append)
    first = asyncio.create_task(work.run_in_thread(lambda _: is_queued.wait(5), None))
    await asyncio.sleep(0)
    second = asyncio.create_task(work.run_in_thread(str, 2))
    await asyncio.sleep(0)
    is_queued.set()
    assert (await first, await second) == (True, "2")
    assert await work.run_in_thread(str, 3) == "3"
    assert len(rests) == 1
    assert 0 < rests[0] <= body_work.MAX_REST_S
