"""Limits on a provider's silence."""

from __future__ import annotations

import asyncio

import pytest

from handler_host.plugin import limit_silence, note_bytes


async def send(bytes_count: int, pause_s: float) -> None:
    for _ in range(bytes_count):
        await asyncio.sleep(pause_s)
        note_bytes()


async def test_each_byte_restarts_all_limits_around_it() -> None:
    async with limit_silence(0.3), limit_silence(0.2):
        await send(5, 0.1)


async def test_a_silence_ends_the_block() -> None:
    async def fall_silent() -> None:
        async with limit_silence(0.05):
            await send(2, 0.02)
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await fall_silent()


async def test_a_byte_after_the_limit_does_not_extend_the_block() -> None:
    """The clean-up of the block may still read."""

    async def read_late() -> None:
        async with limit_silence(0.01):
            try:
                await asyncio.Event().wait()
            finally:
                note_bytes()

    with pytest.raises(TimeoutError):
        await read_late()


async def test_bytes_of_a_task_that_outlives_the_block_do_no_harm() -> None:
    """Such as an SDK's own reader: it has the context in which it was started."""
    async with limit_silence(10):
        reading = asyncio.create_task(send(1, 0.01))
    await reading
