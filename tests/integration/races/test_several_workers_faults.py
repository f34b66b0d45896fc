"""A handler with several workers when one of them hangs, fails or is stuck, and when its policy changes meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from handler_host.memory.footprints import FootprintStore
from handler_host.plugin.errors import HandlerCrashed
from tests.integration.races.several_workers import MB, SEVERAL, grown, hold, pids, states
from tests.support import error_of, gone, install_plugin, install_puppet, room_for, supervisor_harness, until, within

pytestmark = pytest.mark.usefixtures("any_load_is_enough")


async def test_a_worker_that_hangs_ends_while_the_other_serves(tmp_path: Path) -> None:
    workers = {"heartbeat_interval": 0.2, "hang_after": 1.0}
    async with grown(tmp_path, workers=workers) as (host, held):
        on_second = host.start(error_of(host.ask("puppet", "script", steps=["forever"])))
        await until(lambda: [w.in_flight for w in host.supervisor.status("puppet").workers] == [2, 1])
        first, second = pids(host)
        os.kill(second, signal.SIGSTOP)
        error = await within(on_second)
        assert isinstance(error, HandlerCrashed)
        assert "heartbeat timeout" in error.message
        await until(lambda: gone(second))
        assert (await host.ask())["pid"] == first
        for number in range(2):
            await host.control.signal(f"end{number}")
        assert set(await within(asyncio.gather(*held))) == {first}


async def test_a_surplus_worker_that_fails_pauses_growth_only(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    slow = {"puppet": {"control": f"{tmp_path}/control", "at_activation": "wait:go"}}
    policy = {**SEVERAL, "backoff": 60.0}
    async with supervisor_harness(tmp_path, policy=policy, handlers=slow) as host:
        host.control.make("go", "end0", "end1")
        held = [host.start(hold(host, number)) for number in range(2)]
        await host.control.signal("go")
        await until(lambda: states(host) == ["active", "activating"] and len(pids(host)) == 2)
        first, second = pids(host)
        os.kill(second, signal.SIGSEGV)
        await until(lambda: states(host) == ["active"])
        assert (await host.ask())["pid"] == first
        await asyncio.sleep(0.3)  # several times `grow_after`
        assert states(host) == ["active"]
        for number in range(2):
            await host.control.signal(f"end{number}")
        assert set(await within(asyncio.gather(*held))) == {first}


async def test_a_reload_with_three_workers_kills_the_stuck_one_in_time(tmp_path: Path) -> None:
    async with grown(tmp_path, dispatches=3, policy={"max_workers": 3}) as (host, held):
        stuck = host.start(error_of(host.ask("puppet", "script", steps=["deaf", "forever"])))
        await until(lambda: host.supervisor.status("puppet").in_flight == 4)
        before = pids(host)
        reloading = host.start(host.supervisor.reload("puppet", deadline=1.0))
        await until(lambda: "draining" in states(host))
        later = host.start(host.ask(number=7))
        for number in range(3):
            await host.control.signal(f"end{number}")
        assert set(await within(asyncio.gather(*held))) <= set(before)
        receipt = await within(reloading)
        assert (receipt.workers, receipt.drained, receipt.killed) == (3, 3, 1)
        assert isinstance(await within(stuck), Exception)
        assert all(map(gone, before))
        assert (await within(later))["pid"] not in before


async def test_a_pinned_handler_keeps_one_worker(tmp_path: Path) -> None:
    async with grown(tmp_path, policy={"shrink_after": 0.2, "idle_after": 0.2}) as (host, held):
        await host.supervisor.pin("puppet", pinned=True)
        for number in range(2):
            await host.control.signal(f"end{number}")
        await within(asyncio.gather(*held))
        await until(lambda: len(states(host)) == 1)
        await asyncio.sleep(0.6)
        assert states(host) == ["idle"]


async def test_a_surplus_worker_finishes_its_stream_before_it_leaves(tmp_path: Path) -> None:
    async with grown(tmp_path, policy={"shrink_after": 0.2}) as (host, held):
        host.control.make("chunk")
        stream = host.chunks(steps=["", "wait:chunk", ""])
        assert await within(anext(stream)) == {"number": 0}
        second = pids(host)[1]
        assert [worker.in_flight for worker in host.supervisor.status("puppet").workers] == [2, 1]
        await asyncio.sleep(0.5)
        assert not gone(second)
        await host.control.signal("chunk")
        assert [chunk async for chunk in stream] == [{"number": 1}, {"number": 2}]
        await until(lambda: gone(second))
        for number in range(2):
            await host.control.signal(f"end{number}")
        await within(asyncio.gather(*held))


async def test_a_shutdown_finishes_the_dispatches_of_all_workers(tmp_path: Path) -> None:
    async with grown(tmp_path, dispatches=2) as (host, held):
        on_second = host.start(host.ask("puppet", "script", steps=["wait:end2"]))
        host.control.make("end2")
        await until(lambda: [w.in_flight for w in host.supervisor.status("puppet").workers] == [2, 1])
        both = pids(host)
        closing = host.start(host.supervisor.close())
        await until(lambda: host.supervisor.draining)
        for number in range(3):
            await host.control.signal(f"end{number}")
        assert {*await within(asyncio.gather(*held)), (await within(on_second))["pid"]} == set(both)
        await within(closing)
        assert all(map(gone, both))


async def test_an_affinity_to_a_dead_worker_is_served_by_another_one(tmp_path: Path) -> None:
    async with grown(tmp_path, dispatches=3, policy={"target_requests": 2}) as (host, held):
        for number in range(3):
            await host.control.signal(f"end{number}")
        await within(asyncio.gather(*held))
        workers = {worker.generation: worker.pid for worker in host.supervisor.status("puppet").workers}
        async with host.supervisor.lease("puppet", "echo", affinity="a") as lease:
            preferred = lease.generation
        os.kill(workers.pop(preferred), signal.SIGKILL)
        await until(lambda: len(states(host)) == 1)
        async with host.supervisor.lease("puppet", "echo", affinity="a") as lease:
            assert lease.generation in workers


async def test_a_manifest_that_allows_fewer_workers_drains_the_surplus(tmp_path: Path) -> None:
    async with grown(tmp_path) as (host, held):
        source = (tmp_path / "puppet" / "__init__.py").read_text()
        manifest = "[workers]\nmax = 1\n"
        install_plugin(tmp_path, "puppet", source, attribute="Puppet", version="2.0", manifest=manifest)
        await host.supervisor.rescan()
        await until(lambda: len(states(host)) == 1)
        for number in range(2):
            await host.control.signal(f"end{number}")
        assert None not in await within(asyncio.gather(*held))


async def test_min_workers_beyond_the_budget_serve_with_those_that_fit(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    footprints = FootprintStore(tmp_path / "memory.json")
    footprints.record_usage(("puppet", "puppet", "1.0"), peak=1000 * MB, steady=1000 * MB)
    footprints.save(footprints.snapshot())
    memory: dict[str, Any] = {"state_file": tmp_path / "memory.json", "headroom": 0, "limit": room_for(1500 * MB)}
    async with supervisor_harness(tmp_path, policy={**SEVERAL, "min_workers": 2}, memory=memory) as host:
        host.control.make("end0", "end1")
        held = [host.start(hold(host, number)) for number in range(2)]
        await until(lambda: host.supervisor.status("puppet").in_flight == 2)
        await asyncio.sleep(0.3)
        assert states(host) == ["active"]
        for number in range(2):
            await host.control.signal(f"end{number}")
        assert len(set(await within(asyncio.gather(*held)))) == 1
