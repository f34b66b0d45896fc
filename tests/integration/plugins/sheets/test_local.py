"""The handler without credentials: the same tabs in a local workbook, in a real worker."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from handler_host.plugin import ActivationFailed, ConfigError, HostError, InvalidInput, NotFound, OutOfResources
from sheets import outbox, repeats, store
from sheets.store import Store
from sheets.types import LogAppend
from tests.integration.plugins.sheets.hosts import local
from tests.support import error_of, supervisor_harness, until, within


async def test_users_are_registered_approved_changed_and_listed(tmp_path: Path) -> None:
    async with local(tmp_path, users_columns=["email", "age"]) as sheets:
        new = await sheets("users.register", user_id="7", name="Ann", fields={"email": "a@b", "age": 30})
        assert new["created"]
        assert new["user"]["status"] == "pending"
        assert new["user"]["fields"] == {"email": "a@b", "age": 30}
        again = await sheets("users.register", user_id="7", name="Somebody else")
        assert (again["created"], again["user"]["name"]) == (False, "Ann")
        approved = (await sheets("users.approve", user_id="7", by="root"))["user"]
        assert (approved["status"], approved["approved_by"]) == ("approved", "root")
        assert (await sheets("users.approve", user_id="7", by="other"))["user"] == approved
        changed = (await sheets("users.update", user_id="7", name="Anna", fields={"age": 31}))["user"]
        assert (changed["name"], changed["fields"], changed["status"]) == (
            "Anna",
            {"email": "a@b", "age": 31},
            "approved",
        )
        assert (await sheets("users.get", user_id="7"))["user"] == changed
        assert (await sheets("users.get", user_id="8"))["user"] is None
        for number in range(5):
            await sheets("users.register", user_id=f"n{number}")
        first = await sheets("users.list", limit=4)
        assert (first["total"], first["next"]) == (6, 4)
        second = await sheets("users.list", limit=4, cursor=first["next"])
        assert second["next"] is None
        names = [user["user_id"] for page in (first, second) for user in page["users"]]
        assert names == ["7", "n0", "n1", "n2", "n3", "n4"]
        assert [user["user_id"] for user in (await sheets("users.list", status="approved"))["users"]] == ["7"]


async def test_ids_of_users_may_be_numbers_and_are_kept_as_text(tmp_path: Path) -> None:
    async with local(tmp_path) as sheets:
        assert (await sheets("users.register", user_id=42))["user"]["user_id"] == "42"
        assert (await sheets("users.approve", user_id=42, by=7))["user"]["approved_by"] == "7"
        changed = await sheets("users.update", user_id="42", name="Ann")
        assert (await sheets("users.get", user_id=42))["user"] == changed["user"]
        await sheets("log.append", rows=[{"user_id": 42}, {"user_id": "42"}, {"event": "of nobody"}])
        assert [row["user_id"] for row in (await sheets("log.tail", user_id=42))["rows"]] == ["42", "42"]
        await sheets("states.set", name="n", user_id=42, value=1)
        assert (await sheets("states.increment", name="n", user_id="42"))["value"] == 2
        assert (await sheets("states.get", name="n", user_id=42))["value"] == 2
        assert (await sheets("states.delete", name="n", user_id=42))["deleted"]


async def test_the_log_keeps_its_order_and_is_read_from_its_end(tmp_path: Path) -> None:
    async with local(tmp_path, log_columns=["channel"]) as sheets:
        one = await sheets("log.append", user_id="7", event="start", text="hello", data={"n": [1, None]})
        assert (len(one["keys"]), one["pending"]) == (1, 0)
        rows = [{"user_id": str(n % 2), "event": f"e{n}", "at": f"2026-01-0{n + 1}"} for n in range(4)]
        many = await sheets("log.append", rows=[*rows, {"event": "=SUM(A1)", "fields": {"channel": "web"}}])
        assert len(set(many["keys"]) | set(one["keys"])) == 6
        tail = (await sheets("log.tail"))["rows"]
        assert [row["event"] for row in tail] == ["start", "e0", "e1", "e2", "e3", "=SUM(A1)"]
        assert tail[0]["data"] == {"n": [1, None]}
        assert tail[1]["at"] == "2026-01-01"
        assert tail[5]["fields"] == {"channel": "web"}
        assert [row["row_key"] for row in tail] == [*one["keys"], *many["keys"]]
        assert [row["event"] for row in (await sheets("log.tail", limit=1, user_id="1"))["rows"]] == ["e3"]


async def test_states_hold_any_json_and_are_counted_up_in_one_step(tmp_path: Path) -> None:
    values = [0, -1.5, True, None, "", "text", "5", '"q"', "=1+1", [1, {"a": None}], {"x": "y"}, 2**60, "NaN", "\n"]
    async with local(tmp_path) as sheets:
        for number, value in enumerate(values):
            await sheets("states.set", name=f"v{number}", value=value)
            got = (await sheets("states.get", name=f"v{number}"))["value"]
            assert (type(got), got) == (type(value), value)
        assert (await sheets("states.get", name="nothing"))["found"] is False
        # Many at a time: each one counts.
        await asyncio.gather(*(sheets("states.increment", name="n", user_id="7") for _ in range(40)))
        assert (await sheets("states.get", name="n", user_id="7"))["value"] == 40
        assert (await sheets("states.get", name="n"))["found"] is False
        assert (await sheets("states.increment", name="n", user_id="7", by=-0.5))["value"] == 39.5
        assert (await sheets("states.delete", name="n", user_id="7"))["deleted"] is True
        assert (await sheets("states.delete", name="n", user_id="7"))["deleted"] is False
        assert (await sheets("states.increment", name="n", user_id="7", by=3))["value"] == 3


BAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("users.get", {"user_id": ""}, "user_id", "length >= 1"),
    ("users.register", {"user_id": "7", "nmae": "x"}, "nmae", "unknown field"),
    ("users.register", {"user_id": "7", "fields": {"emial": 1}}, "fields.emial", "did you mean 'email'"),
    ("users.update", {"user_id": "7", "name": "x" * 50_001}, "name", "a cell holds 50000"),
    ("log.append", {}, "event", "the row is empty"),
    ("log.append", {"rows": [{"event": "a"}, {"text": "x" * 50_001}]}, "rows[1].text", "a cell holds 50000"),
    # Google counts units of UTF-16.
    ("log.append", {"text": "😀" * 25_001}, "text", "50002 characters"),
    ("log.append", {"text": "a\x00"}, "text", "NUL"),
    ("log.append", {"event": "a", "rows": [{"event": "b"}]}, "rows", "either one row"),
    ("log.append", {"rows": [{"event": "a"}] * 10_001}, "rows", "length <= 10000"),
    ("log.tail", {"limit": 0}, "limit", ">= 1"),
    ("states.increment", {"name": "text"}, "name", "not a number"),
    ("states.increment", {"name": "huge", "by": 1e308}, "by", "too large for a cell"),
    ("states.set", {"name": "n"}, "value", "missing"),
    ("export", {"tab": "user"}, "tab", "user"),
    ("sync", {"to": "google"}, "to", "set spreadsheet in [handlers.sheets]"),
]


async def test_bad_input_is_refused_whole_with_field_and_reason(tmp_path: Path) -> None:
    async with local(tmp_path, users_columns=["email"]) as sheets:
        await sheets("users.register", user_id="7", name="Ann")
        await sheets("states.set", name="text", value="words")
        await sheets("states.set", name="huge", value=1.7e308)
        for operation, request, param, text in BAD:
            error = await error_of(sheets(operation, **request))
            assert isinstance(error, InvalidInput), error
            assert text in error.message
            assert param in f"{error.param} {error.message}"
        assert (await sheets("status"))["rows"] == {"users": 1, "log": 0, "states": 2}
        assert (await sheets("users.get", user_id="7"))["user"]["name"] == "Ann"


async def test_a_request_that_is_repeated_with_its_key_is_done_once(tmp_path: Path) -> None:
    rows = [{"event": "a", "data": {"x": 1, "y": 2}}, {"event": "b"}]
    async with local(tmp_path) as sheets:
        first = await sheets("log.append", rows=rows, key="one")
        again = [{"event": "a", "data": {"y": 2, "x": 1}}, {"event": "b"}]
        responses = await asyncio.gather(*(sheets("log.append", rows=again, key="one") for _ in range(5)))
        assert all(response == first for response in responses)
        assert (await sheets("states.increment", name="n", by=5, key="one"))["value"] == 5
        os.kill(sheets.host.pid("sheets"), signal.SIGKILL)
        await until(lambda: sheets.host.state("sheets") == "cold")
        assert (await sheets("log.append", rows=rows, key="one")) == first
        await sheets.host.supervisor.unload("sheets")
        assert (await sheets("states.increment", name="n", by=5, key="one"))["value"] == 5
        assert (await sheets("states.increment", name="n", by=5, key="two"))["value"] == 10
        assert (await sheets("log.append", rows=rows, key="one")) == first
        await sheets("log.append", rows=rows)
        assert [row["event"] for row in (await sheets("log.tail"))["rows"]] == ["a", "b", "a", "b"]
        for operation, request in (("log.append", {"event": "c"}), ("states.increment", {"name": "n", "by": 6})):
            error = await error_of(sheets(operation, **request, key="one"))
            assert isinstance(error, InvalidInput)
            assert "it came with another request before" in error.message
        # What was refused is not remembered.
        await sheets("states.set", name="m", value="text")
        assert isinstance(await error_of(sheets("states.increment", name="m", key="four")), InvalidInput)
        await sheets("states.set", name="m", value=1)
        assert (await sheets("states.increment", name="m", key="four"))["value"] == 2


async def test_keys_are_forgotten_after_a_day(tmp_path: Path) -> None:
    kept = Store(tmp_path, lambda _: None)
    await kept.open()
    done: list[int] = []

    def work() -> int:
        done.append(len(done))
        return done[-1]

    async def ask() -> Any:
        request = LogAppend(event="e", key="k")
        return await kept.run(lambda connection: repeats.once(connection, "log.append", request, work))

    assert [await ask(), await ask()] == [0, 0]
    await kept.run(lambda connection: connection.execute("UPDATE answers SET at = at - ?", (repeats.KEPT - 60,)))
    assert await ask() == 0
    await kept.run(lambda connection: connection.execute("UPDATE answers SET at = at - 120"))
    assert await ask() == 1
    await kept.close()


async def test_who_is_not_there_cannot_be_changed(tmp_path: Path) -> None:
    async with local(tmp_path) as sheets:
        for operation in ("users.approve", "users.update"):
            error = await error_of(sheets(operation, user_id="9"))
            assert isinstance(error, NotFound)
            assert "users.register" in error.message


async def test_what_was_acknowledged_is_there_after_a_kill(tmp_path: Path) -> None:
    async with local(tmp_path) as sheets:
        acknowledged: list[str] = []

        async def append_until_it_ends() -> None:
            with contextlib.suppress(HostError):
                while True:
                    acknowledged.extend((await sheets("log.append", event="e"))["keys"])

        work = [asyncio.ensure_future(append_until_it_ends()) for _ in range(4)]
        await until(lambda: len(acknowledged) > 20)
        os.kill(sheets.host.pid("sheets"), signal.SIGKILL)
        await within(asyncio.gather(*work))
        await until(lambda: sheets.host.state("sheets") == "cold")
        kept = [row["row_key"] for row in (await sheets("log.tail", limit=1000))["rows"]]
        assert set(acknowledged[-500:]) <= set(kept)
        assert len(set(kept)) == len(kept)


async def test_status_says_local_and_imports_nothing_of_google(tmp_path: Path) -> None:
    async with local(tmp_path) as sheets:
        await sheets("log.append", event="a")
        status = await sheets("status")
        assert (status["mode"], status["spreadsheet"], status["pending"]) == ("local", None, 0)
        assert (status["reads"], status["writes"], status["note"]) == (None, None, None)
        maps = Path(f"/proc/{sheets.host.pid('sheets')}/maps").read_text()
        assert "_sqlite3" in maps
        assert "cryptography" not in maps
        assert await sheets.host.supervisor.pending_work.counts() == {}


async def test_a_tab_is_exported_as_csv_and_formulas_are_made_harmless(tmp_path: Path) -> None:
    async with local(tmp_path) as sheets:
        rows = [{"event": "=HYPERLINK(1)", "text": 'say "hi",\nyou', "data": -1}, {"event": "-1"}]
        await sheets("log.append", rows=rows + [{"event": str(number)} for number in range(600)])
        response = await sheets("export", tab="log")
        assert response["rows"] == 602
        table = list(csv.DictReader(io.StringIO(response["csv"], newline="")))
        assert len(table) == 602
        assert (table[0]["event"], table[0]["text"], table[0]["data"]) == ("'=HYPERLINK(1)", 'say "hi",\nyou', "-1")
        plain = await sheets("export", tab="log", escape=False)
        assert [row["event"] for row in csv.DictReader(io.StringIO(plain["csv"]))][:2] == ["=HYPERLINK(1)", "-1"]
        parts = [part async for part in sheets.host.chunks("sheets", "export", tab="log")]
        assert len(parts) == 3
        assert "".join(part["csv"] for part in parts) == response["csv"]
        assert (await sheets("export", tab="users"))["csv"].startswith("user_id,name,status,")


@pytest.mark.parametrize(
    ("settings", "secrets", "text"),
    [
        ({"spreadsheet": "https://example.org/x y"}, {}, "neither a URL of a spreadsheet"),
        ({"users_tab": "log"}, {}, "three different names"),
        ({"log_columns": ["text"]}, {}, "log_columns: 'text'"),
        ({"backend": "google"}, {}, "spreadsheet is missing: set spreadsheet"),
        ({"backend": "google", "spreadsheet": "abc"}, {}, "credentials are missing: set GOOGLE_SERVICE"),
        ({"credentials_file": "/nowhere/key.json"}, {}, "/nowhere/key.json cannot be read"),
        ({}, {"GOOGLE_SERVICE_ACCOUNT_JSON": "hunter2"}, "is not JSON"),
        ({}, {"GOOGLE_SERVICE_ACCOUNT_JSON": '{"private_key": "hunter2"}'}, "client_email, token_uri missing"),
        ({}, {"GOOGLE_APPLICATION_CREDENTIALS": "/nowhere/adc.json"}, "GOOGLE_APPLICATION_CREDENTIALS: "),
    ],
)
async def test_a_wrong_configuration_fails_without_showing_the_key(
    tmp_path: Path, settings: dict[str, object], secrets: dict[str, str], text: str
) -> None:
    async with local(tmp_path, secrets=secrets, **settings) as sheets:
        error = await error_of(sheets("status"))
        assert isinstance(error, ActivationFailed | ConfigError)
        assert text in error.message
        assert "hunter2" not in error.message


async def test_without_a_data_directory_it_says_what_to_set(tmp_path: Path) -> None:
    async with supervisor_harness(tmp_path, environ={}, installed=True) as host:
        error = await error_of(host.ask("sheets", "status"))
        assert "set data_dir" in error.message


async def test_a_missing_foreign_or_locked_file_is_an_error(tmp_path: Path) -> None:
    directory = tmp_path / "data/sheets"
    directory.mkdir(parents=True)
    path = directory / store.FILE_NAME
    path.write_text("this is not a database, but a text that is long enough for a header " * 20)
    async with local(tmp_path) as sheets:
        assert "restore it from a backup" in (await error_of(sheets("status"))).message
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    async with local(tmp_path) as sheets:
        assert "a later version of sheets (99)" in (await error_of(sheets("status"))).message


async def test_a_file_of_an_earlier_version_is_taken_over(tmp_path: Path) -> None:
    directory = tmp_path / "data/sheets"
    directory.mkdir(parents=True)
    with sqlite3.connect(directory / store.FILE_NAME) as connection:
        connection.executescript(f"{store.STEPS[0]} PRAGMA user_version=1;")
        connection.execute("INSERT INTO states (key, cells) VALUES (?, ?)", ('["", "n"]', '{"name": "n", "value": 41}'))
    connection.close()
    async with local(tmp_path) as sheets:
        assert (await sheets("states.increment", name="n", key="a"))["value"] == 42
        assert (await sheets("states.increment", name="n", key="a"))["value"] == 42


async def test_pending_work_is_neither_sorted_nor_scanned(tmp_path: Path) -> None:
    kept = Store(tmp_path, lambda _: None)
    await kept.open()
    asked: list[str] = []

    def use(connection: sqlite3.Connection) -> list[str]:
        connection.set_trace_callback(asked.append)
        outbox.batch(connection, 1000, 10**6)
        outbox.put_back(connection)
        outbox.newest_rows(connection, 500)
        outbox.put(connection, "states", "key", {"value": 1})
        connection.set_trace_callback(None)
        plans = [connection.execute(f"EXPLAIN QUERY PLAN {query}").fetchall() for query in asked if "outbox" in query]
        return [step[3] for plan in plans for step in plan]

    steps = await kept.run(use)
    await kept.close()
    assert sum("USING INDEX" in step for step in steps) >= 5
    assert not any(step.startswith("SCAN") for step in steps)
    # Those of the changed rows are sorted: each row is there once or twice.
    assert sum("TEMP B-TREE" in step for step in steps) == 1


async def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    # Root may write into any: a directory where a file should be stops it, too.
    (tmp_path / "sheets.lock").mkdir()
    with pytest.raises(ConfigError, match="cannot be written: Is a directory; data_dir must be writable"):
        await Store(tmp_path, lambda _: None).open()


async def test_broken_file_is_reported_and_nothing_acknowledged(tmp_path: Path) -> None:
    async with local(tmp_path) as sheets:
        await sheets("log.append", rows=[{"text": "x" * 10_000}] * 400)
        await sheets.host.supervisor.unload("sheets")
        path = tmp_path / "data/sheets" / store.FILE_NAME
        whole = path.read_bytes()
        path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
        for _ in range(2):
            error = await error_of(sheets("log.append", event="e"))
            assert isinstance(error, ActivationFailed | ConfigError | OutOfResources)
            assert f"{store.FILE_NAME} cannot be" in error.message
        # Restored, it has what it had.
        path.write_bytes(whole)
        await until(lambda: sheets.host.state("sheets") in ("cold", "active", "idle"))
        assert (await sheets("status"))["rows"]["log"] == 400


async def test_two_workers_never_have_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LOCK_WAIT", 0.1)
    first, second = Store(tmp_path, lambda _: None), Store(tmp_path, lambda _: None)
    await first.open()
    with pytest.raises(ConfigError, match="use a separate data_dir"):
        await second.open()
    await first.close()
    # One that goes is waited for.
    third = Store(tmp_path, lambda _: None)
    await third.open()
    with pytest.raises(OutOfResources, match="being unloaded"):
        await first.run(lambda _: None)
    await third.close()


async def test_failed_item_leaves_nothing_and_delays_no_other(tmp_path: Path) -> None:
    counts: list[int] = []
    kept = Store(tmp_path, counts.append)
    await kept.open()
    insert = "INSERT INTO outbox (tab, key, kind, cells) VALUES ('log', ?, 'append', '{}')"

    def fails(connection: sqlite3.Connection) -> None:
        connection.execute(insert, ("half",))
        raise ValueError("told to fail")

    results = await asyncio.gather(
        kept.run(lambda connection: connection.execute(insert, ("a",)).rowcount),
        kept.run(fails),
        kept.run(lambda connection: connection.execute(insert, ("b",)).rowcount),
        return_exceptions=True,
    )
    assert [results[0], results[2]] == [1, 1]
    assert isinstance(results[1], ValueError)
    rows = await kept.run(lambda connection: connection.execute("SELECT key FROM outbox").fetchall())
    assert rows == [("a",), ("b",)]
    assert counts[-1] == 2
    # If the disk is full or missing, the job fails, and the next one may succeed.
    limit = "PRAGMA max_page_count=1"
    await kept.run(lambda connection: connection.execute(limit))
    full = "database or disk is full; nothing of this request is stored"
    with pytest.raises(OutOfResources, match=full):
        await kept.run(lambda connection: connection.execute(insert, ("x" * 10**6,)))
    await kept.run(lambda connection: connection.execute("PRAGMA max_page_count=100000"))
    assert await kept.run(lambda connection: connection.execute(insert, ("c",)).rowcount) == 1
    await kept.close()


def test_the_plugin_imports_neither_gspread_nor_google_auth() -> None:
    code = "import sheets, sys; print([name for name in ('gspread', 'google.auth', 'requests') if name in sys.modules])"
    response = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert response.stdout.strip() == "[]"


class TestRemedies:
    """Only a damaged file must be moved away: any other one has rows that wait for the spreadsheet."""

    def test_a_full_disk(self, tmp_path: Path) -> None:
        connection = sqlite3.connect(tmp_path / "full.sqlite")
        connection.execute("CREATE TABLE t (x)")
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count={pages}")
        with pytest.raises(sqlite3.OperationalError) as full:
            connection.execute("INSERT INTO t VALUES (zeroblob(100000))")
        connection.close()
        assert "free space" in store._remedy(full.value)
        assert "free space" in store._remedy(store._as_sqlite(OSError(28, "No space left on device")))

    def test_a_damaged_file(self, tmp_path: Path) -> None:
        (tmp_path / "damaged.sqlite").write_text("not a database " * 100)
        with pytest.raises(ConfigError, match="move it away"):
            store._open(tmp_path / "damaged.sqlite")
