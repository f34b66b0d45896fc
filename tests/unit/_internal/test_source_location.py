"""Places that messages name: of an object in its source, of a key in a TOML file."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path

import pytest

from handler_host._internal.source_location import in_brackets, line_of, lines_of, place_in_toml, place_of

TOML = """\
title = "x"
[config.model]
type = "string"
[memory] # of the worker
estimate.size = 1
"quoted-key" = 2
"""


class Example:
    def method(self) -> None: ...


class TestPlaceOf:
    def test_function_and_class(self) -> None:
        line = inspect.getsourcelines(Example)[1]
        assert place_of(Example) == f"{Path(__file__)}:{line}"
        assert place_of(Example.method) == f"{Path(__file__)}:{line + 1}"

    def test_wrapped_function(self) -> None:
        @functools.wraps(Example.method)
        def wrapper() -> None: ...

        assert place_of(wrapper) == place_of(Example.method)

    @pytest.mark.parametrize("target", [int, len, 7])
    def test_no_source(self, target: object) -> None:
        assert place_of(target) == ""
        assert in_brackets(place_of(target)) == ""

    def test_brackets(self) -> None:
        assert in_brackets("a.py:1") == " (a.py:1)"


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (["title"], 1),
        (["config"], 2),
        (["config", "model", "type"], 3),
        (["memory"], 4),
        (["memory", "estimate", "size"], 5),
        (["memory", "quoted-key"], 6),
        (["missing"], None),
    ],
)
def test_line_of_a_toml_key(path: list[str], line: int | None) -> None:
    assert line_of(TOML, path) == line


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (["config", "model", "type"], "x.toml:3"),
        (["memory", "estimate", "unit"], "x.toml:5"),
        (["memory", "other"], "x.toml:4"),
        (["missing"], "x.toml"),
    ],
)
def test_place_is_that_of_the_innermost_table(path: list[str], place: str) -> None:
    assert place_in_toml("x.toml", lines_of(TOML), path) == place
