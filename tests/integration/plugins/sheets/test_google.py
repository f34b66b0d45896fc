"""The handler with the real gspread and google-auth over HTTP, against the stand-in: what is written, what is read."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from handler_host.plugin import UpstreamBadRequest, UpstreamError
from sheets import mirror, quota
from tests.integration.plugins.sheets.defaults import DEFAULTS
from tests.integration.plugins.sheets.google import BOOK, Google, Sheet
from tests.integration.plugins.sheets.hosts import PLENTY, QUICK, Client, at_google, local
from tests.support import LIMIT, error_of, until, within


def header(google: Google, title: str) -> list[Any]:
    return google.sheet(title).cells[0]


async def test_worksheets_are_made_with_the_first_write(
    tmp_path: Path, google: Google, private_key: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    google.sheets.append(Sheet(7, "My Log", cells=[["at", "row_key", "user_id", "event", "text", "data", "mine"]]))
    names = {"users_tab": "People", "log_tab": "My Log", "users_columns": ["email"]}
    async with at_google(tmp_path, google, private_key, **names) as sheets:
        status = await sheets("status")
        assert (status["mode"], status["spreadsheet"]) == ("google", BOOK)
        assert google.calls == []
        assert "gspread imported" not in caplog.text
        (key,) = (await sheets("log.append", event="first"))["keys"]
        await sheets.written()
        assert [sheet.title for sheet in google.sheets] == ["Sheet1", "My Log", "People", "states"]
        assert header(google, "People") == [
            *("user_id", "name", "status", "registered_at", "approved_at", "approved_by", "updated_at", "email")
        ]
        (row,) = google.rows("My Log")
        assert (row["row_key"], row["event"], row["mine"]) == (key, "first", "")
        # The log has the cost of the connection.
        assert re.search(r"gspread imported in [\d.]+ s, [\d.]+ MB more", caplog.text)
        # The narrowest scope: no part of Drive.
        assert google.scopes == {"https://www.googleapis.com/auth/spreadsheets"}
        assert not any("Sheet1" in call for call in google.calls)


async def test_texts_stay_texts_whatever_they_begin_with(tmp_path: Path, google: Google, private_key: str) -> None:
    texts = ["=1+1", "+49 30", "-1", "@name", "0042", "TRUE", "'quoted", "line\nbreak", " padded ", "ünïcödé 😀"]
    async with at_google(tmp_path, google, private_key) as sheets:
        await sheets("log.append", rows=[{"text": text, "user_id": "007"} for text in texts])
        for number, text in enumerate(texts):
            await sheets("states.set", name=f"s{number}", value=text)
        await sheets.written()
        assert [row["text"] for row in google.rows("log")] == texts
        assert {row["user_id"] for row in google.rows("log")} == {"007"}
        assert [row["text"] for row in (await sheets("log.tail"))["rows"]] == texts
        for number, text in enumerate(texts):
            assert (await sheets("states.get", name=f"s{number}"))["value"] == text


async def test_a_thousand_rows_take_few_calls_and_keep_their_order(
    tmp_path: Path, google: Google, private_key: str
) -> None:
    async with at_google(tmp_path, google, private_key, flush_after=30, batch_rows=500, cache_age=30) as sheets:
        for start in range(0, 1000, 100):
            await sheets("log.append", rows=[{"event": str(number)} for number in range(start, start + 100)])
        await sheets("sync")
        assert [row["event"] for row in google.rows("log")] == [str(number) for number in range(1000)]
        made = 2
        assert len(google.calls) - made <= 5


def events(rows: list[dict[str, Any]]) -> list[str]:
    return [row["event"] for row in rows if row["event"]]


class TestRowsThatPeopleChange:
    """The log continues below its last row with a key, and ``log.tail`` gives the newest rows, whatever people do."""

    @pytest.mark.parametrize(
        "change", ["clear", "clear the last", "delete", "delete the last", "insert", "sort", "note"]
    )
    async def test_new_rows_come_last(self, tmp_path: Path, google: Google, private_key: str, change: str) -> None:
        async with at_google(tmp_path, google, private_key, cache_age=0) as sheets:
            for number in range(6):
                await sheets("log.append", event=f"e{number}")
                await sheets.written()
            log = google.sheet("log")
            cells = log.cells
            expected = [f"e{number}" for number in range(6)]
            match change:
                case "clear":
                    cells[3] = [""] * len(cells[3])
                    expected.remove("e2")
                case "clear the last":
                    cells[6] = [""] * len(cells[6])
                    expected.remove("e5")
                case "delete":
                    del cells[2:5]
                    del expected[1:4]
                case "delete the last":
                    del cells[4:]
                    del expected[3:]
                case "insert":
                    cells[1:1] = [[], []]
                    log.rows += 2
                case "sort":
                    cells[1:] = reversed(cells[1:])
                    expected.reverse()
                case "note":
                    cells += [[], ["", "", "", "TOTAL"]]
                    log.rows += 2
            for number in (6, 7):
                await sheets("log.append", event=f"e{number}")
                await sheets.written()
            assert [event for event in events(google.rows("log")) if event != "TOTAL"] == [*expected, "e6", "e7"]
            assert events((await sheets("log.tail", limit=3))["rows"]) == [expected[-1], "e6", "e7"]
            assert events((await sheets("log.tail", limit=100))["rows"]) == [*expected, "e6", "e7"]

    async def test_the_same_after_an_unload(self, tmp_path: Path, google: Google, private_key: str) -> None:
        """The handler's memory of the end is gone."""
        async with at_google(tmp_path, google, private_key, cache_age=0) as sheets:
            for number in range(6):
                await sheets("log.append", event=f"e{number}")
            await sheets.written()
        cells = google.sheet("log").cells
        cells[3] = [""] * len(cells[3])
        async with at_google(tmp_path, google, private_key, cache_age=0) as sheets:
            await sheets("log.append", event="e6")
            await sheets.written()
            assert events(google.rows("log")) == ["e0", "e1", "e3", "e4", "e5", "e6"]
            assert events((await sheets("log.tail", limit=2))["rows"]) == ["e5", "e6"]

    async def test_users_and_states_are_added_below_a_cleared_row(
        self, tmp_path: Path, google: Google, private_key: str
    ) -> None:
        async with at_google(tmp_path, google, private_key, cache_age=0) as sheets:
            for number in range(3):
                await sheets("states.set", name=f"s{number}", value=number)
            await sheets.written()
            cells = google.sheet("states").cells
            cells[2] = [""] * len(cells[2])
            await sheets("states.set", name="s3", value=3)
            await sheets.written()
            assert [row["name"] for row in google.rows("states") if row["name"]] == ["s0", "s2", "s3"]


async def test_sync_writes_all_batches_without_a_pause(tmp_path: Path, google: Google, private_key: str) -> None:
    async with at_google(tmp_path, google, private_key, flush_after=3600, batch_rows=10) as sheets:
        await sheets("log.append", rows=[{"event": str(number)} for number in range(25)])
        synced = await sheets("sync", wait=20)
        assert (synced["complete"], synced["pending"]) == (True, 0)
        assert [row["event"] for row in google.rows("log")] == [str(number) for number in range(25)]


async def test_rows_are_updated_in_place_and_added_cells_stay(tmp_path: Path, google: Google, private_key: str) -> None:
    async with at_google(tmp_path, google, private_key) as sheets:
        for user in ("1", "2", "3"):
            await sheets("users.register", user_id=user, name=f"user {user}")
        await sheets("states.set", name="n", user_id="2", value=1)
        await sheets.written()
        # A person adds a column in front, sorts, notes something, and approves somebody by hand.
        users = google.sheet("users")
        head, *lines = users.cells
        notes = ["", "vip", ""]
        users.cells = [["note", *head], *([note, *line] for note, line in zip(notes, reversed(lines), strict=True))]
        users.columns += 1
        users.cells[1][users.cells[0].index("status")] = "approved by hand"
        users.cells.append(["typed", 4, "Four"])
        assert (await sheets("users.get", user_id="3"))["user"]["status"] == "approved by hand"
        assert (await sheets("users.get", user_id="4"))["user"]["name"] == "Four"
        await sheets("users.approve", user_id="2", by="root")
        await sheets("users.update", user_id="4", status="known")
        await sheets("users.register", user_id="5")
        await sheets("states.increment", name="n", user_id="2")
        await sheets.written()
        rows = google.rows("users")
        assert [(row["note"], str(row["user_id"]), row["status"]) for row in rows] == [
            ("", "3", "approved by hand"),
            ("vip", "2", "approved"),
            ("", "1", "pending"),
            ("typed", "4", "known"),
            ("", "5", "pending"),
        ]
        assert [(row["user_id"], row["value"]) for row in google.rows("states")] == [("2", 2)]
        await sheets("states.delete", name="n", user_id="2")
        await sheets("states.set", name="m", value=1)
        await sheets.written()
        assert [row["name"] for row in google.rows("states")] == ["m"]


async def test_a_change_after_a_pending_deletion_is_a_whole_row(
    tmp_path: Path, google: Google, private_key: str
) -> None:
    async with at_google(tmp_path, google, private_key, flush_after=30) as sheets:
        await sheets("states.set", name="a", value="old")
        await sheets("sync")
        await sheets("states.delete", name="a")
        await sheets("states.set", name="a", value="new")
        await sheets("states.set", name="b", value=1)
        await sheets("states.delete", name="b")
        await sheets("sync")
        assert [(row["name"], row["value"]) for row in google.rows("states")] == [("a", "new")]
        assert (await sheets("states.get", name="a"))["value"] == "new"


async def test_renamed_column_stops_its_tab_only(tmp_path: Path, google: Google, private_key: str) -> None:
    async with at_google(tmp_path, google, private_key) as sheets:
        await sheets("log.append", event="before")
        await sheets.written()
        header(google, "log")[header(google, "log").index("row_key")] = "row_kye"
        keys = (await sheets("log.append", event="after"))["keys"]
        await sheets("states.set", name="n", value=1)
        synced = await sheets("sync")
        assert not synced["complete"]
        assert "worksheet 'log' has no column 'row_key' (found 'row_kye')" in synced["error"]
        async with asyncio.timeout(LIMIT):
            while (await sheets("status"))["pending"] > 1:  # noqa: ASYNC110 - the worker is another process
                await asyncio.sleep(0.01)
        assert google.rows("states")
        assert await sheets.host.supervisor.pending_work.counts() == {"sheets": 1}
        header(google, "log")[header(google, "log").index("row_kye")] = "row_key"
        await sheets.written()
        assert [row["event"] for row in google.rows("log")] == ["before", "after"]
        assert google.rows("log")[1]["row_key"] == keys[0]
        header(google, "users").append("name")
        google.sheet("users").columns += 1
        error = await error_of(sheets("users.get", user_id="1"))
        assert isinstance(error, UpstreamBadRequest)
        assert "has two columns 'name'" in error.message


async def test_columns_that_were_moved_are_found_by_their_names(
    tmp_path: Path, google: Google, private_key: str
) -> None:
    # Also while what was read of the sheet may be old.
    async with at_google(tmp_path, google, private_key, cache_age=3600) as sheets:
        await sheets("log.append", event="one", text="a")
        await sheets.written()
        log = google.sheet("log")
        log.cells = [["", *reversed(line)] for line in log.cells]
        log.columns += 1
        await sheets("log.append", event="two", text="b")
        await sheets.written()
        assert [(row["event"], row["text"]) for row in google.rows("log")] == [("one", "a"), ("two", "b")]
        assert [row["text"] for row in (await sheets("log.tail"))["rows"]] == ["a", "b"]


async def test_a_worksheet_that_was_deleted_is_made_again(tmp_path: Path, google: Google, private_key: str) -> None:
    async with at_google(tmp_path, google, private_key) as sheets:
        await sheets("log.append", event="one")
        await sheets.written()
        google.sheets.remove(google.sheet("log"))
        await sheets("log.append", event="two")
        await sheets.written()
        assert [row["event"] for row in google.rows("log")] == ["two"]
        google.sheet("log").cells.clear()
        await sheets("log.append", event="three")
        await sheets.written()
        assert [row["event"] for row in google.rows("log")] == ["three"]


async def test_burst_of_reads_is_one_call_and_sees_own_writes(tmp_path: Path, google: Google, private_key: str) -> None:
    async with at_google(tmp_path, google, private_key, cache_age=3600, flush_after=3600) as sheets:
        await sheets("users.get", user_id="1")
        calls = len(google.calls)
        google.sheet("users").cells.append(["9", "Nine"])
        responses = await asyncio.gather(*(sheets("users.get", user_id="9") for _ in range(100)))
        assert len(google.calls) == calls
        assert {response["user"] is None for response in responses} == {True}
        assert all(0 <= response["age"] < 3600 for response in responses)
        await sheets("users.register", user_id="1", name="One")
        await sheets("states.set", name="n", value=5)
        await sheets("log.append", event="mine")
        assert (await sheets("users.get", user_id="1"))["user"]["name"] == "One"
        assert (await sheets("states.get", name="n"))["value"] == 5
        assert [row["event"] for row in (await sheets("log.tail"))["rows"]] == ["mine"]
        assert google.rows("users") == [{**dict.fromkeys(header(google, "users"), ""), "user_id": "9", "name": "Nine"}]
        await sheets("sync")
        assert [row["event"] for row in (await sheets("log.tail"))["rows"]] == ["mine"]
    async with at_google(tmp_path / "2", google, private_key, cache_age=3600) as sheets:
        calls = len(google.calls)
        await asyncio.gather(*(sheets("users.get", user_id=str(number)) for number in range(100)))
        # To find the worksheets and their columns takes two; the rows of all take one.
        assert len(google.calls) - calls == 3


async def test_stale_copy_is_served_while_google_fails(tmp_path: Path, google: Google, private_key: str) -> None:
    async with at_google(tmp_path, google, private_key) as sheets:
        await sheets("users.register", user_id="1", name="One")
        await sheets.written()
        assert (await sheets("users.get", user_id="1"))["age"] < 30
        google.fail("the-book", times=10**6)
        assert (await sheets("users.get", user_id="1"))["user"]["name"] == "One"
        await sheets.host.supervisor.unload("sheets")
        # A new worker has it, too, and continues the count.
        assert (await sheets("states.increment", name="n"))["value"] == 1
        assert (await sheets("users.get", user_id="1"))["user"]["name"] == "One"
        # Of the end of the log nothing is known.
        assert isinstance(await error_of(sheets("log.tail")), UpstreamError)
        google.faults.clear()
        await sheets.written()
        assert [row["value"] for row in google.rows("states")] == [1]


async def test_a_copy_is_served_soon_while_a_call_hangs(
    tmp_path: Path, google: Google, private_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "PATIENCE", 0.2)
    async with at_google(tmp_path, google, private_key, isolation="inline", timeout=3600) as sheets:
        await sheets("users.register", user_id="1", name="One")
        await sheets.written()
        assert (await sheets("users.get", user_id="1"))["age"] < 30
        google.fail("GET", act="hang", seconds=3600)
        responses = await within(asyncio.gather(*(sheets("users.get", user_id="1") for _ in range(5))))
        assert {response["user"]["name"] for response in responses} == {"One"}
        assert all(response["age"] >= 0.2 for response in responses)


async def test_two_hosts_on_one_spreadsheet_never_write_over_each_other(
    tmp_path: Path, google: Google, private_key: str
) -> None:
    google.latency = 0.002
    async with at_google(tmp_path / "a", google, private_key, batch_rows=7) as one:
        # Its worker is there before the other host looks what processes there are.
        await one("status")
        async with at_google(tmp_path / "b", google, private_key, batch_rows=7) as two:
            await _both_write(google, one, two)


async def _both_write(google: Google, one: Client, two: Client) -> None:
    # Both make the worksheets at the same time, too.
    keys = {}
    for name, sheets in (("one", one), ("two", two)):
        responses = [sheets("log.append", user_id=name, event=str(number)) for number in range(60)]
        keys[name] = asyncio.ensure_future(_in_order(responses))
    acknowledged = {name: await task for name, task in keys.items()}
    for sheets in (one, two):
        await sheets("users.register", user_id=f"only {id(sheets)}")
        await sheets.written()
    rows = google.rows("log")
    assert len(rows) == 120
    for name, mine in acknowledged.items():
        assert [row["row_key"] for row in rows if row["user_id"] == name] == mine
    assert len(google.rows("users")) == 2
    await one("states.set", name="n", value=1)
    await one.written()
    assert (await two("states.get", name="n"))["value"] == 1


async def _in_order(responses: list[Any]) -> list[str]:
    return [key for response in responses for key in (await response)["keys"]]


async def test_a_local_workbook_moves_to_google_by_sync(tmp_path: Path, google: Google, private_key: str) -> None:
    async with local(tmp_path) as sheets:
        await sheets("users.register", user_id="1", name="One")
        keys = await sheets("log.append", rows=[{"event": str(number)} for number in range(30)], key="the rows")
        await sheets("states.set", name="n", value={"a": 1})
    google.sheets.append(Sheet(5, "users", cells=[["user_id", "name", "status", "registered_at", "approved_at"]]))
    async with at_google(tmp_path, google, private_key) as sheets:
        status = await sheets("status")
        assert (status["mode"], "sync with to=google" in status["note"]) == ("local", True)
        assert isinstance(await error_of(sheets("sync", to="google")), UpstreamBadRequest)
        google.sheets.remove(google.sheet("users"))
        calls = len(google.calls)
        tried = await sheets("sync", to="google", dry_run=True)
        assert (tried["mode"], tried["moved"]) == ("local", 32)
        assert len(google.calls) - calls == 1
        await sheets("log.append", event="30")
        moved = await sheets("sync", to="google")
        assert (moved["mode"], moved["complete"], moved["moved"], moved["pending"]) == ("google", True, 33, 0)
        assert [row["event"] for row in google.rows("log")] == [str(number) for number in range(31)]
        assert [row["name"] for row in google.rows("users")] == ["One"]
        assert (await sheets("states.get", name="n"))["value"] == {"a": 1}
        await sheets("log.append", event="31")
        repeated = await sheets("log.append", rows=[{"event": str(number)} for number in range(30)], key="the rows")
        assert repeated["keys"] == keys["keys"]
        again = await sheets("sync", to="google")
        assert (again["moved"], len(google.rows("log"))) == (0, 32)
        assert (await sheets("status"))["note"] is None
    # It stays there, and says so when the key is gone.
    async with local(tmp_path, spreadsheet=BOOK) as sheets:
        assert "the tabs are in the spreadsheet the-book" in (await error_of(sheets("status"))).message
    async with local(tmp_path, backend="local") as sheets:
        assert (await sheets("users.get", user_id="1"))["user"]["name"] == "One"


async def test_disconnect_does_not_stop_the_move_of_a_local_workbook(
    tmp_path: Path, google: Google, private_key: str
) -> None:
    async with local(tmp_path) as sheets:
        await sheets("log.append", rows=[{"event": str(number)} for number in range(10_000)])
    async with at_google(tmp_path, google, private_key, flush_after=3600, batch_rows=10_000) as sheets:
        await sheets("status")
        moving = asyncio.ensure_future(sheets("sync", to="google"))
        # The worksheets are there: now the rows are put into the outbox, which takes a while.
        await until(lambda: any(row == "POST the-book/values:batchUpdate" for row in google.calls))
        await asyncio.sleep(0.03)
        moving.cancel()
        await asyncio.gather(moving, return_exceptions=True)
        await sheets("log.append", event="10000")
        assert (await sheets("log.tail", limit=1))["rows"][0]["event"] == "10000"
        await sheets("sync", to="google")
        await sheets.written()
        assert [row["event"] for row in google.rows("log")] == [str(number) for number in range(10_001)]


async def test_log_is_read_whole_while_it_moves(tmp_path: Path, google: Google, private_key: str) -> None:
    async with local(tmp_path) as sheets:
        await sheets("log.append", rows=[{"event": str(number)} for number in range(3_000)])
    async with at_google(tmp_path, google, private_key) as sheets:
        moving = asyncio.ensure_future(sheets("sync", to="google"))
        lengths = set()
        while not moving.done():
            lengths.add(len((await sheets("log.tail", limit=10))["rows"]))
        await moving
        assert lengths == {10}


async def test_backend_google_moves_what_is_local_at_activation(
    tmp_path: Path, google: Google, private_key: str
) -> None:
    async with local(tmp_path) as sheets:
        await sheets("log.append", event="one")
    async with at_google(tmp_path, google, private_key, backend="google") as sheets:
        await sheets("log.append", event="two")
        await sheets.written()
        assert [row["event"] for row in google.rows("log")] == ["one", "two"]


async def test_log_and_csv_include_pending_rows(tmp_path: Path, google: Google, private_key: str) -> None:
    async with at_google(tmp_path, google, private_key, log_cache=5) as sheets:
        await sheets("log.append", rows=[{"event": str(number), "user_id": str(number % 2)} for number in range(20)])
        await sheets.written()
        google.fail("POST", times=10**6)
        await sheets("log.append", event="20", user_id="0")
        # Another host's row, and rows that a person has deleted.
        google.sheet("log").cells.append(["k", "2026", 0, "typed"])
        del google.sheet("log").cells[1:4]
        tail = await sheets("log.tail", limit=4)
        assert [row["event"] for row in tail["rows"]] == ["18", "19", "typed", "20"]
        assert [row["event"] for row in (await sheets("log.tail", limit=5, user_id="0"))["rows"]] == [
            "16",
            "18",
            "typed",
            "20",
        ]
        assert "log_cache" in (await error_of(sheets("log.tail", limit=6))).message
        exported = await sheets("export", tab="log")
        assert exported["rows"] == 19
        assert exported["csv"].splitlines()[-1].split(",")[3] == "20"


async def test_next_worker_writes_what_an_unload_could_not_drain(
    tmp_path: Path, google: Google, private_key: str
) -> None:
    async with at_google(tmp_path, google, private_key, flush_after=3600) as sheets:
        await sheets("log.append", event="one")
        await sheets.host.supervisor.unload("sheets")
        assert [row["event"] for row in google.rows("log")] == ["one"]
        assert await sheets.host.supervisor.pending_work.counts() == {}
        google.fail("the-book", times=10**6)
        await sheets("log.append", event="two")
        receipt = await within(sheets.host.supervisor.unload("sheets"))
        assert receipt.exit == "exit code 0"
        assert await sheets.host.supervisor.pending_work.counts() == {"sheets": 1}
        google.faults.clear()
        await sheets("sync")
        assert [row["event"] for row in google.rows("log")] == ["one", "two"]


async def test_hanging_call_delays_an_unload_until_its_deadline_only(
    tmp_path: Path, google: Google, private_key: str
) -> None:
    async with at_google(tmp_path, google, private_key, timeout=3600, settle=0) as sheets:
        await sheets("log.append", event="one")
        await sheets.written()
        google.fail(":append", act="hang", when="after", seconds=3600)
        await sheets("log.append", event="two")
        await until(lambda: len(google.rows("log")) == 2)
        await within(sheets.host.supervisor.unload("sheets"))
        # The next worker sees that the row is there.
        await sheets.written()
        assert [row["event"] for row in google.rows("log")] == ["one", "two"]


async def test_a_full_spreadsheet_is_seen_before_google_refuses_it(
    tmp_path: Path, google: Google, private_key: str
) -> None:
    google.sheets[0].rows, google.sheets[0].columns = 1_000_000, 10
    async with at_google(tmp_path, google, private_key) as sheets:
        await sheets("log.append", event="one")
        synced = await sheets("sync")
        assert "the spreadsheet is full" in synced["error"]
        assert google.count(":append") == 0
        google.sheets[0].rows = 10
        await sheets.written()
        assert len(google.rows("log")) == 1


async def test_credentials_may_be_in_a_file(tmp_path: Path, google: Google, private_key: str) -> None:
    path = tmp_path / "key.json"
    path.write_text(json.dumps(google.key(private_key)))
    common: dict[str, Any] = {"spreadsheet": f"https://docs.google.com/spreadsheets/d/{BOOK}/edit#gid=0"}
    common |= {"endpoint": google.url, **QUICK, **PLENTY}
    async with local(tmp_path / "a", credentials_file=str(path), **common) as sheets:
        await sheets("log.append", event="one")
        await sheets.written()
    async with local(tmp_path / "b", secrets={"GOOGLE_APPLICATION_CREDENTIALS": str(path)}, **common) as sheets:
        await sheets("log.append", event="two")
        await sheets.written()
    gcloud = tmp_path / ".config/gcloud/application_default_credentials.json"
    gcloud.parent.mkdir(parents=True)
    path.rename(gcloud)
    found = {"HOME": str(tmp_path)}
    async with local(tmp_path / "c", secrets=found, application_default=True, **common) as sheets:
        await sheets("log.append", event="three")
        await sheets.written()
    assert [row["event"] for row in google.rows("log")] == ["one", "two", "three"]
    assert google.scopes == {"https://www.googleapis.com/auth/spreadsheets"}


WHERE_TO = """
import logging, sys, threading
asked = []
sys.addaudithook(lambda event, args: asked.append(args[:2]) if event == "socket.getaddrinfo" else None)
from sheets.connection import connect
from sheets.settings import read_settings
settings = read_settings(eval(sys.argv[1]), {})
client = connect(settings, logging.getLogger())
client.fetch_sheet_metadata(settings.spreadsheet, {})
for thread in threading.enumerate():  # google-auth asks in one of its own
    if thread is not threading.main_thread():
        thread.join(20)
print({host for host, port in asked})
"""


@pytest.mark.parametrize("way", ["credentials_file", "application_default"])
async def test_nobody_is_asked_but_the_api_and_the_token_server(
    way: str, tmp_path: Path, google: Google, private_key: str
) -> None:
    path = tmp_path / ".config/gcloud/application_default_credentials.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(google.key(private_key)))
    config = {**DEFAULTS, "spreadsheet": BOOK, "endpoint": google.url}
    config[way] = str(path) if way == "credentials_file" else True
    command = [sys.executable, "-c", WHERE_TO, repr(config)]
    environ = {"HOME": str(tmp_path), "PATH": ""}
    asking = asyncio.to_thread(subprocess.run, command, env=environ, capture_output=True, text=True, timeout=60)
    done = await within(asking)
    assert done.stdout.strip() == "{'127.0.0.1'}", done.stdout + done.stderr


async def test_quota_holds_for_hosts_that_share_it_and_later_workers(
    tmp_path: Path, google: Google, private_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A minute is two seconds here, which the handlers are told in this process, and two more: on a busy machine
    # a call takes that long from being counted here to being counted there.
    google.quota, google.minute = 12, 2.0
    monkeypatch.setattr(quota, "WINDOW", 4.0)
    half = {"isolation": "inline", "writes_per_minute": 6, "reads_per_minute": 6}
    async with (
        at_google(tmp_path / "a", google, private_key, **half) as one,
        at_google(tmp_path / "b", google, private_key, **half) as two,
    ):
        hosts, started_at = {"one": one, "two": two}, time.monotonic()
        # What the makers of the worksheets refuse each other is not the quota's matter.
        await _append_and_write(one, "one", 0)
        before, number = google.refused, 0
        while time.monotonic() < started_at + 8:
            number += 1
            await asyncio.gather(*(_append_and_write(sheets, name, number) for name, sheets in hosts.items()))
            status = await one("status")
            assert status["writes"]["last_minute"] <= status["writes"]["limit"] == 6
            if number % 3 == 0:
                await asyncio.gather(*(sheets.host.supervisor.unload("sheets") for sheets in hosts.values()))
        assert google.refused == before
        # It was what kept them from writing more.
        assert google.writes + google.reads > 24
        for name in hosts:
            events = [row["event"] for row in google.rows("log") if row["user_id"] == name]
            assert events == [str(event) for event in range(name == "two", number + 1)]


async def _append_and_write(sheets: Client, name: str, event: int) -> None:
    await sheets("log.append", user_id=name, event=str(event))
    await sheets.written()


async def test_calls_of_a_killed_worker_count_in_the_quota(tmp_path: Path, google: Google, private_key: str) -> None:
    async with at_google(tmp_path, google, private_key) as sheets:
        await sheets("log.append", event="one")
        await sheets.written()
        used = (await sheets("status"))["writes"]
        assert used["last_minute"] == used["since_start"] == google.writes
        os.kill(sheets.host.pid("sheets"), signal.SIGKILL)
        await until(lambda: sheets.host.state("sheets") == "cold")
        again = (await sheets("status"))["writes"]
        assert (again["last_minute"], again["since_start"]) == (used["last_minute"], 0)


@pytest.mark.parametrize("number", ["nobody-has-it"])
async def test_a_spreadsheet_that_is_not_there_is_told(
    tmp_path: Path, google: Google, private_key: str, number: str
) -> None:
    async with at_google(tmp_path, google, private_key, spreadsheet=number) as sheets:
        await sheets("log.append", event="one")
        synced = await sheets("sync")
        assert f"the spreadsheet '{number}' is missing" in synced["error"]
        assert synced["pending"] == 1


@pytest.mark.parametrize("isolation", ["inline", "exec"])
async def test_same_in_the_hosts_process_and_a_fresh_interpreter(
    isolation: str, tmp_path: Path, google: Google, private_key: str
) -> None:
    async with at_google(tmp_path, google, private_key, isolation=isolation) as sheets:
        for number in range(3):
            await sheets("log.append", event=str(number))
            await sheets.host.supervisor.unload("sheets")
        assert [row["event"] for row in google.rows("log")] == ["0", "1", "2"]
        assert sheets.host.supervisor.status("sheets").generation == 3
