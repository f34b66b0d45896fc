"""``make demo`` and ``make serve``, with the real plugins."""

from __future__ import annotations

import os
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from handler_host.cli.failure import INTERRUPTED
from handler_host.cli.main import main
from tests.support import children_of, gone

pytestmark = [pytest.mark.slow, pytest.mark.alone]

DEMO = Path(__file__).parents[3] / "examples" / "demo.py"
HANDLERS = ["gpt_e", "gpt_a", "gpt_b", "gpt_c", "gpt_d", "sheets"]


@contextmanager
def start_demo(*words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run the demo in a session of its own; kill what is left of it at the end."""
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


def process_tree(pid: int) -> list[int]:
    return [pid, *(descendant for child in children_of(pid) for descendant in process_tree(child))]


class TestDemo:
    def test_frees_the_memory_again(self) -> None:
        """Given a proxy and settings for another host in the environment, the demo still works."""
        environment = {"http_proxy": "http://127.0.0.1:1", "HANDLER_HOST_SERVER__PORT": "wrong"}
        with start_demo(**environment, PYTHONIOENCODING="ascii") as process:
            out, err = process.communicate()
        assert process.returncode == 0, out + err
        assert err == ""
        assert re.findall(r"^(\d)\. ", out, re.MULTILINE) == [*"123456"]
        table = [line for line in out.splitlines() if line.endswith("#")]
        assert max(map(len, table)) <= 80
        receipts = re.findall(r"(\w+): unloaded generation 1 in \d+ ms, (\d+) MB freed", out)
        assert [name for name, _ in receipts] == HANDLERS[::-1]
        sizes = [int(line.split()[-2]) for line in table]
        # Each unload frees what the handler's first request has taken.
        rising, falling = sizes[: len(HANDLERS) + 1], sizes[len(HANDLERS) : -1]
        assert rising == sorted(rising)
        assert falling == sorted(falling, reverse=True)
        assert rising[-1] > rising[0] + 200
        # Only the host is left. What it keeps of the modules that it has loaded, the demo bounds itself.
        host, *others, total = table[-1].split()[-10:-1]
        assert others == ["-"] * (1 + len(HANDLERS))
        assert host == total

    def test_interrupt_leaves_no_process(self) -> None:
        with start_demo() as process:
            assert process.stdout is not None
            line = next(line for line in process.stdout if "A first chat" in line)
            assert line.startswith("2.")
            pids = process_tree(process.pid)
            assert len(pids) > 1
            os.killpg(process.pid, signal.SIGINT)
            out, err = process.communicate()
            assert process.returncode == INTERRUPTED, out + err
        assert "Traceback" not in err
        assert all(map(gone, pids))


@pytest.mark.parametrize(("eager", "lean"), [(True, "off"), (False, "auto")])
def test_eager_turns_lean_imports_off(eager: bool, lean: str) -> None:
    with runpy.run_path(str(DEMO))["running_host"](eager=eager) as host:
        settings = host.call("GET", "/admin/handlers/gpt_a/details")["settings"]
    assert {setting["key"]: setting["value"] for setting in settings}["lean"] == lean


def test_serve_prints_what_to_try(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with start_demo("--serve", TMPDIR=str(tmp_path)) as process:
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
        assert main(["ps", "--url", url]) == 0
        assert "gpt_e" in capsys.readouterr().out
        process.terminate()
        process.communicate()
        assert process.returncode == 0
    assert list(tmp_path.iterdir()) == []
