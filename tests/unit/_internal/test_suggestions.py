"""The suggestion for a misspelt word."""

from __future__ import annotations

import pytest

from handler_host._internal.suggestions import did_you_mean, nearest


class TestNearest:
    @pytest.mark.parametrize(
        ("word", "match"),
        [("max_quue", "max_queue"), ("max-queue", "max_queue"), ("MAX_QUEUE", "max_queue"), ("zzz", None), ("", None)],
    )
    def test_ignores_case_and_dashes(self, word: str, match: str | None) -> None:
        assert nearest(word, ["linger", "max_queue", "preload"]) == match

    def test_returns_the_word_as_it_is_spelt(self) -> None:
        assert nearest("my_gpt", ["My-GPT"]) == "My-GPT"


class TestDidYouMean:
    def test_similar_word(self) -> None:
        assert did_you_mean("prelod", ["linger", "preload"]) == "; did you mean 'preload'?"

    def test_lists_the_known_words_in_order(self) -> None:
        assert did_you_mean("zzz", {"preload", "linger"}) == "; known: linger, preload"

    def test_nothing_known(self) -> None:
        assert did_you_mean("zzz", []) == ""
