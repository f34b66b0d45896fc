"""The check of a new deploy: what it looks at, where it is seen, what comes of a failure."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from handler_host._internal.atomic_write import replace_file
from handler_host.config import Config, VerifyConfig
from handler_host.lifecycle import verification
from handler_host.lifecycle.verification import FIRST_START, commit_of, flag_file, verify
from tests.integration.http.test_server import Process, ready
from tests.integration.http.test_signals import TOKEN, logged
from tests.support import LIMIT, SupervisorHarness, install_plugin, install_puppet, supervisor_harness, until, within

PATIENT = '''
from handler_host.plugin import hookimpl, operation

class Handler:
    """Has a health hook that does as it is configured."""

    @hookimpl
    def activate(self, context):
        self.context = context

    @hookimpl
    async def health(self, context):
        mood = context.config.get("mood", "well")
        if mood == "ill":
            raise ConnectionError("the provider does not answer")
        if mood == "gone":
            import os
            os._exit(3)

    @operation
    async def echo(self, request: dict) -> dict:
        return request
'''


def lines(root: Path, *more: str) -> tuple[str, ...]:
    verify = ("[verify]", f'flag = "{root}/flag"', *more)
    return ("[server]", "port = 0", "[log]", 'format = "json"', *verify)


def install(root: Path, *handlers: str, **moods: str) -> dict[str, dict[str, Any]]:
    """Install handlers, all of which are to be verified; return their configuration."""
    for name in handlers:
        install_plugin(root, name, PATIENT)
    return {name: {"verify": True, "mood": moods.get(name, "well")} for name in handlers}


async def checks(running: SupervisorHarness, root: Path, commit: str = "abc") -> dict[str, tuple[bool, str]]:
    """Verify; return what was found by name."""
    report = await within(verify(running.supervisor, commit, root / "flag"))
    results = {check.name: (check.ok, check.text) for check in report.checks}
    assert running.supervisor.verified is report
    return results


async def test_a_good_deploy_is_verified_once(tmp_path: Path) -> None:
    handlers = install(tmp_path, "one", "two")
    async with supervisor_harness(tmp_path, handlers=handlers) as running:
        found = await checks(running, tmp_path)
        assert all(ok for ok, _ in found.values())
        assert found["fork server"] == (True, "forks")
        assert found["one"][1].startswith("healthy, activated in ")
        assert (tmp_path / "flag").read_text() == "abc\n"
        assert [path.name for path in tmp_path.glob("flag*")] == ["flag"]
        # Each has had its worker, and the fork server is not kept for nothing.
        assert [running.state(name) for name in handlers] == ["cold", "cold"]
        assert running.supervisor.status("two").generation == 1
        events = [json.loads(event.data) for event in running.supervisor.telemetry.events.past]
        assert {event["for"] for event in events if "for" in event} == {"deploy check"}
        assert {event["cause"] for event in events if "cause" in event} == {"deploy check"}
        # The kernel reports an exit in one of the next turns of the loop.
        await until(lambda: not running.supervisor._launch_specs.fork_server_pids)

        assert await checks(running, tmp_path) == {}
        assert running.supervisor.verified is not None
        assert running.supervisor.verified.state == "skipped"
        assert running.supervisor.status("one").generation == 1
        assert await checks(running, tmp_path, "def") != {}
        assert (tmp_path / "flag").read_text() == "def\n"


async def test_an_ill_handler_fails_and_the_others_are_checked(tmp_path: Path) -> None:
    handlers = install(tmp_path, "ill", "well", "gone", ill="ill", gone="gone")
    install_plugin(tmp_path, "keyless", PATIENT, manifest="[secrets.KEY_OF_NOBODY]\n")
    install_plugin(tmp_path, "unasked", "raise RuntimeError('never imported')")
    (tmp_path / "flag").write_text("the last good one\n")
    async with supervisor_harness(tmp_path, handlers=handlers) as running:
        found = await checks(running, tmp_path)
        assert found["ill"][0] is False
        assert "the provider does not answer" in found["ill"][1]
        assert found["gone"][0] is False
        assert "exit code 3" in found["gone"][1]
        assert found["keyless"][0] is False
        assert "KEY_OF_NOBODY" in found["keyless"][1]
        assert found["well"][0] is True
        assert "unasked" not in found
        assert (tmp_path / "flag").read_text() == "the last good one\n"


async def test_a_handler_that_is_at_work_goes_on(tmp_path: Path) -> None:
    handlers = install(tmp_path, "one")
    async with supervisor_harness(tmp_path, handlers=handlers) as running:
        await within(running.ask("one", "echo"))
        pid = running.pid("one")
        assert (await checks(running, tmp_path))["one"][0] is True
        assert running.pid("one") == pid


async def test_a_check_that_takes_too_long_has_failed(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    handlers = {"puppet": {"verify": True, "at_activation": "forever"}}
    async with supervisor_harness(tmp_path, handlers=handlers, verify=VerifyConfig(timeout=0.3)) as running:
        assert (await checks(running, tmp_path))["time"] == (False, "not done within 0.3 s (verify.timeout)")
        assert not (tmp_path / "flag").exists()


async def test_a_flag_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "flag").mkdir()
    async with supervisor_harness(tmp_path) as running:
        assert all(ok for ok, _ in (await checks(running, tmp_path)).values())
        assert [path.name for path in tmp_path.glob("flag*")] == ["flag"]


async def test_a_deploy_is_verified_once_its_flag_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who hears of it may end the host at once."""
    async with supervisor_harness(tmp_path) as running:
        said: list[object] = []

        def replace(path: Path, data: bytes) -> None:
            said.append(running.supervisor.verified and running.supervisor.verified.state)
            replace_file(path, data)

        monkeypatch.setattr(verification, "replace_file", replace)
        await checks(running, tmp_path)
        assert said == ["running"]


async def verified(session: aiohttp.ClientSession, host: Process) -> tuple[int, dict[str, Any]]:
    """Return what the host tells of its readiness, when the check is at its end."""
    async with asyncio.timeout(LIMIT):
        while True:
            async with session.get(f"{host.url}/health/ready") as response:
                found: dict[str, Any] = await response.json()
            if found.get("verify", {}).get("state", "running") != "running":
                return response.status, found
            await asyncio.sleep(0.02)


async def test_a_new_commit_is_verified_in_the_background_and_shown(tmp_path: Path) -> None:
    install(tmp_path, "ill")
    environment = TOKEN | {"RENDER_GIT_COMMIT": "abc"}
    more = lines(tmp_path)
    async with ready(tmp_path, *more, environment=environment) as host, aiohttp.ClientSession() as session:
        status, found = await verified(session, host)
        assert (status, found["verify"]["state"], found["verify"]["commit"]) == (200, "passed", "abc")
        assert found["verify"]["host_bytes"] <= 2 * 2**20
        line = await logged(host, "deploy verified")
        assert line["commit"] == "abc"
    assert (tmp_path / "flag").read_text() == "abc\n"
    async with ready(tmp_path, *more, environment=environment) as host, aiohttp.ClientSession() as session:
        assert (await verified(session, host))[1]["verify"] == {
            "state": "skipped",
            "commit": "abc",
            "checks": [],
            "seconds": 0.0,
            "host_bytes": 0,
        }


async def test_a_failure_is_shown_and_the_host_goes_on(tmp_path: Path) -> None:
    install_plugin(tmp_path, "keyless", PATIENT, manifest="[secrets.KEY_OF_NOBODY]\n")
    more = lines(tmp_path, 'when = "start"')
    async with ready(tmp_path, *more, environment=TOKEN) as host, aiohttp.ClientSession() as session:
        status, found = await verified(session, host)
        assert (status, found["ready"], found["verify"]["state"]) == (200, True, "failed")
        line = await logged(host, "the check of this deploy failed")
        assert (line["level"], list(line["failed"])) == ("error", ["keyless"])


async def test_a_failure_ends_the_host_that_is_configured_so(tmp_path: Path) -> None:
    """And it is never ready before: a platform keeps the old deploy."""
    install_plugin(tmp_path, "keyless", PATIENT, manifest="[secrets.KEY_OF_NOBODY]\n")
    more = lines(tmp_path, 'when = "start"', 'on_failure = "exit"')
    async with ready(tmp_path, *more) as host:
        _, errors = await host.output()
        assert host.process.returncode == 1
        assert "KEY_OF_NOBODY" in errors
    assert not (tmp_path / "flag").exists()


async def test_nothing_of_it_is_there_without_a_commit(tmp_path: Path) -> None:
    async with (
        ready(tmp_path, *lines(tmp_path)) as host,
        aiohttp.ClientSession() as session,
        session.get(f"{host.url}/health/ready") as response,
    ):
        assert "verify" not in await response.json()
    assert not (tmp_path / "flag").exists()


@pytest.mark.parametrize(
    ("config", "environ", "commit"),
    [
        (VerifyConfig(), {}, None),
        (VerifyConfig(), {"RENDER_GIT_COMMIT": "a", "RAILWAY_GIT_COMMIT_SHA": "b"}, "a"),
        (VerifyConfig(), {"RENDER_GIT_COMMIT": " ", "RAILWAY_GIT_COMMIT_SHA": "b"}, "b"),
        (VerifyConfig(commit_variables=("GIT_SHA",)), {"RENDER_GIT_COMMIT": "a", "GIT_SHA": "c"}, "c"),
        (VerifyConfig(when="start"), {}, FIRST_START),
        (VerifyConfig(when="start"), {"RENDER_GIT_COMMIT": "a"}, "a"),
        (VerifyConfig(when="never"), {"RENDER_GIT_COMMIT": "a"}, None),
    ],
)
def test_the_commit_is_named_by_the_first_variable_that_is_set(
    config: VerifyConfig, environ: dict[str, str], commit: str | None
) -> None:
    assert commit_of(config, environ) == commit


def test_the_flag_is_where_it_outlives_the_host() -> None:
    assert flag_file(Config(verify=VerifyConfig(flag=Path("/x"))), {}) == Path("/x")
    assert flag_file(Config(data_dir=Path("/data")), {"HOME": "/home/a"}) == Path("/data/.verified")
    assert flag_file(Config(), {"HOME": "/h"}) == Path("/h/.local/state/handler-host/verified")
    assert flag_file(Config(), {"HOME": "/h", "XDG_STATE_HOME": "/s"}) == Path("/s/handler-host/verified")
    assert os.sep in str(flag_file(Config(), {}))
