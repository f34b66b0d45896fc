"""The log of a worker: levels, request IDs, and masked secrets."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handler_host._internal import log as logs
from handler_host.config import LogConfig
from tests.support import error_of, install_plugin, supervisor_harness, until, within

SECRET = "s3cret/of+the=handler"
ENVIRON = {"TALKER_KEY": SECRET}
TALKER = '''
import asyncio, logging, sys, warnings
from handler_host.plugin.errors import UpstreamError
from handler_host.plugin import hookimpl, operation

class Handler:
    """Logs, prints and raises."""

    @hookimpl
    def activate(self, context):
        self.context = context
        self.key = context.secrets["TALKER_KEY"].reveal()

    @operation
    async def talk(self, request: dict) -> dict:
        for level in (10, 20, 30, 40):
            self.context.log.log(level, "%s at %d", request["text"], level)
        return {}

    @operation
    def talk_in_thread(self, request: dict) -> dict:
        logging.getLogger("sdk").warning("from a thread")
        return {}

    @operation
    async def leak(self, request: dict) -> dict:
        print("printed", self.key)
        print("printed", self.key, file=sys.stderr, flush=True)
        self.context.log.warning("logged %s", self.key)
        warnings.warn(f"warned {self.key}")
        sys.stdout.flush()
        raise RuntimeError(f"raised {self.key}")

    @operation
    async def leak_to_client(self, request: dict) -> dict:
        raise UpstreamError(f"the provider refused the key {self.key}")
'''
MANIFEST = "[secrets.TALKER_KEY]\n"


@pytest.fixture(autouse=True)
def _talker(tmp_path: Path) -> None:
    install_plugin(tmp_path, "talker", TALKER, manifest=MANIFEST)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """The log as JSON; :func:`attach` sends it there again after ``setup``."""
    monkeypatch.setattr(logs, "_secrets", ())
    stream = io.StringIO()
    attach(stream)
    yield stream
    logs.setup(LogConfig())


def attach(stream: io.StringIO) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter())
    logging.getLogger().addHandler(handler)


def events(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


class TestLevels:
    @pytest.mark.parametrize(
        ("config", "levels"),
        [
            (LogConfig(), [20, 30, 40]),
            (LogConfig(levels={"talker": "debug"}), [10, 20, 30, 40]),
            (LogConfig(level="error", levels={"talker": "warning"}), [30, 40]),
            (LogConfig(levels={"talker": "error", "other": "debug"}), [40]),
        ],
    )
    async def test_handler_has_its_own(
        self, config: LogConfig, levels: list[int], tmp_path: Path, log: io.StringIO
    ) -> None:
        logs.setup(config)
        attach(log)
        async with supervisor_harness(tmp_path, environ=ENVIRON, log=config) as running:
            await within(running.ask("talker", "talk", text="hello"))
            # The response follows the records over the same channel, so all of them have arrived.
            logged = [event for event in events(log) if event["logger"] == "talker"]
            assert [int(event["event"].split()[-1]) for event in logged] == levels
            assert {event["handler"] for event in logged} == {"talker"}
            assert {event["request_id"] for event in logged} == {"test"}

    async def test_unknown_handler(self, tmp_path: Path, log: io.StringIO) -> None:
        async with supervisor_harness(tmp_path, log=LogConfig(levels={"talkre": "debug"})):
            (event,) = [event["event"] for event in events(log) if "log.levels" in event["event"]]
            assert "'talkre'" in event
            assert event.endswith("did you mean 'talker'?")


async def test_request_id_in_a_thread(tmp_path: Path, log: io.StringIO) -> None:
    async with supervisor_harness(tmp_path, environ=ENVIRON) as running:
        await within(running.ask("talker", "talk_in_thread"))
        (event,) = (event for event in events(log) if event["event"] == "from a thread")
        assert (event["handler"], event["logger"], event["request_id"]) == ("talker", "sdk", "test")


class TestSecrets:
    async def test_masked_in_the_log(self, tmp_path: Path, log: io.StringIO) -> None:
        async with supervisor_harness(tmp_path, environ=ENVIRON) as running:
            error = await error_of(running.ask("talker", "leak"))
            assert SECRET not in error.message
            masked = ("printed ***", "logged ***", "warned ***", "raised ***")
            await until(lambda: all(text in log.getvalue() for text in masked))
            await until(lambda: log.getvalue().count("printed ***") == 2)
            (failed,) = (event for event in events(log) if "leak failed" in event["event"])
            assert failed["request_id"] == "test"
            assert SECRET not in log.getvalue()

    async def test_masked_for_the_client(self, tmp_path: Path, log: io.StringIO) -> None:
        async with supervisor_harness(tmp_path, environ=ENVIRON) as running:
            error = await error_of(running.ask("talker", "leak_to_client"))
            assert error.message == "the provider refused the key ***"
