"""``handler-host dispatch``, with the real host."""

from __future__ import annotations

import json
import re

import pytest

from tests.integration.cli.harness import Run


def test_response_is_printed(host: str, run: Run) -> None:
    result = run("dispatch", "parrot", "echo", "--to", "Zürich", "--dry-run", "--stream=no")
    assert result.status == 0, result.err
    assert json.loads(result.out) == {"to": "Zürich", "dry_run": True, "stream": "no"}
    assert "Zürich" in result.out


class TestWithoutRequest:
    def test_operation_without_required_fields_runs(self, host: str, run: Run) -> None:
        result = run("dispatch", "parrot", "echo")
        assert (result.status, json.loads(result.out), result.err) == (0, {}, "")

    @pytest.mark.parametrize("words", [[], ["--stream"]])
    def test_required_fields_are_named(self, words: list[str], host: str, run: Run) -> None:
        result = run("dispatch", "parrot", "chat", *words)
        assert (result.status, result.out) == (1, "")
        assert "(invalid_input, request " in result.err
        assert "the request is empty; add fields as --field value" in result.err
        assert "Fields of chat: messages (required), " in result.err

    def test_invalid_request_has_no_hint(self, host: str, run: Run) -> None:
        assert "the request is empty" not in run("dispatch", "parrot", "chat", "--messages", "7").err


class TestStream:
    def test_prints_a_line_for_each_chunk(self, host: str, run: Run) -> None:
        result = run("dispatch", "parrot", "count", "--upto", "2", "--stream")
        assert (result.status, result.out) == (0, "0\n1\n")
        assert run("dispatch", "--stream", "parrot", "count", "upto=2").out == "0\n1\n"

    def test_error_after_the_first_chunk(self, host: str, run: Run) -> None:
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
def test_refusal_has_message_code_and_request(words: tuple[str, ...], code: str, host: str, run: Run) -> None:
    result = run("dispatch", *words)
    assert (result.status, result.out) == (1, "")
    assert re.fullmatch(rf"handler-host: .+ \({code}, request [\w-]+.*\)\n", result.err)
