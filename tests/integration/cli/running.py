"""What the tests of the command line share: how a command has ended, the plugins of the host, a server that is none."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, Self

WIDTH = 60
"""Columns of a terminal."""
CHUNK = 'data: {"choices": [{"index": 0, "delta": {"content": "%s"}}]}\n\n'
STREAM = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
TOKEN = "the-admin-token-of-the-tests"
KEY = "a-key-of-a-consumer"
PARROT = '''
from collections.abc import AsyncIterator
from handler_host.chat import ChatHandler, ChatChunk, Usage, content_text
from handler_host.plugin import operation

class Handler(ChatHandler):
    """Says what it is told."""

    async def stream(self, request):
        if request.last_text() == "HISTORY":
            yield " | ".join(content_text(message.content) for message in request.messages)
            return
        for word in request.last_text().split():
            if word == "BOOM":
                raise RuntimeError("a secret detail")
            yield word + " "
        yield ChatChunk(usage=Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5))

    @operation(summary="Gives back what it gets.")
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
    """How a command has ended, and what it has printed."""

    status: int
    out: str
    err: str


Run = Callable[..., Result]


class Stranger:
    """A server that answers each connection with the same pieces, and keeps what it was asked."""

    def __init__(self, response: Iterable[bytes]) -> None:
        self._response = response
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.asked: list[bytes] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                request = connection.recv(65536)
                if request == b"":  # the one of `close`
                    return
                self.asked.append(request)
                with contextlib.suppress(ConnectionError):  # who has asked may leave
                    for chunk in self._response:
                        connection.sendall(chunk)

    def close(self) -> None:
        """End the thread."""
        socket.create_connection(self._socket.getsockname()).close()
        self._thread.join(10)
        self._socket.close()


class Terminal:
    """A command that runs at a terminal of its own."""

    # Who leads a session and opens a terminal is controlled by it: Ctrl-C becomes a signal.
    _START = (
        "import os, sys; os.close(os.open(os.ttyname(0), os.O_RDWR)); "
        "os.execv(sys.executable, [sys.executable, '-m', 'handler_host', *sys.argv[1:]])"
    )

    def __init__(self, *words: str, **environment: str) -> None:
        self._end, side = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", self._START, *words],
            stdin=side,
            stdout=side,
            stderr=side,
            start_new_session=True,
            env=os.environ | {"TERM": "xterm", "COLUMNS": str(WIDTH), **environment},
        )
        os.close(side)
        self._read = b""

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
        """Read until ``text`` comes; return what came before it."""
        limit = time.monotonic() + 20
        while text.encode() not in self._read:
            left = max(0.0, limit - time.monotonic())
            assert select.select([self._end], [], [], left)[0], f"no {text!r} in {self._read.decode()!r}"
            self._read += os.read(self._end, 4096)
        before, _, self._read = self._read.partition(text.encode())
        return before.decode()

    def has(self, text: str) -> bool:
        """Tell whether ``text`` has come by now."""
        while select.select([self._end], [], [], 0)[0]:
            self._read += os.read(self._end, 4096)
        return text.encode() in self._read

    def interrupted(self) -> int:
        """Type Ctrl-C until the process has ended; return its exit status.

        Python's `input` misses a signal that comes between its prompt and its waiting.
        """
        for _ in range(20):
            self.type("\x03")
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(1)
        raise AssertionError("Ctrl-C does not end it")

    def rest(self) -> str:
        """Return what comes until the end."""
        while True:
            try:
                self._read += os.read(self._end, 4096)
            except OSError:  # nobody has the other end any more
                return self._read.decode()


@contextlib.contextmanager
def serving(environment: Mapping[str, str], *options: str) -> Iterator[str]:
    """Run the host as a process of its own, and give its URL; it has to end well."""
    process = subprocess.Popen(
        [sys.executable, "-m", "handler_host", "serve", "--port", "0", "--log-level", "error", *options],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"HANDLER_HOST_ADMIN_TOKEN": TOKEN} | dict(environment),
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().removeprefix("ready ").strip()
    finally:
        process.terminate()
        assert process.wait(20) == 0
        process.stdout.close()
