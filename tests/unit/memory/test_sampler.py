"""Readings of the memory of all processes."""

from __future__ import annotations

import os

from handler_host.config import MemoryConfig
from handler_host.memory.sampler import MemorySampler


async def test_after_the_close_a_reading_is_the_latest_one() -> None:
    """An admin route or the screen of ``top`` asks for memory while the host ends."""
    sampler = MemorySampler(MemoryConfig())
    latest = await sampler.read((), {})
    sampler.close()
    assert await sampler.read((), {}) == latest
    assert latest.host > 0


async def test_after_the_close_a_reading_has_no_worker_that_has_ended() -> None:
    sampler = MemorySampler(MemoryConfig())
    key = ("ended", 1)
    assert set((await sampler.read((), {key: os.getpid()})).workers) == {key}
    sampler.close()
    assert (await sampler.read((), {})).workers == {}
