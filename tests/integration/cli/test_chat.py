"""``handler-host chat``, with the real host and at a real terminal."""

from __future__ import annotations

import io
import itertools
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.integration.cli.harness import CHAT_CHUNK, STREAM_HEAD, Run, StartServer, Terminal


class TestMessage:
    def test_response_is_printed(self, host: str, run: Run) -> None:
        result = run("chat", "parrot", "Hello you")
        assert result.status == 0, result.err
        assert (result.out, result.err) == ("Hello you \n", "")

    def test_verbose_shows_the_cold_start(self, host: str, run: Run) -> None:
        cold = run("chat", "-v", "parrot", "Hello", "--max-tokens", "5", "--temperature", "0")
        warm = run("chat", "-v", "parrot/some-model", "Hello")
        assert re.match(r"\(cold start \d+.*, first chunk after .*, 2 tokens in .*\)\n", cold.err)
        assert re.match(r"\(warm, first chunk after .*, 2 tokens in .*\)\n", warm.err)

    def test_from_a_pipe(self, host: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        for words in ((), ("-",)):
            monkeypatch.setattr("sys.stdin", io.StringIO("Hello\nyou\n"))
            assert run("chat", "parrot", *words).out == "Hello you \n"
        monkeypatch.setattr("sys.stdin", io.StringIO(""))
        assert run("chat", "parrot").status == 2

    def test_system_comes_first(self, host: str, run: Run) -> None:
        assert run("chat", "parrot", "HISTORY", "--system", "Be kind").out == "Be kind | HISTORY\n"

    def test_error_after_the_first_chunk(self, host: str, run: Run) -> None:
        result = run("chat", "parrot", "Hello BOOM")
        assert (result.status, result.out) == (1, "Hello \n")
        assert "handler_error" in result.err

    def test_missing_key_has_a_remedy(self, host: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HANDLER_HOST_API_KEY")
        result = run("chat", "parrot", "hello")
        assert result.status == 1
        assert "set HANDLER_HOST_API_KEY" in result.err


class TestOutput:
    def test_chunks_are_printed_as_they_arrive(
        self, run: Run, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Given a server that sends the second chunk only after the first was printed, the chat completes."""
        printed = threading.Event()
        output: list[str] = []

        class Output(io.StringIO):
            def write(self, text: str) -> int:
                output.append(text)
                printed.set()
                return super().write(text)

        def response() -> Iterator[bytes]:
            yield (STREAM_HEAD + CHAT_CHUNK % "one ").encode()
            assert printed.wait(10), "the first chunk was not printed before the second came"
            yield (CHAT_CHUNK % "two" + "data: [DONE]\n\n").encode()

        monkeypatch.setattr("sys.stdout", Output())
        run("chat", "any", "hello", "--url", start_server(response()).url)
        assert "".join(output) == "one two\n"

    def test_unprintable_characters_are_replaced(self, host: str) -> None:
        """Given an output that can only encode ASCII, other letters are no traceback."""
        process = subprocess.run(
            [sys.executable, "-m", "handler_host", "chat", "parrot", "Grüße 👋"],
            env=os.environ | {"PYTHONIOENCODING": "ascii"},
            capture_output=True,
        )
        assert (process.returncode, process.stdout, process.stderr) == (0, b"Gr??e ? \n", b"")

    def test_control_characters_do_not_reach_the_terminal(self, start_server: StartServer) -> None:
        response = STREAM_HEAD + CHAT_CHUNK % "\\u001b[2J\\u009b2Jhe\\tllo\\nyou" + "data: [DONE]\n\n"
        server = start_server([response.encode()])
        with Terminal("chat", "any", "Hello", "--url", server.url) as terminal:
            terminal.until("\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}2Jhe\tllo\r\nyou\r\n")


def endless_response() -> Iterator[bytes]:
    return (chunk.encode() for chunk in itertools.chain([STREAM_HEAD], itertools.repeat(CHAT_CHUNK % "on ")))


class TestDialogue:
    def test_remembers_responses_and_ends_with_the_input(self, host: str) -> None:
        with Terminal("chat", "parrot") as terminal:
            terminal.until("you> ")
            terminal.type("Hello\n")
            terminal.until("Hello \r\n")
            terminal.until("you> ")
            terminal.type("BOOM\n")
            terminal.until("handler_error")
            terminal.until("you> ")
            terminal.type("HISTORY\n")
            terminal.until("Hello | Hello  | HISTORY\r\n")
            terminal.until("you> ")
            terminal.type("\x04")
            assert terminal.wait() == 0

    def test_ctrl_c_stops_a_response_then_the_dialogue(self, start_server: StartServer) -> None:
        with Terminal("chat", "any", "--url", start_server(endless_response()).url) as terminal:
            terminal.until("you> ")
            terminal.type("Hello\n")
            terminal.until("on on on")
            terminal.type("\x03")
            terminal.until("(interrupted; Ctrl-D ends the dialogue)")
            terminal.until("you> ")
            assert terminal.interrupt() == 130

    def test_ctrl_c_stops_a_single_response(self, start_server: StartServer) -> None:
        with Terminal("chat", "any", "Hello", "--url", start_server(endless_response()).url) as terminal:
            terminal.until("on on on")
            terminal.type("\x03")
            assert terminal.wait() == 130
            assert "Traceback" not in terminal.remaining()
