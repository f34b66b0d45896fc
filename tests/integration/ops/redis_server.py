"""A real Redis or Valkey server for the tests of what several hosts share."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from tests.support import ended

SERVER = shutil.which("redis-server") or shutil.which("valkey-server")
PASSWORD = "the-password-of-the-shared-server"


def url_at(port: int) -> str:
    """Return the URL of a server with the password at this port."""
    return f"redis://:{PASSWORD}@127.0.0.1:{port}/0"


class Server:
    """A Redis server with a password, which can stop and start again at the same port."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._pid_file = directory / "redis.pid"

    @property
    def url(self) -> str:
        return url_at(self.port)

    def start(self) -> None:
        assert SERVER is not None
        options = {"port": self.port, "bind": "127.0.0.1", "save": "", "requirepass": PASSWORD, "dir": self._directory}
        # A daemon: the tests look for children that a host has left.
        options |= {"daemonize": "yes", "pidfile": self._pid_file}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        subprocess.run([SERVER, *words], stdout=subprocess.DEVNULL, check=True)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            # The file of its process ID may be there, but still empty.
            with contextlib.suppress(OSError, ValueError), socket.create_connection(("127.0.0.1", self.port), 1):
                self._pid = int(self._pid_file.read_text())
                return
            time.sleep(0.02)
        raise AssertionError("the Redis server did not start")

    def stop(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while not ended(self._pid) and time.monotonic() < deadline:
            time.sleep(0.01)
