"""Commands whose standard streams are closed, or cannot be written: no traceback, and no silent end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import LIMIT

COMMAND = f"exec {sys.executable} -m handler_host"
CLOSED = [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def is_live(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/live", timeout=5) as response:
            status: int = response.status
            return status == 200
    except OSError:
        return False


def wait_until_live(process: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + LIMIT
    while not is_live(port):
        assert process.poll() is None, f"the host has ended: {process.communicate()}"
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def serving(
    redirection: str, tmp_path: Path, stdout: int = subprocess.PIPE
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run ``serve`` with a redirection of the shell; yield the process and its port."""
    port = free_port()
    (tmp_path / "host.toml").write_text("[catalog]\nroots = []\ninclude_sys_path = false\n")
    command = f"{COMMAND} serve --config {tmp_path}/host.toml --port {port} {redirection}"
    process = subprocess.Popen(["sh", "-c", command], stdout=stdout, stderr=subprocess.PIPE, text=True)
    try:
        wait_until_live(process, port)
        yield process, port
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def stop(process: subprocess.Popen[str]) -> str:
    """Stop the host; return its standard error."""
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors
    return errors


class TestServe:
    @pytest.mark.parametrize("redirection", CLOSED)
    def test_closed(self, redirection: str, tmp_path: Path) -> None:
        with serving(redirection, tmp_path) as (process, _):
            for fd in range(3):
                # Not a socket of the host, into which a library could print.
                target = os.readlink(f"/proc/{process.pid}/fd/{fd}")
                assert not target.startswith(("socket:", "anon_inode:")), (fd, target)
            stop(process)

    def test_full_disk(self, tmp_path: Path) -> None:
        with serving(">/dev/full", tmp_path) as (process, port):
            errors = stop(process)
            assert f"http://127.0.0.1:{port}" in errors
            assert "No space left on device" in errors

    def test_reader_is_gone(self, tmp_path: Path) -> None:
        read, write = os.pipe()
        os.close(read)
        try:
            with serving("", tmp_path, stdout=write) as (process, _):
                assert "Broken pipe" in stop(process)
        finally:
            os.close(write)

    def test_reader_of_the_log_is_gone(self, tmp_path: Path) -> None:
        with serving("", tmp_path) as (process, _):
            assert process.stderr is not None
            process.stderr.close()
            process.terminate()
            process.communicate(timeout=LIMIT)
            assert process.returncode == 0

    def test_log_on_a_full_disk(self, tmp_path: Path) -> None:
        with serving("2>/dev/full", tmp_path) as (process, port):
            assert process.stdout is not None
            assert process.stdout.readline() == f"ready http://127.0.0.1:{port}\n"
            stop(process)


class TestOtherCommands:
    @pytest.mark.parametrize("redirection", CLOSED)
    def test_closed(self, redirection: str) -> None:
        done = subprocess.run(["sh", "-c", f"{COMMAND} version {redirection}"], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")

    def test_full_disk(self) -> None:
        done = subprocess.run(["sh", "-c", f"{COMMAND} version >/dev/full"], capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr == "handler-host: standard output: No space left on device\n"
