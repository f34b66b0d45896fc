"""The operators' commands, against the real host."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli.running import TOKEN, WIDTH, Run, Terminal
from tests.support import gone


def api(url: str, path: str) -> Any:
    """Return what the host answers to who asks without the command line."""
    request = urllib.request.Request(url + path, headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as response:
        return json.load(response)


def lines(text: str) -> dict[str, list[str]]:
    """Return the rows of a table by their first cell."""
    return {line.split()[0]: line.split() for line in text.splitlines()}


def test_ps_lists_all_handlers_with_their_states(host: str, run: Run) -> None:
    assert run("load", "parrot").status == 0
    result = run("ps")
    rows = lines(result.out)
    assert rows["NAME"] == [
        "NAME",
        "STATE",
        "GEN",
        "PID",
        "PSS",
        "LEARNED",
        "BUSY",
        "QUEUED",
        "IDLE",
        "EXPIRES",
        "REASON",
    ]
    assert rows["parrot"][1] == "idle"
    assert float(rows["parrot"][4]) > 1
    assert rows["parrot"][5] == "MB"
    assert rows["macaw"][1] == "cold"
    assert rows["keyless"][1] == "missing-secret"
    assert "KEY_OF_NOBODY" in result.out
    assert "\033" not in result.out


def test_ps_with_a_name_tells_all_of_one_handler(host: str, run: Run) -> None:
    run("load", "parrot")
    run("unload", "parrot")
    told = dict(line.split(None, 1) for line in run("ps", "parrot").out.splitlines() if line)
    assert told["plugin"] == "parrot 1.0"
    assert told["title"] == "A parrot"
    assert told["operations"] == "chat, count, echo"
    assert told["last"].startswith("exit ")
    assert told["state"] == "cold"


def test_json_is_what_the_host_says(host: str, run: Run) -> None:
    shown = json.loads(run("ps", "--json").out)
    assert [one["name"] for one in shown["handlers"]] == [
        one["name"] for one in api(host, "/admin/handlers")["handlers"]
    ]
    assert json.loads(run("memory", "--json").out).keys() == api(host, "/admin/memory").keys()
    assert json.loads(run("ps", "macaw", "--json").out).keys() == api(host, "/admin/handlers/macaw").keys()
    assert json.loads(run("rescan", "--json").out)["added"] == []


def test_load_and_unload_give_receipts(host: str, run: Run) -> None:
    loaded = run("load", "parrot", "macaw")
    assert loaded.status == 0
    first, second = loaded.out.splitlines()
    assert first.startswith("parrot: activated generation ")
    assert "MB taken in" in first
    assert second.startswith("macaw: activated generation ")
    assert run("load", "parrot").out.startswith("parrot: was active already, generation ")

    pids = [one["pid"] for one in api(host, "/admin/handlers")["handlers"] if one["name"] in ("parrot", "macaw")]
    unloaded = run("unload", "parrot", "macaw", "--deadline", "5s")
    assert unloaded.status == 0
    assert unloaded.out.splitlines()[0].startswith("parrot: unloaded generation ")
    assert "given back in" in unloaded.out
    assert "(0 drained, 0 killed)" in unloaded.out
    assert all(map(gone, pids))
    assert run("unload", "parrot").out == "parrot: had no worker, it is cold\n"


def test_receipts_as_json_are_one_a_line(host: str, run: Run) -> None:
    loaded = [json.loads(line) for line in run("load", "parrot", "macaw", "--json").out.splitlines()]
    assert [receipt["handler"] for receipt in loaded] == ["parrot", "macaw"]
    assert all(receipt["already"] is False for receipt in loaded)
    (unloaded,) = (json.loads(line) for line in run("unload", "macaw", "--json").out.splitlines())
    assert unloaded["generation"] == loaded[1]["generation"]
    assert unloaded["killed"] == 0


def test_unload_all_takes_those_that_have_a_worker(host: str, run: Run) -> None:
    run("load", "macaw")
    assert run("unload", "--all").out.startswith("macaw: unloaded generation ")
    result = run("unload", "--all")
    assert (result.status, result.out, result.err) == (0, "", "no handler has a worker\n")


def test_unload_without_a_name_says_how_all_are_meant(host: str, run: Run) -> None:
    result = run("unload")
    assert result.status == 2
    assert "handler-host unload --all" in result.err
    assert run("unload", "parrot", "--all").status == 2


def test_a_handler_that_is_refused_does_not_keep_the_others_back(host: str, run: Run) -> None:
    run("load", "parrot")
    result = run("unload", "nobody", "parrot")
    assert result.status == 1
    assert result.out.startswith("parrot: unloaded")
    assert "there is no handler 'nobody'" in result.err
    assert "(unknown_handler, request " in result.err


def test_with_json_a_refusal_is_the_hosts_own_words_as_well(host: str, run: Run) -> None:
    result = run("load", "nobody", "--json")
    assert result.status == 1
    assert json.loads(result.out)["error"]["code"] == "unknown_handler"
    assert "unknown_handler" in result.err


def test_a_plugin_that_does_not_import_is_explained_without_commanding_the_terminal(host: str, run: Run) -> None:
    result = run("load", "broken")
    assert result.status == 1
    assert "such thing" in result.err
    assert "activation_failed" in result.err
    shown = run("ps")
    assert lines(shown.out)["broken"][1] == "failed"
    assert "\x1b" not in result.err + shown.out


def test_no_wait_answers_at_once(host: str, run: Run) -> None:
    assert run("load", "parrot", "--no-wait").out == "parrot: is being activated\n"
    assert run("load", "parrot").status == 0  # waits for the same activation
    assert run("unload", "parrot", "--no-wait").out == "parrot: is being unloaded\n"


def test_reload_unloads(host: str, run: Run) -> None:
    run("load", "parrot")
    assert run("reload", "parrot").out.startswith("parrot: unloaded generation ")


def test_pin_keeps_a_handler_until_unpin_and_ps_shows_it(host: str, run: Run) -> None:
    assert run("pin", "parrot").out == "parrot: pinned, cold\n"
    assert api(host, "/admin/handlers/parrot")["pin"] is True
    (line,) = (line for line in run("ps").out.splitlines() if line.startswith("parrot "))
    assert line.split()[-1] == "pinned"
    assert run("unpin", "parrot").out == "parrot: not pinned, cold\n"
    assert "pinned" not in run("ps").out


def test_memory_adds_up(host: str, run: Run) -> None:
    run("load", "parrot")
    processes, budget, handlers = run("memory").out.split("\n\n")
    rows = lines(processes)
    assert rows["host"][2:4] == [rows["host"][2], "MB"]
    parts = [rows["host"][2], rows["fork"][3], rows["parrot"][2]]
    assert sum(map(float, parts)) == pytest.approx(float(rows["together"][1]), abs=0.3)
    assert budget.startswith("limit ")
    assert "evicted next: parrot (" in budget
    assert lines(handlers)["parrot"][1] == "idle"
    assert "(learned)" in handlers


def test_a_rescan_says_what_cannot_run(host: str, run: Run) -> None:
    result = run("rescan")
    assert result.status == 0
    assert "nothing has changed" in result.out
    assert "cannot run: keyless: " in result.out


def test_the_token_may_stand_in_a_file(host: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDLER_HOST_ADMIN_TOKEN", "a wrong one")
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert run("ps", "--token-file", str(tmp_path / "token")).status == 0
    missing = run("ps", "--token-file", str(tmp_path / "nothing"))
    assert missing.status == 2
    assert "nothing: cannot be read: No such file" in missing.err
    monkeypatch.setenv("HANDLER_HOST_ADMIN_TOKEN", TOKEN)


def test_a_missing_and_a_wrong_token_are_refused_with_the_remedy(
    host: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.delenv("HANDLER_HOST_ADMIN_TOKEN")
        missing = run("ps")
        patch.setenv("HANDLER_HOST_ADMIN_TOKEN", "wrong")
        wrong = run("ps")
    assert missing.status == wrong.status == 1
    assert "set HANDLER_HOST_ADMIN_TOKEN (invalid_key" in missing.err
    assert "not the admin token" in wrong.err


def test_a_table_at_a_terminal_is_coloured_and_cut(host: str) -> None:
    with Terminal("ps") as terminal:
        assert terminal.process.wait(20) == 0
        table = terminal.rest()
    assert "\033[31mmissing-secret\033[0m" in table
    assert "\033[2mcold" in table
    shown = re.sub("\033.*?m", "", table).splitlines()
    assert max(map(len, shown)) <= WIDTH
    assert any(line.endswith("…") for line in shown)


def test_no_color_is_obeyed(host: str) -> None:
    with Terminal("ps", NO_COLOR="1") as terminal:
        assert terminal.process.wait(20) == 0
        assert "\033" not in terminal.rest()
