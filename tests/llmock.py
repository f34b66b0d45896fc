"""Runs llmock, an upstream that nobody here wrote: three protocols, with faults on demand."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

LIMIT = 60.0
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Llmock:
    """A running llmock."""

    def __init__(self, url: str) -> None:
        self.url = url
        """Its address; OpenAI's protocol is under ``/v1``, the others under ``/anthropic`` and ``/gemini``."""

    def fail(self, *behaviors: dict[str, Any]) -> None:
        """Forget what was before, and do these things with the next requests."""
        self._call("POST", "/_llmock/reset")
        if behaviors:
            self._call("POST", "/_llmock/scenario", {"behaviors": list(behaviors)})

    @property
    def requests(self) -> list[dict[str, Any]]:
        """What it has been asked since the last :meth:`fail`."""
        found: list[dict[str, Any]] = self._call("GET", "/_llmock/requests")["requests"]
        return found

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with _direct.open(request, timeout=LIMIT) as response:
            return json.loads(response.read() or b"null")


@contextmanager
def llmock() -> Iterator[Llmock]:
    """Run it on a free port of 127.0.0.1."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = [
        *(str(Path(sys.executable).with_name("llmock")), "serve", "--host", "127.0.0.1", "--port", str(port)),
        *("--response-style", "static", "--log-level", "warning"),
    ]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            server = Llmock(f"http://127.0.0.1:{port}")
            _wait(server, process, log)
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(server: Llmock, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    """Return when it answers: it says nowhere that it is ready."""
    deadline = time.monotonic() + LIMIT
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            server.fail()
            return
        time.sleep(0.05)
    log.seek(0)
    raise AssertionError(f"llmock did not start: {log.read().decode(errors='replace')}")
