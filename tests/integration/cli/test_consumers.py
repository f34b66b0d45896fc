"""``dispatch`` and ``chat``, against the real host."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from handler_host.cli.dispatch import request_body
from handler_host.cli.failure import Failure
from tests.integration.cli.running import CHUNK, STREAM, Run, Stranger, Terminal


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        ([], {}),
        (['{"a": [1, null]}'], {"a": [1, None]}),
        (["[1]"], [1]),
        (['"a=b"'], "a=b"),
        (["--to", "google", "--dry-run"], {"to": "google", "dry_run": True}),
        (["--dry-run", "--to", "google"], {"dry_run": True, "to": "google"}),
        (["to=google", "rows=3", 'deep={"x": 1}'], {"to": "google", "rows": 3, "deep": {"x": 1}}),
        (["--text=--x", "--by", "-5", "empty="], {"text": "--x", "by": -5, "empty": ""}),
        (['--id="42"', "--note", "two words"], {"id": "42", "note": "two words"}),
        (["--row", "a", "--row", "b", "--row", "c"], {"row": ["a", "b", "c"]}),
    ],
)
def test_words_after_the_operation_are_the_request(words: list[str], meaning: object) -> None:
    assert json.loads(request_body(words)) == meaning


@pytest.mark.parametrize("words", [["{"], ["hello"], ["--", "x"], ["a=1", "b"], ["@/no/such/file"]])
def test_words_that_are_no_request_are_wrong_usage(words: list[str]) -> None:
    with pytest.raises(Failure) as caught:
        request_body(words)
    assert caught.value.status == 2


def test_a_document_is_passed_on_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that Python would round, and the order and doubles of keys, are the handler's matter."""
    text = b'{"n": 1.00000000000000000001, "n": 2}'
    (tmp_path / "request.json").write_bytes(text)
    assert request_body([f"@{tmp_path}/request.json"]) == text
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert request_body(["-"]) == text


def test_dispatch_prints_the_answer(host: str, run: Run) -> None:
    result = run("dispatch", "parrot", "echo", "--to", "Zürich", "--dry-run", "--stream=no")
    assert result.status == 0, result.err
    assert json.loads(result.out) == {"to": "Zürich", "dry_run": True, "stream": "no"}
    assert "Zürich" in result.out


def test_dispatch_streams_a_line_for_each_piece(host: str, run: Run) -> None:
    result = run("dispatch", "parrot", "count", "--upto", "2", "--stream")
    assert (result.status, result.out) == (0, "0\n1\n")
    assert run("dispatch", "--stream", "parrot", "count", "upto=2").out == "0\n1\n"


def test_dispatch_tells_of_an_error_within_a_stream(host: str, run: Run) -> None:
    result = run("dispatch", "parrot", "count", "--upto", "9", "--stream")
    assert (result.status, result.out) == (1, "0\n1\n2\n")
    assert "handler_error" in result.err
    assert "too much" not in result.err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("nobody", "chat"), "unknown_handler"),
        (("parrot", "sing"), "unknown_operation"),
        (("parrot", "count", "--upto", "many"), "invalid_input"),
        (("keyless", "chat"), "handler_unavailable"),
        (("a/../b", "chat"), "unknown_handler"),
        (("ümlaut", "?x=y#z"), "unknown_handler"),
    ],
)
def test_a_refusal_has_its_message_code_and_request(words: tuple[str, ...], code: str, host: str, run: Run) -> None:
    result = run("dispatch", *words)
    assert (result.status, result.out) == (1, "")
    assert re.fullmatch(rf"handler-host: .+ \({code}, request [\w-]+.*\)\n", result.err)


def test_a_missing_key_is_refused_with_the_remedy(host: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HANDLER_HOST_API_KEY")
    result = run("chat", "parrot", "hello")
    assert result.status == 1
    assert "set HANDLER_HOST_API_KEY" in result.err


def test_chat_prints_the_answer(host: str, run: Run) -> None:
    result = run("chat", "parrot", "Hello you")
    assert result.status == 0, result.err
    assert (result.out, result.err) == ("Hello you \n", "")


def test_chat_tells_of_the_cold_start(host: str, run: Run) -> None:
    cold = run("chat", "-v", "parrot", "Hello", "--max-tokens", "5", "--temperature", "0")
    warm = run("chat", "-v", "parrot/some-model", "Hello")
    assert re.match(r"\(cold start \d+.*, first piece after .*, 2 tokens in .*\)\n", cold.err)
    assert re.match(r"\(warm, first piece after .*, 2 tokens in .*\)\n", warm.err)


def test_chat_takes_its_message_from_a_pipe(host: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in ((), ("-",)):
        monkeypatch.setattr("sys.stdin", io.StringIO("Hello\nyou\n"))
        assert run("chat", "parrot", *words).out == "Hello you \n"
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert run("chat", "parrot").status == 2


def test_chat_sends_the_instructions_first(host: str, run: Run) -> None:
    assert run("chat", "parrot", "HISTORY", "--system", "Be kind").out == "Be kind | HISTORY\n"


def test_chat_tells_of_an_error_after_what_was_said(host: str, run: Run) -> None:
    result = run("chat", "parrot", "Hello BOOM")
    assert (result.status, result.out) == (1, "Hello \n")
    assert "handler_error" in result.err


def test_pieces_are_printed_when_they_come(
    run: Run, stranger: Callable[[Iterator[bytes]], Stranger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a server that goes on only when the first piece was printed, the chat comes to its end."""
    printed = threading.Event()
    seen: list[str] = []

    class Output(io.StringIO):
        def write(self, text: str) -> int:
            seen.append(text)
            printed.set()
            return super().write(text)

    def rest() -> Iterator[bytes]:
        yield (STREAM + CHUNK % "one ").encode()
        assert printed.wait(10), "the first piece was not printed before the second came"
        yield (CHUNK % "two" + "data: [DONE]\n\n").encode()

    monkeypatch.setattr("sys.stdout", Output())
    run("chat", "any", "hello", "--url", stranger(rest()).url)
    assert "".join(seen) == "one two\n"


def test_a_dialogue_remembers_what_was_answered_and_ends_with_the_input(host: str) -> None:
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
        assert terminal.process.wait(20) == 0


def test_ctrl_c_ends_an_answer_and_at_the_prompt_the_dialogue(stranger: Callable[[Iterator[bytes]], Stranger]) -> None:
    """Given an answer that goes on for ever, Ctrl-C ends it, and a second one the command."""
    endless = (chunk.encode() for chunk in itertools.chain([STREAM], itertools.repeat(CHUNK % "on ")))
    with Terminal("chat", "any", "--url", stranger(endless).url) as terminal:
        terminal.until("you> ")
        terminal.type("Hello\n")
        terminal.until("on on on")
        terminal.type("\x03")
        terminal.until("(interrupted; Ctrl-D ends the dialogue)")
        terminal.until("you> ")
        assert terminal.interrupted() == 130


def test_ctrl_c_ends_one_answer_with_130(stranger: Callable[[Iterator[bytes]], Stranger]) -> None:
    endless = (chunk.encode() for chunk in itertools.chain([STREAM], itertools.repeat(CHUNK % "on ")))
    with Terminal("chat", "any", "Hello", "--url", stranger(endless).url) as terminal:
        terminal.until("on on on")
        terminal.type("\x03")
        assert terminal.process.wait(20) == 130
        assert "Traceback" not in terminal.rest()


def test_what_cannot_be_printed_is_replaced(host: str) -> None:
    """Given an output that knows ASCII only, an answer in other letters is no traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "handler_host", "chat", "parrot", "Grüße 👋"],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"Gr??e ? \n", b"")


def test_what_a_model_says_does_not_command_the_terminal(stranger: Callable[[list[bytes]], Stranger]) -> None:
    response = STREAM + CHUNK % "\\u001b[2J\\u009b2Jhe\\tllo\\nyou" + "data: [DONE]\n\n"
    server = stranger([response.encode()])
    with Terminal("chat", "any", "Hello", "--url", server.url) as terminal:
        terminal.until("\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}2Jhe\tllo\r\nyou\r\n")
