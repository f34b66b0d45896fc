"""One line per event, as text or as JSON: never a secret in it, and never an exception."""

from __future__ import annotations

import datetime
import io
import json
import logging
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handler_host._internal import log as logs
from handler_host._internal.log import JsonFormatter, TextFormatter, register_secrets
from handler_host.config import LogConfig

FIGURES = {"handler": "gpt_a", "generation": 1, "pss": 43201331}


@pytest.fixture(autouse=True)
def _no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_secrets", ())


def record(message: Any = "activated", *arguments: Any, fields: Any = None, error: Any = None) -> logging.LogRecord:
    made = logging.LogRecord("handler_host.lifecycle.supervisor", logging.INFO, "x.py", 1, message, arguments, error)
    made.created = datetime.datetime(2026, 11, 23, 18, 40, 12, 123456, datetime.UTC).timestamp()
    made.fields = fields
    return made


def text(*arguments: Any, **options: Any) -> str:
    return TextFormatter().format(record(*arguments, **options))


def line(*arguments: Any, **options: Any) -> dict[str, Any]:
    written = JsonFormatter().format(record(*arguments, **options))
    assert "\n" not in written
    parsed: dict[str, Any] = json.loads(written)
    return parsed


def exc_info(message: str) -> Any:
    try:
        raise RuntimeError(message)
    except RuntimeError:
        return sys.exc_info()


class TestText:
    def test_one_line(self) -> None:
        assert text(fields=FIGURES) == (
            "2026-11-23T18:40:12.123Z INFO    handler_host.lifecycle.supervisor activated"
            " handler=gpt_a generation=1 pss=41.2MB"
        )

    def test_given_back_is_a_size(self) -> None:
        assert text("unloaded", fields={"given_back": 50 * 2**20}).endswith(" given_back=50.0MB")

    def test_figures(self) -> None:
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

    def test_further_lines_are_indented(self) -> None:
        """Without it, a text could forge a line of the log."""
        shown = text("first\n2026-01-01T00:00:00.000Z INFO    host forged\r\nthird", fields={"a": 1}).split("\n")
        assert shown[0].endswith("handler_host.lifecycle.supervisor first a=1")
        assert shown[1:] == ["    2026-01-01T00:00:00.000Z INFO    host forged", "    third"]

    def test_traceback_is_indented(self) -> None:
        shown = text("failed", error=exc_info("why")).split("\n")
        assert shown[1] == "    Traceback (most recent call last):"
        assert shown[-1] == "    RuntimeError: why"
        assert all(part.startswith("    ") for part in shown[1:])

    def test_control_characters_are_escaped(self) -> None:
        shown = text("\x1b[2Jgone\x07", fields={"a": "\x9b1m"})
        assert shown.endswith("\\x1b[2Jgone\\x07 a=\\x9b1m")

    def test_characters_that_reorder_a_line_are_escaped(self) -> None:
        """A terminal would show ``status=404`` of a line elsewhere; letters of right-to-left languages stay."""
        shown = text("a\u202eb \u05d0", fields={"model": "x\u202ey", "other": "\u2066z"})
        assert shown.endswith("a\\u202eb \u05d0 model=x\\u202ey other=\\u2066z")

    def test_figure_with_line_end(self) -> None:
        assert "\n" not in text("x", fields={"a": "1\n2"})


class TestJson:
    def test_one_object(self) -> None:
        assert line(fields=FIGURES) == {
            "time": "2026-11-23T18:40:12.123Z",
            "level": "info",
            "logger": "handler_host.lifecycle.supervisor",
            "event": "activated",
            **FIGURES,
        }

    def test_traceback_is_a_key(self) -> None:
        parsed = line("two\nlines", error=exc_info("why"))
        assert parsed["event"] == "two\nlines"
        assert parsed["traceback"].endswith("RuntimeError: why")

    def test_fields_do_not_replace_the_keys_of_the_line(self) -> None:
        parsed = line(fields={"time": 1, "level": 2, "event": 3, "traceback": 4, "logger": "httpx"})
        assert (parsed["event"], parsed["level"], parsed["field_event"], parsed["logger"]) == (
            "activated",
            "info",
            3,
            "httpx",
        )
        assert "traceback" not in parsed


class Unprintable:
    """An object whose text raises."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


loop: list[Any] = []
loop.append(loop)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.builds(Unprintable),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=8,
)


class TestNeverRaises:
    @pytest.mark.parametrize("form", [text, line], ids=["text", "json"])
    @pytest.mark.parametrize(
        "value",
        [
            Unprintable(),
            [Unprintable()],
            {Unprintable(): 1},
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
    def test_any_figure(self, form: Callable[..., object], value: object) -> None:
        assert "good" in str(form("x", fields={"bad": value, "good": 1}))

    @pytest.mark.parametrize("form", [text, line], ids=["text", "json"])
    def test_invalid_call(self, form: Callable[..., object]) -> None:
        assert "100%, sure (arguments" in str(form("100%, sure", 1))
        assert "%s %s (arguments" in str(form("%s %s", "one"))
        assert "of %s (arguments" in str(form("of %s", Unprintable()))
        assert "Unprintable" in str(form(Unprintable()))
        assert "activated" in str(form(fields="no table"))

    @given(st.text(), st.dictionaries(st.text(), values, max_size=3))
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_any_text(self, message: str, fields: dict[str, Any]) -> None:
        assert text(message, fields=fields).encode("utf-8", "strict")
        assert isinstance(line(message, fields=fields), dict)


class TestSecrets:
    @pytest.mark.parametrize(
        "secret", ["sk-secret-1", 'with "quotes" \\ and\ttab', "schlüssel-€-\N{KEY}", "a/b+c=d&e f"]
    )
    def test_masked_everywhere(self, secret: str) -> None:
        register_secrets([secret])
        fields = {
            "plain": f"key {secret}.",
            "deep": [{"x": (secret,)}],
            secret: "as a name",
            "shown": repr({"key": secret}),
            "error": ValueError(secret),
            "json": json.dumps({"key": secret}),
        }
        for written in (
            text("sent %s and more", secret, fields=fields, error=exc_info(f"of {secret}")),
            JsonFormatter().format(record("sent %s", secret, fields=fields, error=exc_info(f"of {secret}"))),
        ):
            for form in (
                secret,
                repr(secret)[1:-1],
                json.dumps(secret)[1:-1],
                json.dumps(secret, ensure_ascii=False)[1:-1],
            ):
                assert form not in written
            assert "***" in written

    def test_each_line_is_masked(self) -> None:
        key = (
            "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0\nBAQEFAASCBKcwggSjAgEAAo\n-----END PRIVATE KEY-----\n"
        )
        register_secrets([key])
        shown = text(f"got {key}") + text("only MIIEvQIBADANBgkqhkiG9w0 of it") + text("as figure", fields={"k": key})
        assert "MIIE" not in shown
        assert "BAQE" not in shown

    def test_a_secret_that_contains_another_is_masked_whole(self) -> None:
        register_secrets(["sk-secret"])
        register_secrets(["sk-secret-and-more"])
        assert text("x sk-secret-and-more y").endswith("x *** y")

    def test_short_secrets_are_not_masked(self) -> None:
        """They would match parts of ordinary words."""
        register_secrets(["", "a", "on", "12345"])
        assert text("nothing on 12345").endswith("nothing on 12345")

    def test_json_stays_valid(self) -> None:
        register_secrets(['","logger":"', "activated", "handler_host.lifecycle.supervisor"])
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
class TestSetup:
    @pytest.mark.parametrize("form", ["text", "json"])
    def test_standard_error_from_the_level_on(self, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        logs.setup(LogConfig(format="json" if form == "json" else "text", level="warning"))
        log = logging.getLogger("host.test")
        log.info("below the level")
        log.warning("at the level", extra={"fields": {"handler": "gpt_a"}})
        (only,) = stream.getvalue().splitlines()
        assert "at the level" in only
        assert "gpt_a" in only
        assert only.startswith("{") is (form == "json")

    def test_formats_of_inline_handlers_have_all_fields(self) -> None:
        logs.setup(LogConfig())
        record = logging.getLogger("sdk").makeRecord("sdk", logging.INFO, __file__, 1, "text", (), None)
        fields = logging.Formatter("%(process)d %(processName)s %(thread)d %(threadName)s").format(record)
        assert fields == f"{os.getpid()} MainProcess {threading.get_ident()} MainThread"

    def test_removed_level_is_reset(self) -> None:
        logs.setup(LogConfig(levels={"talker": "debug"}))
        assert logging.getLogger("handler.talker").getEffectiveLevel() == logging.DEBUG
        logs.setup(LogConfig(level="warning"))
        assert logging.getLogger("handler.talker").getEffectiveLevel() == logging.WARNING
        logs.setup(LogConfig())
