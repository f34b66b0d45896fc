"""``handler-host events``, against the real host."""

from __future__ import annotations

import json

import pytest

from tests.integration.cli.running import TOKEN, Run, Terminal


def test_tells_what_has_happened_to_one_handler(host: str, run: Run) -> None:
    run("load", "parrot")
    run("unload", "parrot")
    result = run("events", "--handler", "parrot", "--kind", "activated", "--kind", "unloaded", "--last", "2")
    activated, unloaded = (line.split() for line in result.out.splitlines())
    assert (activated[1:3], unloaded[1:3]) == (["activated", "parrot"], ["unloaded", "parrot"])
    assert "cause=operator" in unloaded
    events = [json.loads(line) for line in run("events", "--json", "--handler", "parrot").out.splitlines()]
    assert {"activating", "activated", "draining", "unloaded"} <= {event["kind"] for event in events}


def test_a_wrong_kind_is_refused_by_the_host_and_a_wrong_number_here(host: str, run: Run) -> None:
    result = run("events", "--kind", "activate")
    assert (result.status, "did you mean 'activated'" in result.err) == (1, True)
    assert run("events", "--last", "-1").status == 2


def test_follows_until_ctrl_c(host: str, run: Run) -> None:
    words = ("events", "--follow", "--last", "0", "--handler", "macaw", "--url", host)
    with Terminal(*words, HANDLER_HOST_ADMIN_TOKEN=TOKEN, COLUMNS="200") as terminal:
        for _ in range(200):  # until it listens: who comes too late is told nothing
            run("load", "macaw")
            run("unload", "macaw")
            if terminal.has("unloaded"):
                break
        assert terminal.interrupted() == 130


def test_a_host_that_was_never_there_is_not_waited_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDLER_HOST_ADMIN_TOKEN", TOKEN)
    assert run("events", "--follow", "--url", "http://127.0.0.1:9").status == 3
