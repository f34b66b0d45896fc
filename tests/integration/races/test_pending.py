"""Pending work outlives a worker: the host shows it, and activates the handler again by itself."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from handler_host.config.loader import load_config
from handler_host.lifecycle import pending_work
from handler_host.memory.budget import Budget, MemoryEstimate
from handler_host.memory.eviction import Candidate
from handler_host.plugin import pending
from handler_host.plugin.errors import ConfigError, MemoryBudget
from handler_host.routes.health import HealthRoutes
from tests.support import error_of, install_plugin, supervisor_harness, until, within

POSTMAN = """
from handler_host.plugin import hookimpl, operation

class Handler:
    @hookimpl
    def activate(self, context):
        self.context = context

    @operation("take")
    async def take(self, request: dict) -> int:
        self.context.pending(request["count"], wake_after=request.get("wake_after", 0))
        return self.context.generation

    @operation("other")
    async def other(self) -> int:
        return self.context.generation
"""


@pytest.fixture(autouse=True)
def _short_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending_work, "INTERVAL_S", 0.02)


async def test_a_killed_worker_is_activated_without_a_dispatch(tmp_path: Path) -> None:
    install_plugin(tmp_path, "postman", POSTMAN)
    async with supervisor_harness(tmp_path, data_dir=tmp_path / "data") as host:
        assert await host.ask("postman", "take", count=3) == 1
        assert await host.supervisor.pending_work.counts() == {"postman": 3}
        os.kill(host.pid("postman"), signal.SIGKILL)
        await until(lambda: host.supervisor.status("postman").generation == 2 and host.state("postman") == "idle")
        # After the delivery nothing activates it any more.
        assert await host.ask("postman", "take", count=0) == 2
        await host.supervisor.unload("postman")
        assert await host.supervisor.pending_work.counts() == {}
        assert not (tmp_path / "data/postman" / pending.FILE_NAME).exists()


async def test_a_new_host_activates_handlers_with_pending_work(tmp_path: Path) -> None:
    install_plugin(tmp_path, "postman", POSTMAN)
    async with supervisor_harness(tmp_path, data_dir=tmp_path / "data") as host:
        await host.ask("postman", "take", count=2, wake_after=3600)
    async with supervisor_harness(tmp_path, data_dir=tmp_path / "data") as host:
        assert await host.supervisor.pending_work.counts() == {"postman": 2}
        await until(lambda: host.state("postman") == "idle")


async def test_a_note_is_honoured_when_due_and_only_for_known_handlers(tmp_path: Path) -> None:
    install_plugin(tmp_path, "postman", POSTMAN)
    install_plugin(tmp_path, "prompt", POSTMAN)
    (tmp_path / "data/stranger").mkdir(parents=True)
    pending.write(tmp_path / "data/stranger", 9, 0)
    (tmp_path / "data/half").mkdir()
    (tmp_path / "data/half" / pending.FILE_NAME).write_text('{"count"')
    async with supervisor_harness(tmp_path, data_dir=tmp_path / "data") as host:
        await host.ask("postman", "take", count=1, wake_after=3600)
        await host.supervisor.unload("postman")
        await host.ask("prompt", "take", count=1)
        await host.supervisor.unload("prompt")
        # The other handler, which is due, shows that the notes were read.
        await until(lambda: host.supervisor.status("prompt").generation == 2)
        assert host.state("postman") == "cold"
        assert await host.supervisor.pending_work.counts() == {"postman": 1, "prompt": 1}


async def test_readiness_shows_the_amount(tmp_path: Path) -> None:
    install_plugin(tmp_path, "postman", POSTMAN)
    async with supervisor_harness(tmp_path, data_dir=tmp_path / "data") as host:
        await host.ask("postman", "take", count=7)
        response = await HealthRoutes(host.supervisor).ready(None)  # type: ignore[arg-type]
        assert b'"pending":{"postman":7}' in response.body.replace(b" ", b"")  # type: ignore[attr-defined]


async def test_no_handler_is_evicted_for_pending_work() -> None:
    evicted: list[str] = []
    idle = Candidate("idle", 1, 0.0)
    budget = Budget(100, wait=30, candidates=lambda: [idle], evict=lambda name, _: evicted.append(name))
    await within(budget.reserve("idle", 1, MemoryEstimate(80, 80, "default")))
    with pytest.raises(MemoryBudget):
        await within(budget.reserve("postman", 1, MemoryEstimate(40, 40, "default"), may_wait=False))
    assert evicted == []
    await within(budget.reserve("postman", 2, MemoryEstimate(20, 20, "default"), may_wait=False))
    assert budget.ledger.available == 0


async def test_a_dispatch_gets_the_memory_of_pending_work(tmp_path: Path) -> None:
    install_plugin(tmp_path, "postman", POSTMAN)
    async with supervisor_harness(tmp_path, data_dir=tmp_path / "data") as host:
        host.supervisor.pending_work.wake("postman")
        assert host.state("postman") == "waiting"
        assert await host.ask("postman", "other") == 1


async def test_the_data_directory_is_made_on_first_use(tmp_path: Path) -> None:
    install_plugin(tmp_path, "postman", POSTMAN)
    # A confined worker needs it before its plugin is loaded: nothing can be added to its files afterwards.
    async with supervisor_harness(tmp_path, data_dir=tmp_path / "data", workers={"confine": "off"}) as host:
        await host.ask("postman", "other")
        assert not (tmp_path / "data").exists()
        await host.ask("postman", "take", count=1)
        assert (tmp_path / "data/postman").stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").write_text("")
    async with supervisor_harness(tmp_path, data_dir=tmp_path / "file") as host:
        error = await error_of(host.ask("postman", "take", count=1))
        assert isinstance(error, ConfigError)
        assert str(tmp_path / "file/postman") in error.message
        # An operation without pending work is not affected.
        assert await within(host.ask("postman", "other")) == 1
    async with supervisor_harness(tmp_path) as host:
        assert await host.ask("postman", "take", count=1) == 1
        assert await host.supervisor.pending_work.counts() == {}


def test_the_default_directory_follows_xdg() -> None:
    for environ, expected in (
        ({"XDG_DATA_HOME": "/xdg", "HOME": "/home/u"}, Path("/xdg/handler-host")),
        ({"XDG_DATA_HOME": "relative", "HOME": "/home/u"}, Path("/home/u/.local/share/handler-host")),
        ({"HOME": "/home/u"}, Path("/home/u/.local/share/handler-host")),
        ({"HANDLER_HOST_DATA_DIR": "/d", "HOME": "/home/u"}, Path("/d")),
        ({}, None),
    ):
        assert load_config(None, environ).config.data_dir == expected
