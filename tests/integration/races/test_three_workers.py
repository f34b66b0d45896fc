"""Race and fault cases of one worker, repeated for a handler with three (the numbers are those of the other files)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from handler_host.config import AuthConfig
from handler_host.config.loader import hash_key
from handler_host.plugin.errors import CircuitOpen, DeadlineExceeded, HandlerBusy, HandlerCrashed, HandlerUnloaded
from tests.integration.http.serving import running
from tests.integration.races.several_workers import MB, SEVERAL, grown, hold, pids, states
from tests.support import (
    LIMIT,
    SupervisorHarness,
    children_of,
    error_of,
    gone,
    install_puppet,
    room_for,
    supervisor_harness,
    until,
    within,
)

pytestmark = pytest.mark.usefixtures("any_load_is_enough")

THREE = {"max_workers": 3, "max_concurrency": 8}


@asynccontextmanager
async def three(root: Path, **options: Any) -> AsyncIterator[tuple[SupervisorHarness, list[asyncio.Task[Any]]]]:
    """Run a puppet with three workers, the first of which has three dispatches in flight; yield host and dispatches."""
    policy = {**THREE, **options.pop("policy", {})}
    async with grown(root, dispatches=3, policy=policy, **options) as (host, held):
        yield host, held


async def end(host: SupervisorHarness, held: list[asyncio.Task[Any]]) -> list[Any]:
    """End the three dispatches; return their results."""
    for number in range(3):
        await host.control.signal(f"end{number}")
    return list(await within(asyncio.gather(*held)))


def in_flight(host: SupervisorHarness) -> list[int]:
    return [worker.in_flight for worker in host.supervisor.status("puppet").workers]


async def test_case_1_growth_starts_one_worker_at_a_time(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path, policy={**SEVERAL, "max_workers": 3, "max_concurrency": 100}) as host:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(host.ask(number=number)) for number in range(100)]
        assert [task.result()["number"] for task in tasks] == list(range(100))
        assert {task.result()["generation"] for task in tasks} == {1}, "they share the first activation"


async def test_case_10_a_dispatch_while_all_stop_gets_a_new_worker(tmp_path: Path) -> None:
    async with three(tmp_path) as (host, held):
        before = pids(host)
        unload = host.start(host.supervisor.unload("puppet"))
        await until(lambda: set(states(host)) == {"draining"})
        later = host.start(host.ask(number=1))
        assert set(await end(host, held)) == {before[0]}
        receipt = await within(unload)
        assert (receipt.workers, receipt.drained, receipt.killed) == (3, 3, 0)
        assert all(map(gone, before))
        assert (await within(later))["generation"] == 4


async def test_case_14_two_unloads_are_one_stop_of_all_three(tmp_path: Path) -> None:
    async with three(tmp_path) as (host, held):
        before = pids(host)
        controller = host.supervisor._controllers["puppet"]
        unloads = [host.start(host.supervisor.unload("puppet")) for _ in range(2)]
        await until(lambda: [len(worker.drain.unloads) for worker in controller.state.workers if worker.drain] == [2])
        assert set(await end(host, held)) == {before[0]}
        receipts = await within(asyncio.gather(*unloads))
        assert [(receipt.drained, receipt.killed) for receipt in receipts] == [(3, 0), (3, 0)]
        assert all(map(gone, before))
        assert host.state() == "cold"


async def test_case_15_one_busy_worker_refuses_if_idle(
    tmp_path: Path,
) -> None:
    async with three(tmp_path) as (host, held):
        others = [host.start(error_of(host.ask("puppet", "script", steps=["forever"]))) for _ in range(2)]
        await until(lambda: in_flight(host) == [3, 1, 1])
        assert isinstance(await error_of(host.supervisor.unload("puppet", "if_idle")), HandlerBusy)
        assert in_flight(host) == [3, 1, 1]
        before = pids(host)
        receipt = await within(host.supervisor.unload("puppet", "force"))
        assert (receipt.workers, receipt.drained, receipt.killed) == (3, 0, 5)
        assert {type(error) for error in await within(asyncio.gather(*held, *others))} == {HandlerUnloaded}
        assert all(map(gone, before))


async def test_case_18_grandchildren_of_all_three_are_killed(tmp_path: Path) -> None:
    async with three(tmp_path) as (host, _):
        host.control.make("child")
        children = []
        for load in ([3, 1, 0], [3, 1, 1]):
            host.start(error_of(host.ask("puppet", "script", steps=["children", "forever"])))
            children.append(int(await host.control.wait_for("child")))
            assert in_flight(host) == load
        await within(host.supervisor.unload("puppet", "force"))
        await until(lambda: all(map(gone, children)))


async def test_case_28_a_late_response_reaches_no_other_dispatch(tmp_path: Path) -> None:
    async with three(tmp_path) as (host, held):
        host.control.make("go")
        late = await error_of(host.ask("puppet", "script", timeout=0.1, steps=["wait:go"]))
        assert isinstance(late, DeadlineExceeded)
        requests = [host.start(host.ask(number=number)) for number in range(20)]
        await host.control.signal("go")
        responses = await within(asyncio.gather(*requests))
        assert [response["number"] for response in responses] == list(range(20))
        assert len({response["pid"] for response in responses}) > 1
        await end(host, held)


async def test_cases_31_and_38_clients_and_clocks_hold_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with three(tmp_path, policy={"shrink_after": 300.0, "idle_after": 300.0}) as (host, held):
        host.control.make("closed")
        stream = host.chunks(steps=["", "forever"], at_close="closed")
        await within(anext(stream))
        assert in_flight(host) == [3, 1, 0]
        assert isinstance(stream, AsyncGenerator)
        closing = host.start(stream.aclose())
        assert await host.control.wait_for("closed") == "now"
        await within(closing)
        assert in_flight(host) == [3, 0, 0]
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + 3600)
        assert (await host.ask())["generation"] in (2, 3)
        await end(host, held)
        await until(lambda: states(host) == ["idle"] * 3)
        status = host.supervisor.status("puppet")
        assert all(worker.expires_in is not None and worker.expires_in > 200 for worker in status.workers)
        assert all(worker.idle_for is not None and worker.idle_for < 60 for worker in status.workers)


async def test_case_35_a_killed_fork_server_ends_all_three(tmp_path: Path) -> None:
    async with three(tmp_path) as (host, held):
        before = pids(host)
        (server,) = (await host.supervisor.memory()).fork_server_pids
        os.kill(server, signal.SIGKILL)
        assert {type(error) for error in await within(asyncio.gather(*held))} == {HandlerCrashed}
        await until(lambda: all(map(gone, before)))
        # Not three crashes of the handler, which would open its circuit breaker.
        assert (await host.ask())["generation"] == 4
        last = host.supervisor.status("puppet").last_exit
        assert last is not None
        assert last.kind == "lost"


async def test_cases_36_and_37_cycles_leave_nothing_behind(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path, policy={**SEVERAL, **THREE}) as host:
        host.control.make("end0", "end1", "end2")
        generations: list[int] = []
        for last in (3, 6, 9):
            held = [host.start(hold(host, number)) for number in range(3)]
            async with asyncio.timeout(LIMIT):
                while len(states(host)) < 3 or "activating" in states(host):
                    generations.append(host.supervisor.status("puppet").generation)
                    assert len(states(host)) <= 3
                    await asyncio.sleep(0.001)
            unload = host.start(host.supervisor.unload("puppet"))
            await end(host, held)
            assert (await within(unload)).workers == 3
            assert (host.state(), states(host)) == ("cold", [])
            assert host.supervisor.status("puppet").generation == last
        assert generations == sorted(generations)
        (server,) = (await host.supervisor.memory()).fork_server_pids
        assert children_of(server) == []


async def test_an_open_circuit_stops_activations_but_not_dispatches(tmp_path: Path) -> None:
    async with three(tmp_path, policy={"crash_limit": 2, "circuit_pause": 60.0}) as (host, held):
        first, second, third = pids(host)
        for pid in (second, third):
            os.kill(pid, signal.SIGSEGV)
            await until(lambda pid=pid: pid not in pids(host))  # type: ignore[misc]
        # The circuit is open, and a dispatch is accepted all the same.
        accepted = host.start(error_of(host.ask("puppet", "script", steps=["forever"])))
        await until(lambda: in_flight(host) == [4])
        os.kill(first, signal.SIGSEGV)
        errors = await within(asyncio.gather(*held, accepted))
        assert {type(error) for error in errors} == {HandlerCrashed}
        assert isinstance(await error_of(host.ask()), CircuitOpen)


async def test_what_is_learned_is_the_memory_of_one_worker(tmp_path: Path) -> None:
    async with three(tmp_path, memory={"state_file": tmp_path / "memory.json"}) as (host, held):
        await end(host, held)
        await host.supervisor.memory()
        sizes = [worker.pss or 0 for worker in host.supervisor.status("puppet").workers]
        await within(host.supervisor.unload("puppet"))
        learned = host.supervisor.status("puppet").learned_pss
        assert learned is not None
        assert 0 < learned < sum(sizes)


async def test_a_dispatch_of_another_handler_gets_the_growths_memory(
    tmp_path: Path,
    small_budget: dict[str, Any],
) -> None:
    memory = small_budget | {"limit": room_for(2500 * MB)}
    slow = {"puppet": {"control": f"{tmp_path}/control", "at_activation": "wait:go"}}
    async with supervisor_harness(tmp_path, policy={**SEVERAL, **THREE}, memory=memory, handlers=slow) as host:
        host.control.make("go", "end0", "end1", "end2")
        held = [host.start(hold(host, number)) for number in range(3)]
        await host.control.signal("go")
        await until(lambda: states(host) == ["active", "activating"])
        other = host.start(host.ask("single", number=7))
        await until(lambda: host.state("single") == "waiting")
        await host.control.signal("go")
        assert (await within(other))["number"] == 7
        await until(lambda: states(host) == ["active"])  # not the busy worker was evicted
        assert set(await end(host, held)) == set(pids(host))


async def test_a_consumer_keeps_its_limit_over_all_workers(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    names = [f"consumer{number}" for number in range(12)]
    consumers = "".join(f'[consumers.{name}]\nhash = "{hash_key(name)}"\nconcurrency = 1\n' for name in names)
    async with running(tmp_path, policy={**SEVERAL, **THREE}, auth=AuthConfig(consumers=consumers)) as host:
        host.control.make(*(f"end{number}" for number in range(12)))

        async def ask(number: int) -> int:
            body = json.dumps({"steps": [f"wait:end{number}"]})
            headers = {"Authorization": f"Bearer {names[number]}"}
            status, _ = await host.json("POST", "/v1/handlers/puppet/script", data=body, headers=headers)
            return int(status)

        held = [asyncio.ensure_future(ask(number)) for number in range(12)]
        await until(lambda: host.supervisor.status("puppet").in_flight == 12)
        assert await asyncio.gather(*(ask(number) for number in range(12))) == [429] * 12
        for number in range(12):
            await host.control.signal(f"end{number}")
        assert await within(asyncio.gather(*held)) == [200] * 12
