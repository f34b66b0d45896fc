"""``handler-host events``, with the real host."""

from __future__ import annotations

import json

import pytest

from tests.integration.cli.harness import TOKEN, Run, Terminal


def test_shows_past_events_of_one_handler(host: str, run: Run) -> None:
    run("load", "parrot")
    run("unload", "parrot")
    result = run("events", "--handler", "parrot", "--kind", "activated", "--kind", "unloaded", "--last", "2")
    activated, unloaded = (line.split() for line in result.out.splitlines())
    assert (activated[1:3], unloaded[1:3]) == (["activated", "parrot"], ["unloaded", "parrot"])
    assert "cause=operator" in unloaded
    events = [json.loads(line) for line in run("events", "--json", "--handler", "parrot").out.splitlines()]
    assert {"activating", "activated", "draining", "unloaded"} <= {event["kind"] for event in events}


def test_wrong_options_are_refused(host: str, run: Run) -> None:
    """The host knows the kinds of events; a wrong number does not reach it."""
    result = run("events", "--kind", "activate")
    assert (result.status, "did you mean 'activated'" in result.err) == (1, True)
    assert run("events", "--last", "-1").status == 2


class TestFollow:
    def test_until_ctrl_c(self, host: str, run: Run) -> None:
        words = ("events", "--follow", "--last", "0", "--handler", "macaw", "--url", host)
        with Terminal(*words, HANDLER_HOST_ADMIN_TOKEN=TOKEN, COLUMNS="200") as terminal:
            for _ in range(200):  # until it is connected: earlier events are not shown
                run("load", "macaw")
                run("unload", "macaw")
                if terminal.has("unloaded"):
                    break
            assert terminal.interrupt() == 130

    def test_unreachable_host_is_no_wait(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HANDLER_HOST_ADMIN_TOKEN", TOKEN)
        assert run("events", "--follow", "--url", "http://127.0.0.1:9").status == 3
