"""What a handler's worker logs and prints: its level, its request's number, and never its secrets."""

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
from handler_host.plugin.errors import HostError
from tests.support import error_of, install_plugin, supervisor_harness, until, within

SECRET = "s3cret/of+the=handler"
TALKER = '''
import asyncio, logging, sys, warnings
from handler_host.plugin.errors import UpstreamError
from handler_host.plugin import hookimpl, operation

class Handler:
    """Talks."""

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
        logging.getLogger("sdk.of.somebody").warning("from a thread")
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
    async def tell_the_client(self, request: dict) -> dict:
        raise UpstreamError(f"the provider refused the key {self.key}")
'''
MANIFEST = "[secrets.TALKER_KEY]\n"


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """The log as JSON, from the level of each logger on."""
    monkeypatch.setattr(logs, "_secrets", ())
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter())
    logging.getLogger().addHandler(handler)
    yield stream
    logging.getLogger().removeHandler(handler)
    logs.setup(LogConfig())


def events(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def levels(config: LogConfig, stream: io.StringIO) -> None:
    """Set up the log, and keep it readable here."""
    logs.setup(config)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter())
    logging.getLogger().addHandler(handler)


@pytest.mark.parametrize(
    ("config", "heard"),
    [
        (LogConfig(), [20, 30, 40]),
        (LogConfig(levels={"talker": "debug"}), [10, 20, 30, 40]),
        (LogConfig(level="error", levels={"talker": "warning"}), [30, 40]),
        (LogConfig(levels={"talker": "error", "other": "debug"}), [40]),
    ],
)
async def test_each_handler_logs_from_its_own_level_on(
    config: LogConfig, heard: list[int], tmp_path: Path, written: io.StringIO
) -> None:
    levels(config, written)
    install_plugin(tmp_path, "talker", TALKER, manifest=MANIFEST)
    async with supervisor_harness(tmp_path, environ={"TALKER_KEY": SECRET}, log=config) as running:
        await within(running.ask("talker", "talk", text="hello"))
        said = [one for one in events(written) if one["logger"] == "talker"]
        # The answer comes after the records, over the same channel.
        assert [int(one["event"].split()[-1]) for one in said] == heard
        assert {one["handler"] for one in said} == {"talker"}
        assert {one["request_id"] for one in said} == {"test"}


async def test_a_plain_function_logs_with_its_requests_number_too(tmp_path: Path, written: io.StringIO) -> None:
    install_plugin(tmp_path, "talker", TALKER, manifest=MANIFEST)
    async with supervisor_harness(tmp_path, environ={"TALKER_KEY": SECRET}) as running:
        await within(running.ask("talker", "talk_in_thread"))
        (line,) = (one for one in events(written) if one["event"] == "from a thread")
        assert (line["handler"], line["logger"], line["request_id"]) == ("talker", "sdk.of.somebody", "test")


async def test_no_secret_gets_out_by_whatever_a_worker_says(tmp_path: Path, written: io.StringIO) -> None:
    """Given a handler that prints, logs, warns and raises with its secret in the text."""
    install_plugin(tmp_path, "talker", TALKER, manifest=MANIFEST)
    async with supervisor_harness(tmp_path, environ={"TALKER_KEY": SECRET}) as running:
        error = await error_of(running.ask("talker", "leak"))
        assert SECRET not in error.message
        said = ("printed ***", "logged ***", "warned ***", "raised ***")
        await until(lambda: all(text in written.getvalue() for text in said))
        await until(lambda: written.getvalue().count("printed ***") == 2)
        (failed,) = (one for one in events(written) if "leak failed" in one["event"])
        assert failed["request_id"] == "test"
        assert SECRET not in written.getvalue()


async def test_no_secret_gets_to_the_client_in_the_text_of_an_error(tmp_path: Path, written: io.StringIO) -> None:
    install_plugin(tmp_path, "talker", TALKER, manifest=MANIFEST)
    async with supervisor_harness(tmp_path, environ={"TALKER_KEY": SECRET}) as running:
        error: HostError = await error_of(running.ask("talker", "tell_the_client"))
        assert error.message == "the provider refused the key ***"


async def test_a_level_for_a_handler_that_is_not_there_is_said(tmp_path: Path, written: io.StringIO) -> None:
    install_plugin(tmp_path, "talker", TALKER, manifest=MANIFEST)
    async with supervisor_harness(tmp_path, log=LogConfig(levels={"talkre": "debug"})):
        assert "log.levels: there is no handler 'talkre'; did you mean 'talker'?" in [
            one["event"] for one in events(written)
        ]


def test_levels_that_are_taken_back_are_forgotten() -> None:
    logs.setup(LogConfig(levels={"talker": "debug"}))
    assert logging.getLogger("handler.talker").getEffectiveLevel() == logging.DEBUG
    logs.setup(LogConfig(level="warning"))
    assert logging.getLogger("handler.talker").getEffectiveLevel() == logging.WARNING
    logs.setup(LogConfig())
