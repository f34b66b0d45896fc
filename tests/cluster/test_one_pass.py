"""One pass over a Ray cluster of two nodes, short enough for CI (``.ci/cluster``); :mod:`test_ray` looks closer."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from handler_host.plugin.errors import HandlerCrashed
from tests.cluster.ray_cluster import MB, running_cluster
from tests.cluster.test_ray import WAIT, exit_kind, place_of, ray_host, timed, until
from tests.support import ended, error_of, within

pytestmark = [pytest.mark.alone, pytest.mark.slow]

HANG_AFTER = 6.0
"""Longer than what a busy machine may keep a healthy worker from a processor."""


async def test_a_worker_on_a_node_serves_leaves_dies_and_is_cut_off(tmp_path: Path) -> None:
    with timed("all of it"), running_cluster() as cluster:
        node = cluster.add_node(400 * MB)
        async with ray_host(tmp_path, cluster, wait=WAIT, hang_after=HANG_AFTER) as host:
            with timed("activation with the driver's start"):
                first = await host.ask(timeout=WAIT, text="hello")
            assert first["text"] == "hello"
            assert place_of(host).startswith(node.address)
            assert [chunk async for chunk in host.chunks(steps=["", ""])] == [{"number": 0}, {"number": 1}]
            assert (await within(host.supervisor.unload("puppet"))).exit == "exit code 0"
            assert ended(first["pid"])

            second = (await host.ask(timeout=WAIT))["pid"]
            call = host.start(error_of(host.ask("puppet", "script", steps=["forever"])))
            await until(lambda: host.supervisor.status("puppet").in_flight == 1)
            os.kill(second, signal.SIGKILL)
            assert isinstance(await within(call, WAIT), HandlerCrashed)
            await until(lambda: exit_kind(host) == "killed")

            third = (await host.ask(timeout=WAIT))["pid"]
            call = host.start(error_of(host.ask("puppet", "script", steps=["forever"])))
            await until(lambda: host.supervisor.status("puppet").in_flight == 1)
            node.cut()
            assert isinstance(await within(call, WAIT), HandlerCrashed)
            await until(lambda: ended(third))
            await until(lambda: exit_kind(host) == "lost")
