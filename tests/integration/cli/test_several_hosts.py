"""``ps``, ``top`` and ``events`` for several hosts; the one host of these tests has two addresses."""

from __future__ import annotations

import json

import pytest

from tests.integration.cli.harness import Run

AWAY = "http://127.0.0.1:9"


@pytest.fixture
def urls(host: str) -> tuple[str, ...]:
    return ("--url", host, "--url", host.replace("127.0.0.1", "localhost"))


class TestPs:
    def test_one_table_has_the_handlers_of_each_host(self, run: Run, host: str, urls: tuple[str, ...]) -> None:
        result = run("ps", *urls)
        assert result.status == 0
        header, *rows = (line.split() for line in result.out.splitlines())
        assert header[:3] == ["HOST", "NAME", "STATE"]
        first, second = host.removeprefix("http://"), host.removeprefix("http://").replace("127.0.0.1", "localhost")
        assert [row[0] for row in rows if row[1] == "parrot"] == [first, second]
        assert run("ps", "--url", host).out.startswith("NAME")

    def test_a_host_that_is_away_is_reported_beside_the_others(self, run: Run, host: str) -> None:
        result = run("ps", "--url", AWAY, "--url", host)
        assert (result.status, f"no host at {AWAY}" in result.err) == (3, True)
        assert "parrot" in result.out
        listed = json.loads(run("ps", "--json", "--url", AWAY, "--url", host).out)["hosts"]
        assert [entry["url"] for entry in listed] == [host]

    def test_details_name_their_host(self, run: Run, urls: tuple[str, ...]) -> None:
        result = run("ps", "parrot", *urls)
        assert result.status == 0
        assert [line.split()[-1].partition(":")[0] for line in result.out.splitlines() if line.startswith("host ")] == [
            "127.0.0.1",
            "localhost",
        ]


class TestEvents:
    def test_events_are_in_the_order_of_time_with_their_host(self, run: Run, urls: tuple[str, ...]) -> None:
        events = [json.loads(line) for line in run("events", "--json", *urls).out.splitlines()]
        assert {event["from_host"].partition(":")[0] for event in events} == {"127.0.0.1", "localhost"}
        times = [event["at"] for event in events]
        assert times == sorted(times)
        assert run("events", "--url", AWAY, "--url", "http://127.0.0.1:10").status == 3


class TestTop:
    def test_prints_a_table_for_each_host(self, run: Run, urls: tuple[str, ...]) -> None:
        result = run("top", "--once", *urls)
        assert result.status == 0
        assert sum(line.startswith("parrot") for line in result.out.splitlines()) == 2
        assert result.out.splitlines()[0].startswith("127.0.0.1:")
