"""Text of handlers and servers on a terminal."""

from __future__ import annotations

from handler_host.cli.render import sanitize


def test_characters_that_a_terminal_obeys_are_replaced() -> None:
    assert sanitize("a\x1b[31m\tb\n\x9bc\u202ed\u202de") == "a\ufffd[31m\tb\n\ufffdc\ufffdd\ufffde"


def test_marks_and_letters_of_other_languages_stay() -> None:
    text = "\u05d0\u200f \u2067\u0645\u2069 \u200d é"
    assert sanitize(text) == text
