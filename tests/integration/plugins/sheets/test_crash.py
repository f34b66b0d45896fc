"""Workers and hosts are killed in the middle of it: what was acknowledged is in the spreadsheet, once, in order."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from handler_host.plugin import HostError
from tests.integration.plugins.sheets.google import Google
from tests.integration.plugins.sheets.hosts import at_google, served
from tests.support import LIMIT, until, within

pytestmark = pytest.mark.slow

Append = Callable[[str, str], Awaitable[bool]]
"""Append an event of a user; whether it was acknowledged."""


class Users:
    """Users who append one event after the other, until together they have enough acknowledged.

    Those who are ``persistent`` ask again, with the same key, until an event is acknowledged.
    """

    def __init__(self, append: Append, count: int = 8, persistent: bool = False) -> None:
        self.acknowledged: dict[str, list[str]] = {str(number): [] for number in range(count)}
        self._append = append
        self._persistent = persistent
        self._tried = dict.fromkeys(self.acknowledged, 0)

    @property
    def total(self) -> int:
        return sum(map(len, self.acknowledged.values()))

    async def run(self, enough: int) -> None:
        await asyncio.gather(*(self._user(user, enough) for user in self.acknowledged))

    async def _user(self, user: str, enough: int) -> None:
        while self.total < enough:
            self._tried[user] += 1
            event = str(self._tried[user])
            while not (acknowledged := await self._append(user, event)) and self._persistent:
                pass
            if acknowledged:
                self.acknowledged[user].append(event)

    def check(self, rows: list[dict[str, Any]]) -> None:
        """Compare the spreadsheet with what was acknowledged."""
        for user, acknowledged in self.acknowledged.items():
            there = [row["event"] for row in rows if row["user_id"] == user]
            assert len(set(there)) == len(there), f"written twice: {there}"
            assert [event for event in there if event in set(acknowledged)] == acknowledged
            # What was not acknowledged may be there, but not before its time.
            assert [int(event) for event in there] == sorted(map(int, there))
            assert not self._persistent or there == acknowledged


@pytest.mark.parametrize("seed", [1])
async def test_workers_killed_at_random_lose_and_repeat_nothing(
    seed: int, tmp_path: Path, google: Google, private_key: str
) -> None:
    await killing_workers(tmp_path, google, private_key, seed=seed, appends=1000, kills=6)


async def killing_workers(root: Path, google: Google, private_key: str, *, seed: int, appends: int, kills: int) -> None:
    """Kill workers at random points: of the appends, and of the calls to Google."""
    dice = random.Random(seed)
    calm = {"crash_limit": 10**6, "backoff": 0.01, "backoff_max": 0.01}
    async with at_google(root, google, private_key, batch_rows=60, **calm) as sheets:

        async def append(user: str, event: str) -> bool:
            try:
                await sheets("log.append", user_id=user, event=event)
            except HostError:
                # Not to be asked for again at once: the host is about to notice that the worker is gone.
                await asyncio.sleep(0.005)
                return False
            return True

        users = Users(append)
        for number in range(kills):
            work = asyncio.ensure_future(users.run((number + 1) * appends // kills))
            wanted, calls = users.total + dice.randrange(appends // kills), len(google.calls)
            await until(lambda wanted=wanted: users.total >= wanted)  # type: ignore[misc]
            if dice.random() < 0.5:
                # While a call is on its way.
                await until(lambda calls=calls, work=work: len(google.calls) > calls or work.done())  # type: ignore[misc]
            await asyncio.sleep(dice.random() * 0.02)
            await until(lambda: sheets.host.state("sheets") in ("active", "idle"))
            pid = sheets.host.pid("sheets")
            os.kill(pid, signal.SIGKILL)
            await until(lambda pid=pid: sheets.host.supervisor.status("sheets").pid != pid)  # type: ignore[misc]
            await within(work, 2 * LIMIT)
        await sheets.written()
        users.check(google.rows("log"))
        assert users.total >= appends
        assert sheets.host.supervisor.status("sheets").generation > kills


@pytest.mark.parametrize(("seed", "appends", "kills"), [(2, 1000, 4)])
async def test_hosts_killed_at_random_lose_and_repeat_nothing(
    seed: int, appends: int, kills: int, tmp_path: Path, google: Google, private_key: str
) -> None:
    dice = random.Random(seed)
    async with served(tmp_path, google, private_key) as host, aiohttp.ClientSession() as session:

        async def append(user: str, event: str) -> bool:
            try:
                url = f"{host.url}/v1/handlers/sheets/log.append"
                row = {"user_id": user, "event": event, "key": f"{user} {event}"}
                async with session.post(url, json=row) as response:
                    await response.read()
                    return response.status == 200
            except aiohttp.ClientError:
                await asyncio.sleep(0.005)
                return False

        users = Users(append, persistent=True)
        for number in range(kills):
            work = asyncio.ensure_future(users.run((number + 1) * appends // kills))
            wanted = users.total + dice.randrange(appends // kills)
            await until(lambda wanted=wanted: users.total >= wanted)  # type: ignore[misc]
            await asyncio.sleep(dice.random() * 0.02)
            await host.kill()
            await host.start()
            await within(work, 2 * LIMIT)
        # Each one that asked until it was acknowledged is there, once.
        assert users.total >= appends
        # Rows wait while Google does not answer, and the host dies with them.
        google.fail("the-book", times=10**6)
        last = Users(lambda _, event: append("last", event), count=1)
        await within(last.run(20))
        await host.kill()
        await host.start()
        async with session.get(f"{host.url}/health/ready") as response:
            assert (await response.json())["pending"]["sheets"] >= 20
        google.faults.clear()
        # No dispatch any more: the host itself sees to it.
        async with asyncio.timeout(LIMIT):
            while True:
                async with session.get(f"{host.url}/health/ready") as response:
                    ready = await response.json()
                if not ready["pending"]:
                    break
                await asyncio.sleep(0.05)
        rows = google.rows("log")
        users.check(rows[: -len(last.acknowledged["0"])])
        assert [row["event"] for row in rows[-20:]] == last.acknowledged["0"]
