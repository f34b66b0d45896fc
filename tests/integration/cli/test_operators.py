"""The operators' commands, with the real host."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from handler_host.cli.client import Client
from tests.integration.cli.harness import COLUMNS, PARROT, TOKEN, Run, Terminal, WriteToml, get_admin, start_host
from tests.support import gone, install_plugin


def cells_by_name(text: str) -> dict[str, list[str]]:
    """Return the rows of a table by their first cell."""
    return {line.split()[0]: line.split() for line in text.splitlines()}


class TestPs:
    def test_lists_all_handlers(self, host: str, run: Run) -> None:
        assert run("load", "parrot").status == 0
        result = run("ps")
        rows = cells_by_name(result.out)
        titles = "NAME STATE GEN PID PSS LEARNED BUSY QUEUED IDLE EXPIRES REASON"
        assert rows["NAME"] == titles.split()
        assert rows["parrot"][1] == "idle"
        assert float(rows["parrot"][4]) > 1
        assert rows["parrot"][5] == "MB"
        assert rows["macaw"][1] == "cold"
        assert rows["keyless"][1] == "missing-secret"
        assert "MISSING_KEY" in result.out
        assert "\033" not in result.out

    def test_with_a_name(self, host: str, run: Run) -> None:
        run("load", "parrot")
        run("unload", "parrot")
        fields = dict(line.split(None, 1) for line in run("ps", "parrot").out.splitlines() if line)
        assert fields["plugin"] == "parrot 1.0"
        assert fields["title"] == "A parrot"
        assert fields["operations"] == "chat, count, echo"
        assert fields["last"].startswith("exit ")
        assert fields["state"] == "cold"

    def test_with_a_name_shows_the_version_that_runs(
        self, tmp_path: Path, run: Run, write_toml: WriteToml, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HANDLER_HOST_ADMIN_TOKEN", TOKEN)
        config = write_toml(f'[catalog]\nroots = ["{tmp_path}"]\ninclude_sys_path = false\n[defaults]\npreload = []\n')
        install_plugin(tmp_path, "parrot", PARROT)
        with start_host("--config", config) as (url, _):
            monkeypatch.setenv("HANDLER_HOST_URL", url)
            run("load", "parrot")
            install_plugin(tmp_path, "parrot", PARROT, version="2.0")
            run("rescan")
            running = "parrot 2.0 (running: 1.0, until `handler-host reload parrot`)"
            assert running in run("ps", "parrot").out
            run("reload", "parrot")
            run("load", "parrot")
            assert running not in run("ps", "parrot").out

    @pytest.mark.parametrize("command", [("ps",), ("top", "--once")])
    def test_a_host_that_reports_no_drain(
        self, host: str, run: Run, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
    ) -> None:
        """A host of an older release."""
        call_admin = Client.call_admin

        def without_drain(*arguments: Any, **options: Any) -> Any:
            response = call_admin(*arguments, **options)
            response.pop("draining", None)
            return response

        monkeypatch.setattr(Client, "call_admin", without_drain)
        assert "parrot" in run(*command).out
        assert "parrot" in run(*command, "--url", host, "--url", host.replace("127.0.0.1", "localhost")).out

    def test_at_a_terminal_is_coloured_and_cut(self, host: str) -> None:
        with Terminal("ps") as terminal:
            assert terminal.wait() == 0
            table = terminal.remaining()
        assert "\033[31mmissing-secret\033[0m" in table
        assert "\033[2mcold" in table
        lines = re.sub("\033.*?m", "", table).splitlines()
        assert max(map(len, lines)) <= COLUMNS
        assert any(line.endswith("…") for line in lines)

    def test_no_color(self, host: str) -> None:
        with Terminal("ps", NO_COLOR="1") as terminal:
            assert terminal.wait() == 0
            assert "\033" not in terminal.remaining()


def test_json_is_that_of_the_host(host: str, run: Run) -> None:
    names = [handler["name"] for handler in json.loads(run("ps", "--json").out)["handlers"]]
    assert names == [handler["name"] for handler in get_admin(host, "handlers")["handlers"]]
    assert json.loads(run("memory", "--json").out).keys() == get_admin(host, "memory").keys()
    assert json.loads(run("ps", "macaw", "--json").out).keys() == get_admin(host, "handlers/macaw").keys()
    assert json.loads(run("rescan", "--json").out)["added"] == []


class TestLoadAndUnload:
    def test_receipts(self, host: str, run: Run) -> None:
        loaded = run("load", "parrot", "macaw")
        assert loaded.status == 0
        first, second = loaded.out.splitlines()
        assert re.fullmatch(r"parrot: activated generation \d+, pid \d+, [\d.]+ MB in .+", first)
        assert second.startswith("macaw: activated generation ")
        assert run("load", "parrot").out.startswith("parrot: already active, generation ")

        handlers = get_admin(host, "handlers")["handlers"]
        pids = [handler["pid"] for handler in handlers if handler["name"] in ("parrot", "macaw")]
        unloaded = run("unload", "parrot", "macaw", "--deadline", "5s")
        assert unloaded.status == 0
        first, _ = unloaded.out.splitlines()
        assert re.fullmatch(r"parrot: unloaded generation \d+, .+ freed in .+ \(0 drained, 0 killed\)", first)
        assert all(map(gone, pids))
        assert run("unload", "parrot").out == "parrot: has no worker, state cold\n"

    def test_receipts_as_json_are_one_a_line(self, host: str, run: Run) -> None:
        loaded = [json.loads(line) for line in run("load", "parrot", "macaw", "--json").out.splitlines()]
        assert [receipt["handler"] for receipt in loaded] == ["parrot", "macaw"]
        assert all(receipt["already"] is False for receipt in loaded)
        (unloaded,) = (json.loads(line) for line in run("unload", "macaw", "--json").out.splitlines())
        assert unloaded["generation"] == loaded[1]["generation"]
        assert unloaded["killed"] == 0

    def test_all(self, host: str, run: Run) -> None:
        run("load", "macaw")
        assert run("unload", "--all").out.startswith("macaw: unloaded generation ")
        result = run("unload", "--all")
        assert (result.status, result.out, result.err) == (0, "", "no handler has a worker\n")

    def test_without_a_name_suggests_all(self, host: str, run: Run) -> None:
        result = run("unload")
        assert result.status == 2
        assert "handler-host unload --all" in result.err
        assert run("unload", "parrot", "--all").status == 2

    def test_no_wait_returns_at_once(self, host: str, run: Run) -> None:
        assert run("load", "parrot", "--no-wait").out == "parrot: activation started\n"
        assert run("load", "parrot").status == 0  # waits for the same activation
        assert run("unload", "parrot", "--no-wait").out == "parrot: unload started\n"

    def test_reload_unloads(self, host: str, run: Run) -> None:
        run("load", "parrot")
        assert run("reload", "parrot").out.startswith("parrot: unloaded generation ")


class TestRefusal:
    def test_of_one_handler_does_not_stop_the_others(self, host: str, run: Run) -> None:
        run("load", "parrot")
        result = run("unload", "nobody", "parrot")
        assert result.status == 1
        assert result.out.startswith("parrot: unloaded")
        assert "'nobody'" in result.err
        assert "(unknown_handler, request " in result.err

    def test_as_json(self, host: str, run: Run) -> None:
        result = run("load", "nobody", "--json")
        assert result.status == 1
        assert json.loads(result.out)["error"]["code"] == "unknown_handler"
        assert "unknown_handler" in result.err

    def test_failed_import_has_no_control_characters(self, host: str, run: Run) -> None:
        result = run("load", "broken")
        assert result.status == 1
        assert "such thing" in result.err
        assert "activation_failed" in result.err
        table = run("ps")
        assert cells_by_name(table.out)["broken"][1] == "failed"
        assert "\x1b" not in result.err + table.out


class TestToken:
    def test_from_a_file(self, host: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HANDLER_HOST_ADMIN_TOKEN", "a wrong one")
        (tmp_path / "token").write_text(f"{TOKEN}\n")
        assert run("ps", "--token-file", str(tmp_path / "token")).status == 0
        missing = run("ps", "--token-file", str(tmp_path / "nothing"))
        assert missing.status == 2
        assert "nothing: cannot read it: No such file" in missing.err
        monkeypatch.setenv("HANDLER_HOST_ADMIN_TOKEN", TOKEN)

    def test_missing_and_wrong_have_a_remedy(self, host: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            patch.delenv("HANDLER_HOST_ADMIN_TOKEN")
            missing = run("ps")
            patch.setenv("HANDLER_HOST_ADMIN_TOKEN", "wrong")
            wrong = run("ps")
        assert missing.status == wrong.status == 1
        assert "set HANDLER_HOST_ADMIN_TOKEN (invalid_key" in missing.err
        assert "not the admin token" in wrong.err


def test_pin_until_unpin(host: str, run: Run) -> None:
    assert run("pin", "parrot").out == "parrot: pinned, cold\n"
    assert get_admin(host, "handlers/parrot")["pin"] is True
    (line,) = (line for line in run("ps").out.splitlines() if line.startswith("parrot "))
    assert line.split()[-1] == "pinned"
    assert run("unpin", "parrot").out == "parrot: not pinned, cold\n"
    assert "pinned" not in run("ps").out


def test_forget_discards_learned_memory(host: str, run: Run) -> None:
    assert run("forget", "parrot").out == "parrot: learned memory discarded, state cold\n"
    unknown = run("forget", "parot")
    assert unknown.status == 1
    assert "parrot" in unknown.err


def test_memory_adds_up(host: str, run: Run) -> None:
    run("load", "parrot")
    processes, budget, handlers = run("memory").out.split("\n\n")
    rows = cells_by_name(processes)
    assert rows["host"][2:4] == [rows["host"][2], "MB"]
    parts = [rows["host"][2], rows["fork"][3], rows["parrot"][2]]
    assert sum(map(float, parts)) == pytest.approx(float(rows["total"][1]), abs=0.3)
    assert budget.startswith("limit ")
    assert re.search(r"^used [\d.]+ MB \(of it [\d.]+ MB the kernel can drop\), reserved ", budget, re.MULTILINE)
    assert "evicted next: parrot (" in budget
    assert cells_by_name(handlers)["parrot"][1] == "idle"
    assert "(learned)" in handlers


def test_rescan_shows_what_cannot_run(host: str, run: Run) -> None:
    result = run("rescan")
    assert result.status == 0
    assert "nothing has changed" in result.out
    assert "cannot run: keyless: " in result.out
