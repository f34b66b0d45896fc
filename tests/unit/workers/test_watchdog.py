"""The worker's watchdog: silence ends it, signs of the host keep it, and it does not count a pause of the machine."""

from __future__ import annotations

import asyncio
import time

from handler_host.workers.runtime.watchdog import Watchdog


def watchdog(hang_after_s: float | None) -> tuple[Watchdog, asyncio.Event]:
    silence = asyncio.Event()
    made = Watchdog(silence.set)
    made.hang_after_s = hang_after_s
    return made, silence


async def test_silence_is_reported_once_the_time_is_over() -> None:
    dog, silence = watchdog(0.2)
    started_at = time.monotonic()
    dog.start()
    await asyncio.wait_for(silence.wait(), 5)
    assert time.monotonic() - started_at >= 0.2


async def test_signs_of_the_host_keep_the_worker() -> None:
    dog, silence = watchdog(0.2)
    dog.start()
    for _ in range(20):
        await asyncio.sleep(0.02)
        dog.reset()
    assert not silence.is_set()
    dog.stop()


async def test_a_pause_of_the_whole_machine_is_not_taken_for_silence() -> None:
    dog, silence = watchdog(0.2)
    dog.start()
    time.sleep(0.5)  # noqa: ASYNC251 - nothing runs meanwhile, as in a paused container
    await asyncio.sleep(0)
    dog.reset()
    await asyncio.sleep(0.05)
    assert not silence.is_set()
    dog.stop()


async def test_without_a_limit_and_after_the_end_nothing_is_counted() -> None:
    for hang_after_s in (None, 0.05):
        dog, silence = watchdog(hang_after_s)
        dog.start()
        dog.stop()
        await asyncio.sleep(0.1)
        assert not silence.is_set()
