"""Google failing in every way that it can: nothing is lost, nothing comes twice, the order is kept."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from handler_host.plugin import UpstreamAuth, UpstreamUnreachable
from sheets.quota import backoff
from tests.integration.plugins.sheets.google import Google
from tests.integration.plugins.sheets.hosts import at_google
from tests.support import error_of, until

FAULTS: dict[str, list[dict[str, Any]]] = {
    "429 without Retry-After": [{"status": 429, "times": 3}],
    "429 with Retry-After": [{"status": 429, "times": 2, "retry_after": "0.05"}],
    "503": [{"status": 503, "times": 3}],
    "503 after it took effect": [{"status": 503, "when": "after"}],
    "500 as a page": [{"status": 500, "html": True, "times": 2}],
    "502 after it took effect": [{"status": 502, "html": True, "when": "after"}],
    "a connection cut before it took effect": [{"act": "cut"}],
    "a connection cut after it took effect": [{"act": "cut", "when": "after", "times": 2}],
    "no answer, and no effect": [{"act": "hang", "seconds": 3600}],
    "no answer after it took effect": [{"act": "hang", "when": "after", "seconds": 3600}],
    "a slow answer": [{"act": "status", "status": 503, "seconds": 0.2}],
    "one after the other": [
        {"act": "cut", "when": "after"},
        {"status": 429},
        {"act": "cut"},
        {"status": 503, "when": "after"},
    ],
}
TIMEOUT = 1.0


@pytest.mark.parametrize("name", FAULTS)
async def test_rows_arrive_once_and_in_order_through(
    name: str, tmp_path: Path, google: Google, private_key: str
) -> None:
    async with at_google(tmp_path, google, private_key, timeout=TIMEOUT, batch_rows=10) as sheets:
        await sheets("log.append", event="first")
        await sheets("states.set", name="n", value=0)
        await sheets.written()
        for fault in FAULTS[name]:
            # The log's appends first, then those of the states.
            google.fail(":append", **fault)
        events = [f"{number}" for number in range(25)]
        await sheets("log.append", rows=[{"event": event} for event in events])
        for value in range(5):
            await sheets("states.set", name="n", value=value)
            await sheets("states.set", name=f"new {value}", value=value)
        await sheets("states.delete", name="new 0")
        status = await sheets.written()
        assert all(fault.times == 0 for fault in google.faults)
        assert [row["event"] for row in google.rows("log")] == ["first", *events]
        states = [(row["name"], row["value"]) for row in google.rows("states")]
        assert states == [("n", 4), *((f"new {value}", value) for value in range(1, 5))]
        assert status["last_error"] is not None
        assert status["failures"] == 0


@pytest.mark.parametrize("match", ["GET", "values:batchUpdate", "the-book:batchUpdate"])
async def test_a_failure_of_any_other_call_keeps_nothing_back_for_good(
    match: str, tmp_path: Path, google: Google, private_key: str
) -> None:
    google.fail(match, times=2)
    google.fail(match, act="cut", when="after")
    async with at_google(tmp_path, google, private_key) as sheets:
        await sheets("states.set", name="n", value=1)
        await sheets.written()
        await sheets("states.set", name="n", value=2)
        await sheets("states.delete", name="n")
        await sheets("states.set", name="m", value=3)
        await sheets("log.append", event="e")
        await sheets.written()
        assert [(row["name"], row["value"]) for row in google.rows("states")] == [("m", 3)]
        assert len(google.rows("log")) == 1


async def test_late_write_after_its_timeout_is_not_repeated(tmp_path: Path, google: Google, private_key: str) -> None:
    async with at_google(tmp_path, google, private_key, timeout=0.5, settle=20.0) as sheets:
        await sheets("log.append", event="first")
        await sheets.written()
        # It waits at Google for longer than the worker does, and is then done.
        google.fail(":append", act="late", seconds=1.5)
        await sheets("log.append", event="late")
        await until(lambda: len(google.rows("log")) == 2)
        await sheets("log.append", event="after it")
        await sheets.written()
        assert [row["event"] for row in google.rows("log")] == ["first", "late", "after it"]
        assert google.count(":append") == 3


async def test_expired_token_is_renewed_and_revoked_key_reported(
    tmp_path: Path, google: Google, private_key: str
) -> None:
    async with at_google(tmp_path, google, private_key) as sheets:
        await sheets("log.append", event="one")
        await sheets.written()
        google.expire_tokens()
        await sheets("log.append", event="two")
        await sheets.written()
        google.expire_tokens()
        google.revoked = True
        await sheets("log.append", event="three")
        synced = await sheets("sync")
        assert "Google refuses the credentials" in synced["error"]
        assert private_key[40:60] not in synced["error"]
        google.revoked = False
        await sheets.written()
        assert [row["event"] for row in google.rows("log")] == ["one", "two", "three"]


async def test_readers_get_the_error_until_the_first_success(tmp_path: Path, google: Google, private_key: str) -> None:
    google.revoked = True
    async with at_google(tmp_path, google, private_key) as sheets:
        assert isinstance(await error_of(sheets("users.get", user_id="1")), UpstreamAuth)
        # What needs no reading is taken all the same.
        await sheets("states.set", name="n", value=1)
        google.revoked = False
        await until(lambda: bool(google.rows("states")))
    async with at_google(tmp_path / "2", google, private_key, endpoint="http://127.0.0.1:1") as sheets:
        error = await error_of(sheets("users.register", user_id="1"))
        assert isinstance(error, UpstreamUnreachable)
        await sheets("log.append", event="kept")
        synced = await sheets("sync")
        assert (synced["pending"], "cannot be reached" in synced["error"]) == (1, True)


async def test_a_retry_after_is_obeyed(tmp_path: Path, google: Google, private_key: str) -> None:
    async with at_google(tmp_path, google, private_key) as sheets:
        await sheets("log.append", event="one")
        await sheets.written()
        google.fail(":append", status=429, retry_after="2")
        started_at = time.monotonic()
        await sheets("log.append", event="two")
        await asyncio.sleep(0)
        await until(lambda: len(google.rows("log")) == 2)
        assert time.monotonic() - started_at >= 2


def test_the_backoff_doubles_with_jitter_and_has_an_end() -> None:
    for failures in range(1, 40):
        waits = {backoff(failures, 1.0, 64.0) for _ in range(20)}
        assert all(min(2 ** (failures - 1), 64) <= wait <= 64 for wait in waits)
        assert len(waits) > 1 or failures > 6
