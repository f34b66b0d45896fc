"""The results of `make clients`: which count as failures, and which pairs are run again."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clients import agent_checks, results, run, serving, table


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(results, "PASSED", tmp_path / "build" / "passed.json")
    monkeypatch.setattr(results, "_state", lambda: "now")


def test_only_a_pair_that_passed_in_this_state_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    results.save("agent", "1.0", "gpt_a", {"stream": "ok", "search": "left out"})
    results.save("agent", "1.0", "gpt_b", {"stream": "no output"})
    assert results.read_passed() == {("agent", "gpt_a")}
    assert table.summary(results.read(), [("agent", "gpt_a"), ("agent", "gpt_b")]) == (
        "agent 1.0  gpt_a ok; gpt_b fails: stream"
    )
    results.save("agent", "1.0", "gpt_a", {"stream": "no output"})
    assert results.read_passed() == set()
    results.save("agent", "1.0", "gpt_a", {"stream": "ok"})
    monkeypatch.setattr(results, "_state", lambda: "after a change of the host")
    assert results.read_passed() == set()


def test_a_known_fault_of_a_client_is_shown_and_is_no_failure() -> None:
    (place, reason) = next(iter(results.FAULTS.items()))
    name, handler, column = place
    results.save(name, "1.0", handler, {column: "signature lost", "tools": "ok"})
    assert results.failures(name, handler) == {}
    assert f"- {name} on `{handler}`, {column}: signature lost; the client's fault: {reason}" in table.table(
        results.read()
    )


def test_an_interrupt_starts_no_further_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the rest of the list, hours of it, would run first."""
    runs: list[str] = []
    interrupted = threading.Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            interrupted.set()
            super().shutdown(wait=wait)

    class Pair:
        def __init__(self, name: str) -> None:
            self.client = SimpleNamespace(name=name, package="p", environment="")
            self.handler = "gpt_a"

        def run(self, hosts: serving.HostPool, keep: Path | None) -> tuple[dict[str, str], float]:
            runs.append(self.client.name)
            if len(runs) > 1:
                interrupted.wait(30)
            return {"plain": "ok"}, 0.0

    def interrupt(package: str, environment: Path) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(run, "copy_scripts", lambda: None)
    monkeypatch.setattr(run, "version", interrupt)
    pairs: list[Any] = [Pair(str(number)) for number in range(20)]
    with pytest.raises(KeyboardInterrupt):
        run.run(pairs, 1, None)
    assert len(runs) <= 2


def test_an_agent_that_does_not_end_is_found_out() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert not agent_checks.wait(process, 0.0, None)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert agent_checks.wait(process, 0.0, None)
