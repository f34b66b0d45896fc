"""Models of gpt_d whose server streams whatever is asked."""

from __future__ import annotations

import gpt_d


def test_their_number_is_bounded_and_the_oldest_leaves() -> None:
    handler = gpt_d.GptD()
    handler._only_streams = {}
    for number in range(gpt_d.MAX_ONLY_STREAMS + 2):
        handler._note_only_streams(f"openai/{number}")
    assert len(handler._only_streams) == gpt_d.MAX_ONLY_STREAMS
    assert list(handler._only_streams)[:1] == ["openai/2"]
