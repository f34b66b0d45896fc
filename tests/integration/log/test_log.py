"""One line for each event, for people or for programs; never a secret, and never an exception."""

from __future__ import annotations

import datetime
import io
import json
import logging
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handler_host._internal import log as logs
from handler_host._internal.log import JsonFormatter, TextFormatter, redact

FIGURES = {"handler": "gpt_a", "generation": 1, "pss": 43201331}


@pytest.fixture(autouse=True)
def _no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_secrets", ())


def record(message: Any = "activated", *arguments: Any, fields: Any = None, error: Any = None) -> logging.LogRecord:
    made = logging.LogRecord("handler_host.lifecycle.supervisor", logging.INFO, "x.py", 1, message, arguments, error)
    made.created = datetime.datetime(2026, 11, 23, 18, 40, 12, 123456, datetime.UTC).timestamp()
    made.fields = fields
    return made


def text(*arguments: Any, **more: Any) -> str:
    return TextFormatter().format(record(*arguments, **more))


def line(*arguments: Any, **more: Any) -> dict[str, Any]:
    written = JsonFormatter().format(record(*arguments, **more))
    assert "\n" not in written
    found: dict[str, Any] = json.loads(written)
    return found


def raised(message: str) -> Any:
    try:
        raise RuntimeError(message)
    except RuntimeError:
        return sys.exc_info()


class TestText:
    def test_is_one_readable_line(self) -> None:
        assert text(fields=FIGURES) == (
            "2026-11-23T18:40:12.123Z INFO    handler_host.lifecycle.supervisor activated handler=gpt_a generation=1 pss=41.2MB"
        )

    def test_the_memory_that_an_unload_gave_back_is_a_size(self) -> None:
        assert text("unloaded", fields={"given_back": 50 * 2**20}).endswith(" given_back=50.0MB")

    def test_shows_figures_for_people(self) -> None:
        fields = {
            "seconds": 1.23456,
            "reason": "no key",
            "empty": "",
            "none": None,
            "workers": {"a": 2**20, "b": 2**21},
        }
        assert text("x", fields=fields).endswith(
            "x seconds=1.235 reason='no key' empty='' none=null workers=a:1.0MB,b:2.0MB"
        )
        assert text("x", fields={"workers": {}}).endswith("workers=none")

    def test_indents_what_has_more_lines(self) -> None:
        """So that no text can pass for a line of its own."""
        shown = text("first\n2026-01-01T00:00:00.000Z INFO    host forged\r\nthird", fields={"a": 1}).split("\n")
        assert shown[0].endswith("handler_host.lifecycle.supervisor first a=1")
        assert shown[1:] == ["    2026-01-01T00:00:00.000Z INFO    host forged", "    third"]

    def test_indents_tracebacks(self) -> None:
        shown = text("failed", error=raised("why")).split("\n")
        assert shown[1] == "    Traceback (most recent call last):"
        assert shown[-1] == "    RuntimeError: why"
        assert all(part.startswith("    ") for part in shown[1:])

    def test_does_not_steer_the_terminal(self) -> None:
        shown = text("\x1b[2Jgone\x07", fields={"a": "\x9b1m"})
        assert shown.endswith("\\x1b[2Jgone\\x07 a=\\x9b1m")

    def test_keeps_one_line_for_figures_with_line_ends(self) -> None:
        assert "\n" not in text("x", fields={"a": "1\n2"})


class TestJson:
    def test_is_one_object(self) -> None:
        assert line(fields=FIGURES) == {
            "time": "2026-11-23T18:40:12.123Z",
            "level": "info",
            "logger": "handler_host.lifecycle.supervisor",
            "event": "activated",
            **FIGURES,
        }

    def test_has_the_traceback_as_a_field(self) -> None:
        found = line("two\nlines", error=raised("why"))
        assert found["event"] == "two\nlines"
        assert found["traceback"].endswith("RuntimeError: why")

    def test_fields_do_not_replace_the_frame(self) -> None:
        found = line(fields={"time": 1, "level": 2, "event": 3, "traceback": 4, "logger": "httpx"})
        assert (found["event"], found["level"], found["field_event"], found["logger"]) == (
            "activated",
            "info",
            3,
            "httpx",
        )
        assert "traceback" not in found


class Odd:
    """An object that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


loop: list[Any] = []
loop.append(loop)


@pytest.mark.parametrize("form", [text, line], ids=["text", "json"])
@pytest.mark.parametrize(
    "value",
    [
        Odd(),
        [Odd()],
        {Odd(): 1},
        loop,
        {(1, 2): {3}, None: b"x"},
        10**400,
        -(10**30),
        math.nan,
        math.inf,
        "\ud800",
        Path("/x"),
        ValueError("x"),
        object(),
        lambda: None,
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_figure_makes_it_fail(form: Callable[..., object], value: object) -> None:
    assert "good" in str(form("x", fields={"bad": value, "good": 1}))


@pytest.mark.parametrize("form", [text, line], ids=["text", "json"])
def test_a_wrong_call_does_not_lose_the_event(form: Callable[..., object]) -> None:
    assert "100%, sure (arguments" in str(form("100%, sure", 1))
    assert "%s %s (arguments" in str(form("%s %s", "one"))
    assert "of %s (arguments" in str(form("of %s", Odd()))
    assert "Odd" in str(form(Odd()))
    assert "activated" in str(form(fields="no table"))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.builds(Odd),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@given(st.text(), st.dictionaries(st.text(), values, max_size=3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_anything_can_be_logged(message: str, fields: dict[str, Any]) -> None:
    assert text(message, fields=fields).encode("utf-8", "strict")
    assert isinstance(line(message, fields=fields), dict)


class TestSecrets:
    @pytest.mark.parametrize(
        "secret", ["sk-secret-1", 'with "quotes" \\ and\ttab', "schlüssel-€-\N{KEY}", "a/b+c=d&e f"]
    )
    def test_are_masked_everywhere(self, secret: str) -> None:
        # given
        redact([secret])
        fields = {
            "plain": f"key {secret}.",
            "deep": [{"x": (secret,)}],
            secret: "as a name",
            "shown": repr({"key": secret}),
            "error": ValueError(secret),
            "json": json.dumps({"key": secret}),
        }
        for written in (
            text("sent %s and more", secret, fields=fields, error=raised(f"of {secret}")),
            JsonFormatter().format(record("sent %s", secret, fields=fields, error=raised(f"of {secret}"))),
        ):
            for form in (
                secret,
                repr(secret)[1:-1],
                json.dumps(secret)[1:-1],
                json.dumps(secret, ensure_ascii=False)[1:-1],
            ):
                assert form not in written
            assert "***" in written

    def test_of_several_lines_are_masked_line_by_line(self) -> None:
        key = (
            "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0\nBAQEFAASCBKcwggSjAgEAAo\n-----END PRIVATE KEY-----\n"
        )
        redact([key])
        shown = text(f"got {key}") + text("only MIIEvQIBADANBgkqhkiG9w0 of it") + text("as figure", fields={"k": key})
        assert "MIIE" not in shown
        assert "BAQE" not in shown

    def test_that_contain_others_are_masked_whole(self) -> None:
        redact(["sk-secret"])
        redact(["sk-secret-and-more"])
        assert text("x sk-secret-and-more y").endswith("x *** y")

    def test_that_are_too_short_are_left(self) -> None:
        """They would be found in every word."""
        redact(["", "a", "on", "12345"])
        assert text("nothing on 12345").endswith("nothing on 12345")

    def test_do_not_break_the_json(self) -> None:
        redact(['","logger":"', "activated", "handler_host.lifecycle.supervisor"])
        assert line(fields={"a": "activated"})["a"] == "***"


@pytest.fixture
def _root_logger() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:] = before
    root.setLevel(level)


@pytest.mark.usefixtures("_root_logger")
@pytest.mark.parametrize("form", ["text", "json"])
def test_setup_sends_what_is_asked_for_to_standard_error(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    logs.setup(logs.LogConfig(format="json" if form == "json" else "text", level="warning"))
    # when
    log = logging.getLogger("host.test")
    log.info("not asked for")
    log.warning("asked for", extra={"fields": {"handler": "gpt_a"}})
    # then
    (only,) = stream.getvalue().splitlines()
    assert "asked for" in only
    assert "gpt_a" in only
    assert only.startswith("{") is (form == "json")


def test_a_character_that_the_stream_cannot_carry_is_escaped() -> None:
    script = (
        "import logging, handler_host._internal.log; from handler_host.config import LogConfig; handler_host._internal.log.setup(LogConfig())\n"
        "logging.getLogger('x').warning('half \\ud800 and \\u20ac')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env={"PYTHONIOENCODING": "ascii"})
    assert done.stderr.rstrip().endswith(rb"x half \ud800 and \u20ac")
