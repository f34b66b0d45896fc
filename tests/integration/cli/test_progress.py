"""Progress of commands that take longer than two seconds, with a server that is slow."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.integration.cli.harness import TOKEN, Run, StartServer, Terminal

BODY = b'{"handler": "parrot", "accepted": true}'


def slow_response(seconds: float) -> Iterator[bytes]:
    time.sleep(seconds)
    yield b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


class TestTerminal:
    def test_line_shows_the_time_and_disappears(self, start_server: StartServer) -> None:
        server = start_server(slow_response(4))
        with Terminal("load", "parrot", "--url", server.url, HANDLER_HOST_ADMIN_TOKEN=TOKEN) as terminal:
            terminal.until("\r\x1b[Kactivating parrot … 2.0 s")
            terminal.until("\r\x1b[Kactivating parrot … 3.0 s")
            terminal.until("\r\x1b[Kparrot: activation started\r\n")
            assert terminal.wait() == 0

    def test_quick_step_shows_nothing(self, start_server: StartServer) -> None:
        server = start_server(slow_response(0))
        with Terminal("load", "parrot", "--url", server.url, HANDLER_HOST_ADMIN_TOKEN=TOKEN) as terminal:
            assert terminal.until("parrot: activation started\r\n") == ""
            assert terminal.wait() == 0

    def test_dumb_terminal_gets_a_plain_line(self, start_server: StartServer) -> None:
        server = start_server(slow_response(3))
        environment = {"HANDLER_HOST_ADMIN_TOKEN": TOKEN, "TERM": "dumb"}
        with Terminal("load", "parrot", "--url", server.url, **environment) as terminal:
            assert terminal.wait() == 0
            assert terminal.remaining() == "activating parrot …\r\nparrot: activation started\r\n"


def test_pipe_gets_one_plain_line(run: Run, start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDLER_HOST_ADMIN_TOKEN", TOKEN)
    result = run("load", "parrot", "--url", start_server(slow_response(3)).url)
    assert (result.out, result.err) == ("parrot: activation started\n", "activating parrot …\n")
