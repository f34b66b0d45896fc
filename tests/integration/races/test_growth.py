"""Growth by processor time, with handlers that use a processor and the thresholds of the host."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from handler_host.lifecycle.processor_load import idle_processors, read_processor_times
from tests.support import SupervisorHarness, install_puppet, supervisor_harness, until

pytestmark = pytest.mark.alone

GROW_AFTER_S = 0.3
POLICY = {"max_workers": 2, "target_requests": 1, "grow_after": GROW_AFTER_S, "shrink_after": 0.4}
CONNECTIONS = 4


@asynccontextmanager
async def busy_host(root: Path, **policy: Any) -> AsyncIterator[tuple[SupervisorHarness, asyncio.Event]]:
    """Run a puppet that several clients keep busy until the event is set; yield both."""
    install_puppet(root)
    async with supervisor_harness(root, policy={**POLICY, **policy}) as host:
        end = asyncio.Event()

        async def send_requests() -> None:
            while not end.is_set():
                await host.ask("puppet", "compute", seconds=0.02)

        await host.ask()
        clients = [host.start(send_requests()) for _ in range(CONNECTIONS)]
        yield host, end
        end.set()
        await asyncio.gather(*clients)


def in_flight(host: SupervisorHarness) -> list[int]:
    return [worker.in_flight for worker in host.supervisor.status("puppet").workers]


async def require_idle_processors(count: float) -> None:
    """Skip the test unless so many processors are idle: on a busy machine the host must not grow."""
    for _ in range(20):
        before = read_processor_times()
        await asyncio.sleep(GROW_AFTER_S)
        if idle_processors(before, read_processor_times(), 0.0) >= count:
            return
    pytest.skip(f"the machine does not have {count:g} idle processors")


async def test_a_second_worker_comes_and_leaves_with_processor_load(tmp_path: Path) -> None:
    await require_idle_processors(1.7)
    async with busy_host(tmp_path) as (host, end):
        await until(lambda: in_flight(host) == [2, 2])
        assert [worker.started_for for worker in host.supervisor.status("puppet").workers] == ["dispatch", "growth"]
        end.set()
        await until(lambda: in_flight(host) == [0])
        status = host.supervisor.status("puppet")
        assert status.last_exit is not None
        assert (status.state, status.last_exit.kind) == ("idle", "idle")


@pytest.fixture
def one_processor() -> Iterator[None]:
    """Run the test, its host and its workers on one processor."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.usefixtures("one_processor")
async def test_no_second_worker_without_an_idle_processor(tmp_path: Path) -> None:
    async with busy_host(tmp_path) as (host, _):
        await asyncio.sleep(5 * GROW_AFTER_S)
        assert in_flight(host) == [CONNECTIONS]


async def test_no_second_worker_for_dispatches_that_wait(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path, policy=POLICY) as host:
        waiting = [host.start(host.ask("puppet", "script", steps=["forever"])) for _ in range(CONNECTIONS)]
        await until(lambda: in_flight(host) == [CONNECTIONS])
        await asyncio.sleep(3 * GROW_AFTER_S)
        assert in_flight(host) == [CONNECTIONS]
        for task in waiting:
            task.cancel()
