"""Workers on the nodes of a real Ray cluster, and what happens to them when a part of it fails."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from handler_host.cli.findings import Level
from handler_host.cli.launcher_checks import check_launchers
from handler_host.plugin.errors import ActivationFailed, HandlerCrashed, HostError, MemoryBudget, OutOfResources
from tests.cluster.ray_cluster import MB, RayCluster, running_cluster
from tests.support import SupervisorHarness, ended, error_of, install_puppet, supervisor_harness, within

HANG_AFTER = 3.0
WAIT = 40.0
"""Seconds for what takes Ray a moment on a loaded machine."""

pytestmark = [pytest.mark.alone, pytest.mark.slow]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """A head, a node with 400 MB, and one with 400 MB and a fake accelerator."""
    with running_cluster() as cluster:
        cluster.add_node(400 * MB)
        cluster.add_node(400 * MB, {"fake_gpu": 1})
        yield cluster


@asynccontextmanager
async def ray_host(
    root: Path,
    cluster: RayCluster,
    *,
    policy: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    wait: float = 1.0,
    hang_after: float = HANG_AFTER,
) -> AsyncIterator[SupervisorHarness]:
    """Run a supervisor whose handlers run on the cluster."""
    install_puppet(root)
    install_puppet(root, "second")
    keys = {**cluster.options, "headroom": 0, **(options or {})}
    async with supervisor_harness(
        root,
        policy={"isolation": "ray", "memory_estimate": 100 * MB, "learn_memory": False, **(policy or {})},
        workers={"heartbeat_interval": 0.5, "hang_after": hang_after},
        memory={"wait": wait, "sample_interval": 0.2},
        launchers={"ray": keys},
        foreign=lambda: cluster.pids,
    ) as host:
        yield host


async def until(condition: Any, seconds: float = WAIT) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - no event reports it
            await asyncio.sleep(0.05)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long the block took, for docs/explanation/figures.md (pytest -s)."""
    start = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - start:.2f} s")  # noqa: T201


def place_of(host: SupervisorHarness, name: str = "puppet") -> str:
    place = host.supervisor.status(name).place
    assert place is not None
    return place


def exit_kind(host: SupervisorHarness) -> str | None:
    exit = host.supervisor.status("puppet").last_exit
    return exit.kind if exit is not None else None


def test_doctor_reports_versions_authentication_and_nodes(cluster: RayCluster) -> None:
    findings = list(check_launchers({"ray": cluster.options}))
    assert {finding.level for finding in findings} == {Level.OK}
    text = "\n".join(finding.text for finding in findings)
    assert f"cluster {cluster.address}: Ray " in text
    assert "token authentication is on" in text
    assert "Ray's own TLS is on" in text
    assert "Ray's memory monitor is off" in text
    assert all(f"{node.address}/" in text for node in cluster.nodes[:2])
    assert "1 fake_gpu" in text


async def test_a_worker_runs_on_its_node_and_leaves_it(tmp_path: Path, cluster: RayCluster) -> None:
    async with ray_host(tmp_path, cluster, policy={"resources": {"fake_gpu": 1}}) as host:
        with timed("activation with the driver's start"):
            response = await host.ask(timeout=WAIT, text="hello")
        assert response["text"] == "hello"
        assert place_of(host).startswith(cluster.nodes[1].address)
        assert [chunk async for chunk in host.chunks(steps=["", ""])] == [{"number": 0}, {"number": 1}]
        # The accelerator is taken: another handler that needs it makes the idle one leave.
        other = await host.ask("second", timeout=WAIT, text="2")
        assert ended(response["pid"])
        assert place_of(host, "second") is not None
        with timed("unload"):
            receipt = await within(host.supervisor.unload("second"))
        assert ended(other["pid"])
        assert receipt.exit == "exit code 0"


async def test_a_worker_that_was_killed_is_replaced(tmp_path: Path, cluster: RayCluster) -> None:
    async with ray_host(tmp_path, cluster) as host:
        pid = (await host.ask(timeout=WAIT))["pid"]
        with timed("worker killed, until the host knows"):
            os.kill(pid, signal.SIGKILL)
            await until(lambda: host.state() == "cold")
        assert exit_kind(host) == "killed"
        with timed("activation"):
            assert (await host.ask(timeout=WAIT))["pid"] != pid


async def test_a_plugin_that_nodes_lack_comes_by_runtime_env(cluster: RayCluster) -> None:
    root = cluster.host_only
    async with ray_host(root, cluster) as host:
        error = await error_of(host.ask(timeout=WAIT))
        assert isinstance(error, ActivationFailed)
        assert "is not installed on" in error.message
        assert "launchers.ray.runtime_env" in error.message
    single = {"runtime_envs": {"puppet": {"py_modules": [str(root / "puppet")]}}}
    async with ray_host(root, cluster, options=single) as host:
        error = await error_of(host.ask(timeout=WAIT))
        assert error.message.startswith("launcher 'ray': launchers.ray.runtime_envs.puppet: ")
    async with ray_host(root, cluster, options={"runtime_env": {"py_modules": [str(root / "puppet")]}}) as host:
        assert (await host.ask(timeout=WAIT, text="hello"))["text"] == "hello"
    async with ray_host(root, cluster, options={"runtime_env": {"py_modules": [str(root / "pupet")]}}) as host:
        error = await error_of(host.ask(timeout=WAIT))
        assert "launchers.ray.runtime_env: " in error.message
        assert str(root / "pupet") in error.message


async def test_what_fits_nowhere_and_what_has_no_room(tmp_path: Path, cluster: RayCluster) -> None:
    async with ray_host(tmp_path, cluster, policy={"resources": {"CPU": 1}}) as host:
        busy = [host.start(host.ask(name, "script", steps=["forever"])) for name in ("puppet", "second")]
        await until(lambda: all(host.supervisor.status(name).in_flight for name in ("puppet", "second")))
        assert place_of(host) != place_of(host, "second")
        install_puppet(tmp_path, "third")
        await host.supervisor.rescan()
        error = await error_of(host.ask("third"))
        assert isinstance(error, MemoryBudget)
        assert error.retryable
        assert error.retry_after
        for task in busy:
            task.cancel()
    async with ray_host(tmp_path, cluster, policy={"memory_estimate": 900 * MB}) as host:
        error = await error_of(host.ask())
        assert isinstance(error, MemoryBudget)
        assert not error.retryable


async def test_a_node_joins_while_a_dispatch_waits_and_its_raylet_dies(tmp_path: Path, cluster: RayCluster) -> None:
    async with ray_host(tmp_path, cluster, policy={"resources": {"CPU": 1}}, wait=WAIT) as host:
        busy = [host.start(host.ask(name, "script", steps=["forever"])) for name in ("puppet", "second")]
        await until(lambda: all(host.supervisor.status(name).in_flight for name in ("puppet", "second")))
        install_puppet(tmp_path, "third")
        await host.supervisor.rescan()
        waiting = host.start(host.ask("third", timeout=WAIT))
        await until(lambda: host.state("third") == "waiting")
        node = await asyncio.to_thread(cluster.add_node, 2**45)  # more than its machine has
        pid = (await within(waiting, WAIT))["pid"]
        assert place_of(host, "third").startswith(node.address)
        places = host.supervisor.places["ray"].places
        await until(lambda: places[place_of(host, "third")].report.limit < 2**40)
        with timed("raylet killed, until the worker and the host know"):
            os.kill(node.raylet, signal.SIGKILL)
            await until(lambda: ended(pid))
            await until(lambda: host.state("third") == "cold")
        last = host.supervisor.status("third").last_exit
        assert last is not None
        assert last.kind in ("lost", "killed")
        for task in busy:
            task.cancel()


async def test_both_sides_of_a_cut_link_give_up_in_time(tmp_path: Path, cluster: RayCluster) -> None:
    async with ray_host(tmp_path, cluster, policy={"resources": {"fake_gpu": 1}}) as host:
        pid = (await host.ask(timeout=WAIT))["pid"]
        call = host.start(host.ask("puppet", "script", steps=["forever"]))
        await until(lambda: host.supervisor.status("puppet").in_flight == 1)
        cluster.nodes[1].cut()
        cut_at = time.monotonic()
        try:
            with timed("link cut, until the dispatch fails"):
                error = await within(error_of(call), HANG_AFTER + 3)
            assert isinstance(error, HandlerCrashed)
            with timed("and until the worker has ended"):
                await until(lambda: ended(pid), HANG_AFTER + 5 - (time.monotonic() - cut_at))
            with timed("and until the host counts it as lost"):
                await until(lambda: host.state() == "cold")
            assert exit_kind(host) == "lost"
        finally:
            cluster.nodes[1].mend()


async def test_a_host_that_is_killed_leaves_no_worker(tmp_path: Path, cluster: RayCluster) -> None:
    script = tmp_path / "host.py"
    script.write_text(
        "import asyncio, json, sys\n"
        "from pathlib import Path\n"
        "from tests.cluster.ray_cluster import RayCluster\n"
        "from tests.cluster.test_ray import ray_host\n"
        "cluster = RayCluster.__new__(RayCluster)\n"
        "cluster.nodes, cluster.head = [], None\n"
        "cluster.address, cluster.directory = sys.argv[1], Path(sys.argv[2])\n"
        "async def main():\n"
        "    async with ray_host(Path(sys.argv[3]), cluster) as host:\n"
        "        print(json.dumps(await host.ask(timeout=60)), flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, str(script), cluster.address, str(cluster.directory), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as host:
        assert host.stdout is not None
        pid = json.loads(await asyncio.to_thread(host.stdout.readline))["pid"]
        host.kill()
    with timed("host killed, until the worker has ended"):
        await until(lambda: ended(pid), HANG_AFTER + 5)


async def test_a_wrong_token_and_a_missing_cluster_are_one_message(tmp_path: Path, cluster: RayCluster) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("0" * 64)
    async with ray_host(tmp_path, cluster, options={"auth_token_file": str(wrong)}) as host:
        error = await error_of(host.ask(timeout=WAIT))
        assert isinstance(error, HostError)
        assert "auth_token_file" in error.message
    async with ray_host(tmp_path, cluster, options={"address": f"{cluster.host}:1"}) as host:
        error = await error_of(host.ask(timeout=60))
        assert isinstance(error, OutOfResources)
        assert f"{cluster.host}:1" in error.message


async def test_handlers_come_back_with_a_new_head(tmp_path: Path, cluster: RayCluster) -> None:
    """The last test: it replaces the cluster."""
    async with ray_host(tmp_path, cluster, wait=WAIT) as host:
        pid = (await host.ask(timeout=WAIT))["pid"]
        assert cluster.head is not None
        with timed("head killed, until the worker has ended and the host knows"):
            cluster.head.kill()
            await until(lambda: ended(pid))
            await until(lambda: host.state() == "cold")
        error = await error_of(host.ask(timeout=60))
        assert isinstance(error, OutOfResources)
        assert "cluster" in error.message
        for node in cluster.nodes:
            node.kill()
        await asyncio.to_thread(cluster.start_head)
        await asyncio.to_thread(cluster.add_node, 400 * MB)
        with timed("first dispatch with the new head"):
            assert (await host.ask(timeout=60))["pid"] != pid
