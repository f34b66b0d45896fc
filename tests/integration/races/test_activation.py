"""Race cases 1 to 9: activation, with a real fork server and real workers."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from handler_host.plugin.errors import ActivationFailed, ActivationTimeout, MemoryBudget
from tests.support import (
    WORKERS,
    children_of,
    error_of,
    gone,
    install_plugin,
    install_puppet,
    room_for,
    supervisor_harness,
    until,
    within,
)

MB = 1024**2


async def test_case_1_a_hundred_first_dispatches_share_one_worker(
    tmp_path: Path,
) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        responses = await within(asyncio.gather(*(host.ask(number=number) for number in range(100))))
        assert [response["number"] for response in responses] == list(range(100))
        assert len({response["pid"] for response in responses}) == 1
        assert host.supervisor.status("puppet").generation == 1


async def test_case_2_an_activation_outlives_its_first_client(
    tmp_path: Path,
) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(
        tmp_path, handlers={"puppet": {"at_activation": "wait:go", "control": f"{tmp_path}/control"}}
    ) as host:
        host.control.make("go")
        first = host.start(host.ask(number=1))
        await until(lambda: host.supervisor.status("puppet").pid is not None)
        follower = host.start(host.ask(number=2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait({first})
        await host.control.signal("go")
        assert (await within(follower))["generation"] == 1


async def test_case_2_an_unneeded_worker_stays_a_full_idle_time(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    handlers = {"puppet": {"at_activation": "wait:go", "control": f"{tmp_path}/control"}}
    async with supervisor_harness(tmp_path, handlers=handlers, policy={"idle_after": 300.0}) as host:
        host.control.make("go")
        only = host.start(host.ask())
        await until(lambda: host.supervisor.status("puppet").pid is not None)
        only.cancel()
        await asyncio.wait({only})
        await host.control.signal("go")
        await until(lambda: host.state() == "idle")
        expires = host.supervisor.status("puppet").expires_in
        assert expires is not None
        assert expires > 290


async def test_case_3_nothing_is_forked_for_dispatches_that_have_left(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    install_puppet(tmp_path, "other")
    control = str(tmp_path / "control")
    keys = {"control": control, "memory_estimate": 2000 * MB}
    memory = {"limit": room_for(3000 * MB), "headroom": 0, "wait": 600.0}
    handlers = {"puppet": keys, "other": {**keys, "at_activation": "wait:go"}}
    async with supervisor_harness(tmp_path, handlers=handlers, memory=memory) as host:
        host.control.make("go")
        # It holds its reservation while it activates: the rest is too little for another.
        activating = host.start(host.ask("other"))
        await until(lambda: host.state("other") == "activating")
        waiting = [host.start(host.ask()) for _ in range(3)]
        await until(lambda: host.state() == "waiting")
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert host.state() == "cold"
        assert host.supervisor.status("puppet").pid is None
        await host.control.signal("go")
        await within(activating)


async def test_case_4_a_failed_import_is_the_error_of_all(
    tmp_path: Path,
) -> None:
    package = install_plugin(tmp_path, "puppet", "raise RuntimeError('no such luck')\n", attribute="Puppet")
    async with supervisor_harness(tmp_path, policy={"backoff": 0.2}) as host:
        errors = await within(asyncio.gather(*(error_of(host.ask()) for _ in range(5))))
        assert {type(error) for error in errors} == {ActivationFailed}
        assert {error.status for error in errors} == {502}
        assert all("RuntimeError: no such luck" in error.message for error in errors)
        assert all(f"{package}/__init__.py:1" in error.message for error in errors)
        assert host.state() == "failed"
        again = await error_of(host.ask())
        assert again.retry_after is not None
        assert host.supervisor.status("puppet").generation == 1
        install_puppet(tmp_path)
        await until(lambda: host.state() == "cold")
        assert (await host.ask(number=7))["number"] == 7


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import sys\nsys.exit(0)\n", "sys.exit(0)"),
        ("raise SystemExit\n", "sys.exit(None)"),
        ("import os\nos._exit(0)\n", "exit code 0"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", "SIGSEGV"),
        ("import nowhere_to_be_found\n", "nowhere_to_be_found"),
        ("def broken(:\n", "SyntaxError"),
        ("class Handler:\n    pass\n", "has no operation"),
        ("class Hander:\n    pass\n", "did you mean 'Hander'?"),
    ],
)
async def test_case_5_an_import_that_ends_the_process_has_its_reason(tmp_path: Path, source: str, told: str) -> None:
    install_plugin(tmp_path, "puppet", source)
    async with supervisor_harness(tmp_path) as host:
        error = await error_of(host.ask())
        assert isinstance(error, ActivationFailed)
        assert told in error.message
        assert host.state() == "failed"


async def test_case_6_the_output_of_an_import_is_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = (
        "import os, sys\nprint('printed')\nprint('to stderr', file=sys.stderr)\nos.write(1, b'\\x00\\xff raw\\n')\n"
    )
    install_plugin(
        tmp_path,
        "puppet",
        source + (WORKERS / "puppet.py").read_text(),
        attribute="Puppet",
    )
    with caplog.at_level(logging.INFO, "handler.puppet"):
        async with supervisor_harness(tmp_path) as host:
            assert (await host.ask(number=1))["number"] == 1
            await host.ask("puppet", "print", text="later")
    lines = [record.getMessage() for record in caplog.records if record.name == "handler.puppet"]
    for line in ("printed", "to stderr", "\x00\\xff raw", "later by print", "later to stderr", "later by write"):
        assert line in lines


async def test_case_7_an_endless_import_is_killed_at_its_deadline(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    handlers = {
        "puppet": {"control": f"{tmp_path}/control", "at_activation": "tell:pid block", "activate_timeout": 4.0}
    }
    async with supervisor_harness(tmp_path, handlers=handlers) as host:
        host.control.make("pid")
        asked = host.start(error_of(host.ask()))
        await host.control.wait_for("pid")
        pid = host.pid()
        error = await within(asked)
        assert isinstance(error, ActivationTimeout)
        assert error.status == 504
        assert gone(pid)


async def test_case_8_and_9_a_slow_activation_delays_no_other_handler(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    install_puppet(tmp_path, "other")
    handlers = {"puppet": {"control": f"{tmp_path}/control", "at_activation": "tell:started block"}}
    async with supervisor_harness(tmp_path, handlers=handlers) as host:
        host.control.make("started")
        slow = host.start(host.ask())
        await host.control.wait_for("started")
        assert (await within(host.ask("other", number=1)))["number"] == 1
        assert host.state() == "activating"
        slow.cancel()
        await asyncio.wait({slow})


async def test_a_handler_over_the_limit_is_refused_at_once(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    keys = {"control": "", "memory_estimate": 900 * MB}
    before = children_of(1)
    async with supervisor_harness(
        tmp_path, handlers={"puppet": keys}, memory={"limit": 512 * MB, "wait": 600.0}
    ) as host:
        error = await error_of(host.ask())
        assert isinstance(error, MemoryBudget)
        assert not error.retryable
        assert error.details is not None
        assert error.details["needed"] == 900 * MB
        assert host.supervisor.status("puppet").pid is None
    assert children_of(1) == before
