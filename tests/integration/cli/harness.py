"""Tools for the tests of the command line: the host and its plugins, a scripted server, a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

COLUMNS = 60
"""Width of a terminal."""
TIMEOUT_S = 20
CHAT_CHUNK = 'data: {"choices": [{"index": 0, "delta": {"content": "%s"}}]}\n\n'
STREAM_HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
TOKEN = "the-admin-token-of-the-tests"
API_KEY = "a-key-of-a-consumer-of-the-tests"
PARROT = '''
from collections.abc import AsyncIterator
from handler_host.chat import ChatHandler, Usage, UsageChunk, content_text
from handler_host.plugin import operation

class Handler(ChatHandler):
    """Repeats the user's words."""

    async def stream(self, request):
        if request.last_text() == "HISTORY":
            yield " | ".join(content_text(message.content) for message in request.messages)
            return
        for word in request.last_text().split():
            if word == "BOOM":
                raise RuntimeError("a secret detail")
            yield word + " "
        yield UsageChunk(usage=Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5))

    @operation(summary="Returns its request.")
    async def echo(self, request: dict[str, object]) -> dict[str, object]:
        return request

    @operation(summary="Counts.")
    async def count(self, request: dict[str, int]) -> AsyncIterator[int]:
        for number in range(request["upto"]):
            if number == 3:
                raise RuntimeError("three is too much")
            yield number
'''


class Result(NamedTuple):
    """The exit status of a command, and what it printed."""

    status: int
    out: str
    err: str


class Run(Protocol):
    """Runs a command in the process of the test."""

    def __call__(self, *words: str) -> Result: ...


class StartServer(Protocol):
    """Starts a :class:`ScriptedServer` with the chunks of its response."""

    def __call__(self, response: Iterable[bytes]) -> ScriptedServer: ...


class WriteToml(Protocol):
    """Writes a configuration file and returns its path."""

    def __call__(self, text: str) -> str: ...


class ScriptedServer:
    """Answers each connection with the same chunks, and keeps the requests."""

    def __init__(self, response: Iterable[bytes]) -> None:
        self._response = response
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.requests: list[bytes] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                request = connection.recv(65536)
                if request == b"":  # the connection of `close`
                    return
                self.requests.append(request)
                with contextlib.suppress(ConnectionError):  # the client may leave early
                    for chunk in self._response:
                        connection.sendall(chunk)

    def close(self) -> None:
        """End the thread."""
        socket.create_connection(self._socket.getsockname()).close()
        self._thread.join(10)
        self._socket.close()


class Terminal:
    """A command, or another ``program``, that runs in a terminal of its own."""

    # The leader of a session that opens a terminal becomes controlled by it: Ctrl-C arrives as a signal.
    _START = (
        "import os, sys; os.close(os.open(os.ttyname(0), os.O_RDWR)); "
        "os.execv(sys.executable, [sys.executable, '-m', 'handler_host', *sys.argv[1:]])"
    )

    def __init__(self, *words: str, program: Sequence[str] | None = None, **environment: str) -> None:
        self._end, side = pty.openpty()
        self.process = subprocess.Popen(
            [*(program or (sys.executable, "-c", self._START)), *words],
            stdin=side,
            stdout=side,
            stderr=side,
            start_new_session=True,
            env=os.environ | {"TERM": "xterm", "COLUMNS": str(COLUMNS), **environment},
        )
        os.close(side)
        self._output = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._end)

    def type(self, text: str) -> None:
        """Type; ``\\x03`` is Ctrl-C, ``\\x04`` Ctrl-D."""
        os.write(self._end, text.encode())

    def until(self, text: str) -> str:
        """Read until ``text`` appears; return the output before it."""
        deadline = time.monotonic() + TIMEOUT_S
        while text.encode() not in self._output:
            remaining = max(0.0, deadline - time.monotonic())
            assert select.select([self._end], [], [], remaining)[0], f"no {text!r} in {self._output.decode()!r}"
            self._output += os.read(self._end, 4096)
        before, _, self._output = self._output.partition(text.encode())
        return before.decode()

    def has(self, text: str) -> bool:
        """Return whether ``text`` has appeared by now."""
        while select.select([self._end], [], [], 0)[0]:
            self._output += os.read(self._end, 4096)
        return text.encode() in self._output

    def interrupt(self) -> int:
        """Type Ctrl-C until the process has ended; return its exit status.

        Python's `input` misses a signal that arrives between its prompt and its read.
        """
        for _ in range(20):
            self.type("\x03")
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(1)
        raise AssertionError("Ctrl-C does not end it")

    def remaining(self) -> str:
        """Return the output until the process closes the terminal."""
        while True:
            try:
                self._output += os.read(self._end, 4096)
            except OSError:  # no process has the other end open
                return self._output.decode()

    def wait(self) -> int:
        """Wait for the end of the process; return its exit status."""
        return self.process.wait(TIMEOUT_S)


@contextlib.contextmanager
def start_host(
    *options: str, environment: Mapping[str, str] | None = None, port: int = 0
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run a host in a process of its own; yield its URL and the process, which the test may end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "handler_host", "serve", "--port", str(port), "--log-level", "error", *options],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"HANDLER_HOST_ADMIN_TOKEN": TOKEN} | dict(environment or {}),
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().removeprefix("ready ").strip(), process
    finally:
        process.terminate()
        assert process.wait(TIMEOUT_S) == 0
        process.stdout.close()


def get_admin(url: str, path: str) -> Any:
    """Return the JSON of an admin route, without the command line."""
    request = urllib.request.Request(f"{url}/admin/{path}", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as response:
        return json.load(response)


def states(url: str) -> dict[str, str]:
    """Return the states of the handlers."""
    return {handler["name"]: handler["state"] for handler in get_admin(url, "handlers")["handlers"]}
