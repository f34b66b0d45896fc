"""Documents of Gemini's streams, as servers and proxies write them."""

from __future__ import annotations

from typing import Any

import pytest

from gpt_c.documents import chunks_of


@pytest.mark.parametrize("document", [{"candidates": None}, {"candidates": []}, {"usage_metadata": None}, {}])
def test_a_document_without_content_has_no_chunk_of_text(document: dict[str, Any]) -> None:
    (chunk,) = chunks_of(document)
    assert (chunk.text, chunk.calls, chunk.finish, chunk.blocked) == ("", (), None, None)


def test_a_refused_prompt_has_the_words_of_the_provider() -> None:
    feedback = {"blockReason": "OTHER", "blockReasonMessage": "not in this region"}
    assert chunks_of({"promptFeedback": feedback})[0].blocked == "OTHER: not in this region"
