"""gpt_e: one request at a time, and no pages of the weights between requests."""

from __future__ import annotations

import asyncio
import mmap
import sys
from pathlib import Path

import pytest

from gpt_e import turn
from gpt_e.turn import Turn, drop_file_pages
from tests.support import resident_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
SIZE = 8 * 2**20


def make_file(tmp_path: Path) -> Path:
    path = tmp_path / "a model.gguf"
    path.write_bytes(b"w" * SIZE)
    return path


def test_pages_of_the_file_are_dropped_and_can_be_read_again(tmp_path: Path) -> None:
    path = make_file(tmp_path)
    link = tmp_path / "link.gguf"
    link.symlink_to(path)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as weights:
        assert weights[:].count(b"w") == SIZE
        before = resident_bytes()
        assert drop_file_pages(link) == SIZE
        assert before - resident_bytes() > SIZE // 2
        assert weights[:].count(b"w") == SIZE


def test_a_mapping_that_is_written_to_is_kept(tmp_path: Path) -> None:
    path = make_file(tmp_path)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as memory:
        memory[0] = 0
        assert drop_file_pages(path) == 0
        assert memory[0] == 0


async def test_pages_stay_while_requests_come_and_go_when_they_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped = asyncio.Event()
    monkeypatch.setattr(turn, "IDLE_S", 0.05)
    monkeypatch.setattr(turn, "drop_file_pages", lambda path: dropped.set())
    own = Turn(tmp_path)
    async with own:
        second = asyncio.create_task(own.__aenter__())
        await asyncio.sleep(0)
        assert not second.done(), "one at a time"
    await second
    await asyncio.sleep(0.1)
    assert not dropped.is_set(), "the second request has the turn"
    await own.__aexit__()
    await asyncio.wait_for(dropped.wait(), 10)
