"""A chat's types: pieces are joined the same however they were cut; what makes no sense is named by its place."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.chat_types import ChatPiece, ChatRequest, ToolCallDelta, Usage, check, join
from host.errors import InvalidInput

TEXT = st.text(max_size=30)


def cut(text: str, places: list[int]) -> list[str]:
    at = sorted({place % (len(text) + 1) for place in places})
    return [text[start:end] for start, end in zip([0, *at], [*at, len(text)], strict=True)]


@given(TEXT, TEXT, st.lists(st.integers(0, 100), max_size=5))
def test_text_and_arguments_are_joined_the_same_however_they_are_cut(
    text: str, arguments: str, places: list[int]
) -> None:
    pieces = [ChatPiece(text=part) for part in cut(text, places)]
    pieces += [ChatPiece(tool_calls=[ToolCallDelta(index=0, id="c1", name="look")])]
    pieces += [ChatPiece(tool_calls=[ToolCallDelta(index=0, arguments=part)]) for part in cut(arguments, places)]
    pieces += [ChatPiece(finish_reason="tool_calls"), ChatPiece(usage=Usage(prompt_tokens=1), model="m")]
    answer = join(pieces)
    assert answer.text == text
    assert answer.tool_calls is not None
    assert [(call.id, call.function.name, call.function.arguments) for call in answer.tool_calls] == [
        ("c1", "look", arguments)
    ]
    assert (answer.finish_reason, answer.model, answer.usage) == ("tool_calls", "m", Usage(prompt_tokens=1))


def test_nothing_joined_is_an_answer_without_text() -> None:
    assert join([]).text is None


def request(*messages: dict[str, Any]) -> ChatRequest:
    return msgspec.convert({"messages": list(messages)}, ChatRequest)


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ((), "messages"),
        (({"role": "assistant"},), "messages[0].content"),
        (({"role": "user", "content": "a"}, {"role": "tool", "content": "x", "tool_call_id": "c"}),
         "messages[1].tool_call_id"),
        (({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "ftp://x"}}]},),
         "messages[0].content[0].image_url.url"),
    ],
)  # fmt: skip
def test_what_no_provider_can_make_sense_of_is_named_by_its_place(
    messages: tuple[dict[str, Any], ...], param: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        check(request(*messages))
    assert caught.value.param == param


def test_a_tool_result_after_its_call_is_in_order() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    check(
        request(
            {"role": "user", "content": "look"},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "content": "a cat", "tool_call_id": "c1"},
        )
    )
