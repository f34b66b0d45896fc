"""A handler with several workers: growth, crashes, unloads, eviction and a changed configuration, by real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from handler_host.plugin.errors import CircuitOpen, HandlerCrashed
from tests.integration.http.serving import ADMIN, running
from tests.integration.races.several_workers import SEVERAL, grown, hold, pids, states
from tests.support import error_of, gone, install_puppet, supervisor_harness, until, within

pytestmark = pytest.mark.usefixtures("any_load_is_enough")


async def test_a_second_worker_starts_for_the_load_and_leaves_after_it(tmp_path: Path) -> None:
    async with grown(tmp_path, policy={"shrink_after": 0.3, "idle_after": 3600.0}) as (host, held):
        status = host.supervisor.status("puppet")
        assert [worker.started_for for worker in status.workers] == ["dispatch", "growth"]
        # Both dispatches are on the first worker; the next ones go to the one with fewer.
        assert (status.in_flight, [worker.in_flight for worker in status.workers]) == (2, [2, 0])
        assert (await host.ask())["pid"] == status.workers[1].pid
        await until(lambda: len(states(host)) == 1)
        for number in range(2):
            await host.control.signal(f"end{number}")
        assert set(await within(asyncio.gather(*held))) == {status.workers[0].pid}
        await asyncio.sleep(0.5)
        assert states(host) == ["idle"]
        assert (host.supervisor.status("puppet").expires_in or 0) > 3000


async def test_dispatches_with_an_affinity_go_to_one_worker(tmp_path: Path) -> None:
    async with grown(tmp_path, dispatches=3, policy={"target_requests": 2}) as (host, held):
        for number in range(3):
            await host.control.signal(f"end{number}")
        await within(asyncio.gather(*held))

        def lease(key: str | None) -> Any:
            return host.supervisor.lease("puppet", "echo", affinity=key)

        async with lease(None) as first, lease(None) as second:
            assert first.generation != second.generation
        for key in ("a", "b"):
            async with lease(key) as first, lease(key) as second:
                assert first.generation == second.generation


async def test_a_killed_worker_takes_its_own_dispatches_only(tmp_path: Path) -> None:
    async with grown(tmp_path) as (host, held):
        host.control.make("more")
        on_second = host.start(error_of(host.ask("puppet", "script", steps=["forever"])))
        await until(lambda: [w.in_flight for w in host.supervisor.status("puppet").workers] == [2, 1])
        first, second = pids(host)
        os.kill(second, signal.SIGSEGV)
        assert isinstance(await within(on_second), HandlerCrashed)
        await until(lambda: second not in pids(host))
        assert (await host.ask())["pid"] in pids(host)
        for number in range(2):
            await host.control.signal(f"end{number}")
        assert set(await within(asyncio.gather(*held))) == {first}
        last = host.supervisor.status("puppet").last_exit
        assert last is not None
        assert (last.kind, last.generation) == ("crash", 2)


async def test_the_queue_outlives_a_killed_worker(tmp_path: Path) -> None:
    async with grown(tmp_path, dispatches=2, policy={"max_concurrency": 1}) as (host, held):
        queued = host.start(host.ask(number=7))
        await until(lambda: host.supervisor.status("puppet").queued == 1)
        os.kill(pids(host)[1], signal.SIGSEGV)
        await until(lambda: any(task.done() for task in held))
        await host.control.signal("end0" if not held[0].done() else "end1")
        assert (await within(queued))["number"] == 7


async def test_crashes_of_two_workers_open_one_circuit(tmp_path: Path) -> None:
    async with grown(tmp_path, policy={"crash_limit": 2, "circuit_pause": 60.0, "max_concurrency": 8}) as (host, held):
        for pid in pids(host):
            os.kill(pid, signal.SIGSEGV)
        assert all(isinstance(error, HandlerCrashed) for error in await within(asyncio.gather(*held)))
        await until(lambda: host.state() == "failed")
        assert isinstance(await error_of(host.ask()), CircuitOpen)


async def test_an_unload_ends_all_workers_and_sums_them(tmp_path: Path) -> None:
    async with grown(tmp_path) as (host, held):
        await host.supervisor.memory()
        sizes = [worker.pss or 0 for worker in host.supervisor.status("puppet").workers]
        both = pids(host)
        unloading = host.start(host.supervisor.unload("puppet"))
        await until(lambda: "draining" in states(host))
        for number in range(2):
            await host.control.signal(f"end{number}")
        receipt = await within(unloading)
        assert all(map(gone, both))
        assert (receipt.workers, receipt.drained, receipt.killed) == (2, 2, 0)
        assert receipt.bytes_given_back > 0.5 * sum(sizes) > 0
        assert set(await within(asyncio.gather(*held))) == {both[0]}


async def test_an_unload_during_growth_ends_both(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    slow = {"puppet": {"control": f"{tmp_path}/control", "at_activation": "wait:go"}}
    async with supervisor_harness(tmp_path, policy=SEVERAL, handlers=slow) as host:
        host.control.make("go")
        held = [host.start(error_of(host.ask("puppet", "script", steps=["forever"]))) for _ in range(3)]
        await host.control.signal("go")
        await until(lambda: states(host) == ["active", "activating"])
        receipt = await within(host.supervisor.unload("puppet", "force"))
        assert (receipt.killed, host.state()) == (3, "cold")
        assert len(await within(asyncio.gather(*held))) == 3


async def test_a_reload_under_load_loses_no_dispatch(tmp_path: Path) -> None:
    async with grown(tmp_path) as (host, held):
        both = pids(host)
        reloading = host.start(host.supervisor.reload("puppet"))
        await until(lambda: states(host).count("draining") >= 1)
        later = [host.start(host.ask(number=number)) for number in range(6)]
        for number in range(2):
            await host.control.signal(f"end{number}")
        await within(reloading)
        assert {response["pid"] for response in await within(asyncio.gather(*later))}.isdisjoint(both)
        assert set(await within(asyncio.gather(*held))) == {both[0]}


async def test_a_lower_max_workers_drains_the_surplus(tmp_path: Path) -> None:
    async with grown(tmp_path) as (host, held):
        config = host.supervisor.config
        fewer = msgspec.structs.replace(config.defaults, max_workers=1, max_concurrency=1)
        await host.supervisor.reconfigure(msgspec.structs.replace(config, defaults=fewer))
        await until(lambda: len(states(host)) == 1)
        queued = host.start(host.ask(number=3))
        await until(lambda: host.supervisor.status("puppet").queued == 1)
        await host.control.signal("end0")
        await asyncio.sleep(0.1)
        assert not queued.done()  # one dispatch is still in flight, and one may be
        await host.control.signal("end1")
        assert (await within(queued))["number"] == 3
        assert None not in await within(asyncio.gather(*held))


async def test_min_workers_stay(tmp_path: Path) -> None:
    keys = {"min_workers": 2, "max_workers": 3, "shrink_after": 0.2, "idle_after": 0.3}
    async with grown(tmp_path, dispatches=4, policy=keys) as (host, held):
        for number in range(4):
            await host.control.signal(f"end{number}")
        await within(asyncio.gather(*held))
        await until(lambda: len(states(host)) == 2)
        await asyncio.sleep(0.8)
        assert states(host) == ["idle", "idle"]


async def test_an_eviction_takes_a_surplus_worker_first(tmp_path: Path, small_budget: dict[str, Any]) -> None:
    async with supervisor_harness(tmp_path, policy=SEVERAL, memory=small_budget) as host:
        await host.ask("single")  # least recently used of all
        host.control.make("end0", "end1")
        held = [host.start(hold(host, number)) for number in range(2)]
        await until(lambda: states(host) == ["active", "idle"])
        await host.ask("third")
        assert states(host, "single") == ["idle"]
        assert len(states(host)) == 1
        for number in range(2):
            await host.control.signal(f"end{number}")
        await within(asyncio.gather(*held))


async def test_growth_evicts_nobody(tmp_path: Path, small_budget: dict[str, Any]) -> None:
    async with supervisor_harness(tmp_path, policy=SEVERAL, memory=small_budget) as host:
        await host.ask("single")
        await host.ask("third")
        host.control.make("end0", "end1")
        held = [host.start(hold(host, number)) for number in range(2)]
        await until(lambda: states(host) == ["active"])
        await asyncio.sleep(0.5)
        assert (states(host), states(host, "single"), states(host, "third")) == (["active"], ["idle"], ["idle"])
        for number in range(2):
            await host.control.signal(f"end{number}")
        await within(asyncio.gather(*held))


async def test_operators_see_each_worker(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path, policy=SEVERAL) as host:
        host.control.make("end0", "end1")
        body = [json.dumps({"steps": [f"wait:end{number}"]}) for number in range(2)]
        held = [asyncio.ensure_future(host.json("POST", "/v1/handlers/puppet/script", data=text)) for text in body]
        await until(lambda: [worker.state for worker in host.supervisor.status("puppet").workers] == ["active", "idle"])
        _, status = await host.admin("GET", "/handlers/puppet")
        assert [(worker["generation"], worker["in_flight"]) for worker in status["workers"]] == [(1, 2), (2, 0)]
        assert status["workers"][1]["expires_in"] > 0
        assert status["expires_in"] is None, "the handler does not expire while one of its workers is busy"
        async with host.ask("GET", "/metrics", headers={"Authorization": f"Bearer {ADMIN}"}) as response:
            assert 'handler_host_workers{handler="puppet"} 2' in await response.text()
        for number in range(2):
            await host.control.signal(f"end{number}")
        assert {status for status, _ in await within(asyncio.gather(*held))} == {200}
        await until(lambda: [worker.state for worker in host.supervisor.status("puppet").workers] == ["idle", "idle"])
        memory = (await host.admin("GET", "/memory"))[1]
        assert (memory["workers"]["puppet"]["generation"], memory["workers"]["puppet"]["count"]) == (1, 2)
        assert {entry["generation"] for entry in memory["evict_next"]} == {1, 2}
        _, receipt = await host.admin("POST", "/handlers/puppet/unload")
        assert receipt["workers"] == 2

        def kinds(generation: int) -> list[str]:
            steps = [json.loads(event.data) for event in host.supervisor.telemetry.events.past]
            return [step["kind"] for step in steps if step.get("generation") == generation]

        life = ["activating", "activated", "draining", "unloaded"]
        await until(lambda: [kinds(1), kinds(2)] == [life, life])
