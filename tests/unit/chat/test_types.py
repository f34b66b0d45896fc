"""A chat's types: pieces are joined the same however they were cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from handler_host.chat.types import ChatChunk, ToolCallDelta, Usage, accumulate

TEXT = st.text(max_size=30)


def cut(text: str, places: list[int]) -> list[str]:
    at = sorted({place % (len(text) + 1) for place in places})
    return [text[start:end] for start, end in zip([0, *at], [*at, len(text)], strict=True)]


@given(TEXT, TEXT, st.lists(st.integers(0, 100), max_size=5))
def test_text_and_arguments_are_joined_the_same_however_they_are_cut(
    text: str, arguments: str, places: list[int]
) -> None:
    chunks = [ChatChunk(text=part) for part in cut(text, places)]
    chunks += [ChatChunk(tool_calls=[ToolCallDelta(index=0, id="c1", name="look")])]
    chunks += [ChatChunk(tool_calls=[ToolCallDelta(index=0, arguments=part)]) for part in cut(arguments, places)]
    chunks += [ChatChunk(finish_reason="tool_calls"), ChatChunk(usage=Usage(prompt_tokens=1), model="m")]
    response = accumulate(chunks)
    assert response.text == text
    assert response.tool_calls is not None
    assert [(call.id, call.function.name, call.function.arguments) for call in response.tool_calls] == [
        ("c1", "look", arguments)
    ]
    assert (response.finish_reason, response.model, response.usage) == ("tool_calls", "m", Usage(prompt_tokens=1))


def test_nothing_joined_is_an_answer_without_text() -> None:
    assert accumulate([]).text is None
