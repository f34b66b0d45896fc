"""Printed lines of a worker: in the log at once, one by one."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.support import install_plugin, supervisor_harness, until

SOURCE = """
from handler_host.plugin import operation

class Handler:
    @operation
    def say(self, request: dict) -> int:
        print("printed without flush")
        return 1
"""


@pytest.mark.parametrize("isolation", ["process", "exec"])
async def test_a_printed_line_appears_while_the_worker_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, isolation: str
) -> None:
    install_plugin(tmp_path, "talker", SOURCE)
    with caplog.at_level(logging.INFO, "handler.talker"):
        async with supervisor_harness(tmp_path, handlers={"talker": {"isolation": isolation}}) as running:
            assert await running.ask("talker", "say") == 1
            await until(lambda: "printed without flush" in caplog.messages)
            assert running.state("talker") == "idle"
