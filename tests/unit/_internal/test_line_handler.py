"""The handler that writes the log's lines of one turn of the event loop together."""

from __future__ import annotations

import asyncio
import io
import logging
import select
import threading
from collections.abc import Iterator

import pytest

from handler_host._internal.line_handler import LineHandler


class Writes(io.StringIO):
    """A stream that keeps each write apart."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[str] = []
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        if self.error is not None:
            raise self.error
        self.all.append(text)
        return len(text)


@pytest.fixture
def writes() -> Writes:
    return Writes()


@pytest.fixture
def log(writes: Writes) -> Iterator[logging.Logger]:
    log = logging.getLogger("test.lines")
    log.setLevel(logging.INFO)
    handler = LineHandler(writes)
    log.addHandler(handler)
    yield log
    log.removeHandler(handler)
    handler.close()


async def test_lines_of_a_turn_are_one_write(log: logging.Logger, writes: Writes) -> None:
    for turn in ("first", "second"):
        log.info("%s of the turn", turn)
        log.info("another")
        await asyncio.sleep(0)
    assert writes.all == ["first of the turn\nanother\n", "second of the turn\nanother\n"]


async def test_warning_is_written_at_once_behind_the_lines_before(log: logging.Logger, writes: Writes) -> None:
    log.info("before")
    log.warning("at once")
    assert writes.all == ["before\nat once\n"]


async def test_line_of_a_thread_is_written_at_once(log: logging.Logger, writes: Writes) -> None:
    log.info("before")
    thread = threading.Thread(target=log.info, args=("in a thread",))
    thread.start()
    thread.join()
    assert writes.all == ["before\nin a thread\n"]


def test_line_without_a_loop_is_written_at_once(log: logging.Logger, writes: Writes) -> None:
    log.info("no loop")
    assert writes.all == ["no loop\n"]


async def test_no_write_is_longer_than_the_kernel_keeps_whole(log: logging.Logger, writes: Writes) -> None:
    for _ in range(15):
        log.info("é" * 400)
    await asyncio.sleep(0)
    assert "".join(writes.all) == ("é" * 400 + "\n") * 15
    assert len(writes.all) == 3
    assert all(len(text.encode()) <= select.PIPE_BUF and text.endswith("\n") for text in writes.all)


async def test_closing_writes_the_lines_that_wait(log: logging.Logger, writes: Writes) -> None:
    log.info("last")
    log.handlers[0].close()
    assert writes.all == ["last\n"]


def test_lines_of_a_loop_that_has_ended_are_not_lost(log: logging.Logger, writes: Writes) -> None:
    def in_a_loop(text: str) -> None:
        loop = asyncio.new_event_loop()
        loop.call_soon(log.info, text)
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()

    in_a_loop("one")
    in_a_loop("other")
    log.handlers[0].flush()
    assert "".join(writes.all) == "one\nother\n"


async def test_failed_write_does_not_reach_the_loop(log: logging.Logger, writes: Writes) -> None:
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    writes.error = OSError("no space")
    log.info("lost")
    await asyncio.sleep(0)
    writes.error = None
    log.info("written")
    await asyncio.sleep(0)
    assert (errors, writes.all) == ([], ["written\n"])
