"""Whatever goes wrong in the host itself or beside it: who waits is told, and the host works on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from host.errors import ActivationFailed, ConfigError
from host.generation import Generation
from host.lease import Lease
from tests.support import bench, error_of, install_puppet, within


async def test_a_defect_while_room_is_found_is_told_to_all_who_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_puppet(tmp_path)
    async with bench(tmp_path, policy={"backoff": 0.01}) as host:

        async def broken(*_: Any) -> None:
            raise RuntimeError("a defect")

        with monkeypatch.context() as patch:
            patch.setattr(host.supervisor.budget, "reserve", broken)
            errors = await within(asyncio.gather(*(error_of(host.ask()) for _ in range(3))))
        assert {type(error) for error in errors} == {ActivationFailed}
        await within(host.supervisor.load("puppet"))
        assert (await host.ask(number=1))["number"] == 1


async def test_an_unload_is_answered_though_the_activation_fails_before_there_is_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_puppet(tmp_path)
    async with bench(tmp_path) as host:
        planning, go = asyncio.Event(), asyncio.Event()

        async def misfit(*_: Any) -> None:
            planning.set()
            await go.wait()
            raise ConfigError("[handlers.puppet] does not fit")

        with monkeypatch.context() as patch:
            patch.setattr(host.supervisor, "plan", misfit)
            asked = host.begin(error_of(host.ask()))
            await within(planning.wait())
            unloaded = host.begin(host.supervisor.unload("puppet"))
            assert (await within(asked)).code == "handler_unloaded"
            go.set()
            await within(unloaded)
        assert host.state() == "cold"
        assert (await host.ask(number=1))["number"] == 1


async def test_a_failed_action_keeps_nobody_else_from_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install_puppet(tmp_path)
    async with bench(tmp_path) as host:
        granted = Lease.granted
        failed: list[Lease] = []

        def broken(lease: Lease, generation: Generation) -> None:
            if not failed:
                failed.append(lease)
                raise RuntimeError("a defect")
            granted(lease, generation)

        monkeypatch.setattr(Lease, "granted", broken)
        first = host.begin(host.ask(number=1))
        await asyncio.sleep(0)
        second = host.begin(host.ask(number=2))
        assert (await within(second))["number"] == 2
        assert "a defect of the host: Grant of puppet failed" in caplog.text
        first.cancel()
        await asyncio.wait({first})
        assert host.supervisor.status("puppet").in_flight == 0


async def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    (tmp_path / "file").write_text("in the way")
    async with bench(tmp_path, data_dir=tmp_path / "file") as host:
        error = await error_of(host.ask())
        assert isinstance(error, ConfigError)
        assert str(tmp_path / "file") in error.message
