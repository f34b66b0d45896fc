"""Events of OpenAI's Responses API, as chunks of a chat."""

from __future__ import annotations

from typing import Any

import pytest

from gpt_a.responses_decoder import ResponseDecoder
from handler_host.chat import ChatChunk, ChatResponse, accumulate
from handler_host.plugin import UpstreamError

CREATED = {"type": "response.created", "response": {"model": "gpt-5.5-2026"}}
TEXT = {"type": "response.output_text.delta", "output_index": 0, "delta": "Hello"}
COMPLETED = {"type": "response.completed", "response": {"incomplete_details": None}}


def decoded(*events: dict[str, Any]) -> tuple[ChatResponse, ResponseDecoder]:
    decoder = ResponseDecoder()
    chunks: list[ChatChunk] = [chunk for event in events for chunk in decoder.chunks(event)]
    return accumulate([*chunks, *decoder.last()]), decoder


@pytest.mark.parametrize(
    ("details", "reason"),
    [({"reason": "max_output_tokens"}, "length"), ({"reason": "content_filter"}, "content_filter"), (None, "length")],
)
def test_an_incomplete_response_is_not_its_end(details: dict[str, Any] | None, reason: str) -> None:
    event = {"type": "response.incomplete", "response": {"status": "incomplete", "incomplete_details": details}}
    response, decoder = decoded(CREATED, TEXT, event)
    assert (response.text, response.finish_reason, response.model) == ("Hello", reason, "gpt-5.5-2026")
    assert decoder.is_finished


def test_a_stream_that_is_cut_off_has_no_finish_reason() -> None:
    decoder = ResponseDecoder()
    assert decoder.chunks(TEXT)
    assert (decoder.is_finished, decoder.last()) == (False, [])


@pytest.mark.parametrize(
    "event",
    [
        {"type": "response.failed"},
        {"type": "response.failed", "response": None},
        {"type": "response.failed", "response": {"status": "failed", "error": None}},
        {"type": "error", "code": None, "message": "", "param": None},
    ],
)
def test_a_failure_without_words_is_an_upstream_error(event: dict[str, Any]) -> None:
    with pytest.raises(UpstreamError):
        decoded(CREATED, event)


def test_the_arguments_of_parallel_calls_stay_apart() -> None:
    def item(place: int, name: str) -> dict[str, Any]:
        call = {"type": "function_call", "call_id": f"id-{name}", "name": name, "arguments": ""}
        return {"type": "response.output_item.added", "output_index": place, "item": call}

    def arguments(place: int, text: str) -> dict[str, Any]:
        return {"type": "response.function_call_arguments.delta", "output_index": place, "delta": text}

    response, _ = decoded(
        CREATED,
        item(1, "look"),
        item(2, "smell"),
        arguments(2, '{"b"'),
        arguments(1, '{"a": 1}'),
        arguments(2, ": 2}"),
        {"type": "response.function_call_arguments.done", "output_index": 2, "arguments": '{"b": 2}'},
        {"type": "keepalive", "sequence_number": 9},
        COMPLETED,
    )
    calls = [(call.id, call.function.name, call.function.arguments) for call in response.tool_calls]
    assert calls == [("id-look", "look", '{"a": 1}'), ("id-smell", "smell", '{"b": 2}')]
    assert response.finish_reason == "tool_calls"
