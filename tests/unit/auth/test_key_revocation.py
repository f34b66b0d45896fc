"""Requests in progress: a check that fails is repeated."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from handler_host.auth import key_revocation
from handler_host.auth.key_revocation import LiveRequests


async def test_request_ends_with_its_key_after_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_revocation, "CHECK_INTERVAL_S", 0.01)
    checks = 0

    async def refresh() -> None:
        nonlocal checks
        checks += 1
        if checks == 1:
            raise RuntimeError("can't start new thread")

    async def wait() -> None:
        with live.track(lambda: checks < 2):
            await asyncio.sleep(60)

    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)  # the failed check is reported
    live = LiveRequests(refresh)
    task = asyncio.create_task(wait())
    async with asyncio.timeout(10):
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert (checks, task.cancelled()) == (2, True)
