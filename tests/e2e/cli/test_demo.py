"""``make demo`` and ``make serve``, with the real plugins."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from handler_host.cli.failure import INTERRUPTED
from tests.integration.cli.harness import Run
from tests.support import children_of, gone

pytestmark = [pytest.mark.slow, pytest.mark.alone]

DEMO = Path(__file__).parents[3] / "examples" / "demo.py"


@contextmanager
def demo(*words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run the demo in a session of its own; nothing of it is left at the end."""
    process = subprocess.Popen(
        [sys.executable, str(DEMO), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | environment,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def everything_below(pid: int) -> list[int]:
    return [pid, *(each for child in children_of(pid) for each in everything_below(child))]


def test_the_demo_tells_the_whole_story() -> None:
    """Given a proxy and settings of another host in the environment, the story is the same."""
    with demo(http_proxy="http://127.0.0.1:1", HANDLER_HOST_SERVER__PORT="wrong", PYTHONIOENCODING="ascii") as process:
        out, err = process.communicate()
    assert process.returncode == 0, out + err
    assert err == ""
    assert re.findall(r"^(\d)\. ", out, re.MULTILINE) == [*"123456"]
    table = [line for line in out.splitlines() if line.endswith("#")]
    assert max(map(len, table)) <= 80
    receipts = re.findall(r"(\w+): generation 1 gone in \d+ ms, (\d+) MB given back", out)
    handlers = ["gpt_e", "gpt_a", "gpt_b", "gpt_c", "gpt_d", "sheets"]
    assert [name for name, _ in receipts] == handlers[::-1]
    sizes = [int(line.split()[-2]) for line in table]
    # What each handler has taken at its first request is what its unload has given back.
    rising, falling = sizes[: len(handlers) + 1], sizes[len(handlers) : -1]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert rising[-1] > rising[0] + 200
    assert abs(sizes[-1] - sizes[0]) <= 4


def test_an_interrupted_demo_leaves_nothing() -> None:
    with demo() as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "A first chat" in line)
        assert line.startswith("2.")
        pids = everything_below(process.pid)
        assert len(pids) > 1
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate()
        assert process.returncode == INTERRUPTED, out + err
    assert "Traceback" not in err
    assert all(map(gone, pids))


def test_serve_leaves_the_host_running_and_says_what_to_try(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with demo("--serve") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        ready = process.stdout.readline()
        shown = "".join(iter(process.stderr.readline, "")) if ready == "" else ""
        assert ready.startswith("ready http://127.0.0.1:"), shown
        url = ready.split()[1]
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "handler-host ps" in line:
                break
        shown = "".join(lines)
        assert f"curl {url}/v1/handlers\n" in shown
        (token,) = re.findall(r"HANDLER_HOST_ADMIN_TOKEN=(\S+)", shown)
        monkeypatch.setenv("HANDLER_HOST_ADMIN_TOKEN", token)
        listed = run("ps", "--url", url)
        assert listed.status == 0, listed.err
        assert "gpt_e" in listed.out
        process.terminate()
        process.communicate()
        assert process.returncode == 0
