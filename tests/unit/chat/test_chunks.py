"""Chunks of a chat: their JSON, and the response that they accumulate to."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler_host.chat import (
    AssistantMessage,
    ChatChunk,
    ChatRequest,
    ChatResponse,
    Citation,
    CitationChunk,
    FinishChunk,
    IgnoredChunk,
    LogprobsChunk,
    ModelChunk,
    ReasoningChunk,
    ReasoningPart,
    RefusalChunk,
    RefusalPart,
    ResponsePart,
    TextChunk,
    TextPart,
    TokenLogprob,
    ToolCallChunk,
    ToolCallPart,
    Usage,
    UsageChunk,
    accumulate,
    to_chunks,
)

TEXT = st.text(max_size=30)
SHAPES: list[tuple[ChatChunk, dict[str, Any]]] = [
    (TextChunk(text="Hel"), {"type": "text", "text": "Hel"}),
    (ReasoningChunk(text="Hm"), {"type": "reasoning", "text": "Hm"}),
    (ReasoningChunk(signature="s"), {"type": "reasoning", "signature": "s"}),
    (ReasoningChunk(encrypted="e"), {"type": "reasoning", "encrypted": "e"}),
    (RefusalChunk(text="No"), {"type": "refusal", "text": "No"}),
    (
        ToolCallChunk(index=0, id="c1", name="look", arguments="{"),
        {"type": "tool_call", "index": 0, "id": "c1", "name": "look", "arguments": "{"},
    ),
    (ToolCallChunk(index=0, arguments="}"), {"type": "tool_call", "index": 0, "arguments": "}"}),
    (
        CitationChunk(citation=Citation(url="https://a.example", start_index=0, end_index=3)),
        {"type": "citation", "citation": {"url": "https://a.example", "start_index": 0, "end_index": 3}},
    ),
    (ModelChunk(model="m"), {"type": "model", "model": "m"}),
    (FinishChunk(reason="stop"), {"type": "finish", "reason": "stop"}),
    (IgnoredChunk(fields=["top_k"]), {"type": "ignored", "fields": ["top_k"]}),
    (UsageChunk(usage=Usage(prompt_tokens=5)), {"type": "usage", "usage": {"prompt_tokens": 5}}),
]


def split(text: str, places: list[int]) -> list[str]:
    """Return a text in parts, divided at these places."""
    ends = sorted({place % (len(text) + 1) for place in places})
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]


class TestJson:
    """The form of each chunk in JSON, which clients of the native operation read."""

    @pytest.mark.parametrize(("chunk", "shape"), SHAPES)
    def test_a_chunk_has_its_type_and_no_defaults(self, chunk: ChatChunk, shape: dict[str, Any]) -> None:
        data = msgspec.json.encode(chunk)
        assert msgspec.json.decode(data) == shape
        assert msgspec.json.decode(data, type=ChatChunk) == chunk

    def test_unknown_fields_of_a_newer_version_are_skipped(self) -> None:
        data = b'{"type": "text", "text": "Hel", "logprobs": []}'
        assert msgspec.json.decode(data, type=ChatChunk) == TextChunk(text="Hel")

    def test_a_response_has_its_parts_in_a_list(self) -> None:
        response = accumulate([TextChunk(text="Hello"), FinishChunk(reason="stop"), ModelChunk(model="m")])
        assert msgspec.json.decode(msgspec.json.encode(response)) == {
            "content": [{"type": "text", "text": "Hello"}],
            "finish_reason": "stop",
            "usage": None,
            "model": "m",
        }


class TestAccumulate:
    """The response that a stream accumulates to."""

    @given(TEXT, TEXT, st.lists(st.integers(0, 100), max_size=5))
    def test_text_and_arguments_are_the_same_however_they_are_split(
        self, text: str, arguments: str, places: list[int]
    ) -> None:
        chunks: list[ChatChunk] = [TextChunk(text=part) for part in split(text, places)]
        chunks += [ToolCallChunk(index=0, id="c1", name="look")]
        chunks += [ToolCallChunk(index=0, arguments=part) for part in split(arguments, places)]
        chunks += [
            FinishChunk(reason="tool_calls"),
            UsageChunk(usage=Usage(prompt_tokens=1)),
            ModelChunk(model="m"),
        ]
        response = accumulate(chunks)
        assert response.text == text
        assert [(call.id, call.function.name, call.function.arguments) for call in response.tool_calls] == [
            ("c1", "look", arguments)
        ]
        assert (response.finish_reason, response.model, response.usage) == ("tool_calls", "m", Usage(prompt_tokens=1))

    def test_time_is_linear(self) -> None:
        token = LogprobsChunk(content=[TokenLogprob(token="a", logprob=0.0)])
        chunks: list[ChatChunk] = [token, CitationChunk(citation=Citation())] * 50_000
        before = time.process_time()
        response = accumulate(chunks)
        assert time.process_time() - before < 1  # quadratic code takes 5 s
        assert len(response.logprobs or ()) == len(response.citations or ()) == 50_000

    def test_no_chunks_make_a_response_without_text(self) -> None:
        response = accumulate([])
        assert (response.content, response.text, response.refusal, response.tool_calls) == ([], None, None, [])
        assert (response.finish_reason, response.usage, response.model) == ("stop", None, None)

    def test_parts_keep_the_order_of_the_model(self) -> None:
        response = accumulate(
            [
                ReasoningChunk(text="Look "),
                ReasoningChunk(text="first."),
                ReasoningChunk(signature="s1"),
                TextChunk(text="I "),
                TextChunk(text="look."),
                ToolCallChunk(index=0, id="c1", name="look", arguments="{}"),
                ReasoningChunk(text="And smell.", signature="s2"),
                ToolCallChunk(index=1, id="c2", name="smell"),
                ToolCallChunk(index=1, arguments="{}"),
                TextChunk(text="Done."),
            ]
        )
        assert response.content == [
            ReasoningPart(text="Look first.", signature="s1"),
            TextPart(text="I look."),
            ToolCallPart(id="c1", name="look", arguments="{}"),
            ReasoningPart(text="And smell.", signature="s2"),
            ToolCallPart(id="c2", name="smell", arguments="{}"),
            TextPart(text="Done."),
        ]
        assert response.text == "I look.Done."

    def test_calls_whose_arguments_alternate_stay_apart(self) -> None:
        response = accumulate(
            [
                ToolCallChunk(index=0, id="c1", name="look"),
                ToolCallChunk(index=1, id="c2", name="smell"),
                ToolCallChunk(index=0, arguments='{"at"'),
                ToolCallChunk(index=1, arguments="{"),
                ToolCallChunk(index=0, arguments=": 1}"),
                ToolCallChunk(index=1, arguments="}"),
            ]
        )
        assert [(call.id, call.function.arguments) for call in response.tool_calls] == [
            ("c1", '{"at": 1}'),
            ("c2", "{}"),
        ]

    @pytest.mark.parametrize("end", [ReasoningChunk(signature="s"), ReasoningChunk(encrypted="e")])
    def test_a_signature_or_encrypted_data_ends_a_part_of_reasoning(self, end: ReasoningChunk) -> None:
        response = accumulate([ReasoningChunk(text="one"), end, ReasoningChunk(text="two")])
        assert response.content == [
            ReasoningPart(text="one", signature=end.signature, encrypted=end.encrypted),
            ReasoningPart(text="two"),
        ]

    def test_a_refusal_is_apart_from_the_text(self) -> None:
        response = accumulate([TextChunk(text="Well."), RefusalChunk(text="I will"), RefusalChunk(text=" not")])
        assert response.content == [TextPart(text="Well."), RefusalPart(text="I will not")]
        assert (response.text, response.refusal) == ("Well.", "I will not")

    def test_the_last_usage_counts(self) -> None:
        counts = [UsageChunk(usage=Usage(completion_tokens=count)) for count in (1, 2)]
        assert accumulate(counts).usage == Usage(completion_tokens=2)


class TestToChunks:
    """A response as a stream."""

    def test_the_chunks_accumulate_to_the_same_response(self) -> None:
        response = ChatResponse(
            content=[
                ReasoningPart(text="Hm.", signature="s"),
                TextPart(text="I look."),
                ToolCallPart(id="c1", name="look", arguments="{}"),
                ToolCallPart(id="c2", name="smell", arguments='{"at": 1}'),
                RefusalPart(text="No."),
            ],
            finish_reason="tool_calls",
            usage=Usage(prompt_tokens=3),
            model="m",
        )
        assert accumulate(to_chunks(response)) == response

    def test_the_finish_reason_follows_the_content(self) -> None:
        response = ChatResponse(content=[TextPart(text="Hi")], finish_reason="length", usage=None)
        assert list(to_chunks(response)) == [TextChunk(text="Hi"), FinishChunk(reason="length")]


class TestSendingBack:
    """A response as a message of the history."""

    RESPONSE = ChatResponse(
        content=[
            ReasoningPart(text="Hm.", signature="s"),
            TextPart(text="I look."),
            ToolCallPart(id="c1", name="look", arguments="{}"),
        ],
        finish_reason="tool_calls",
        usage=None,
    )
    MESSAGE = {
        "role": "assistant",
        "content": [{"type": "text", "text": "I look."}],
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
        "reasoning": [{"type": "reasoning", "text": "Hm.", "signature": "s"}],
    }

    def test_its_content_is_taken_as_it_is(self) -> None:
        message = AssistantMessage(content=self.RESPONSE.content)
        assert msgspec.json.decode(msgspec.json.encode(message)) == self.MESSAGE

    def test_its_json_is_taken_as_it_is(self) -> None:
        response = msgspec.json.decode(msgspec.json.encode(self.RESPONSE))
        request = {"messages": [{"role": "assistant", "content": response["content"]}]}
        (message,) = msgspec.convert(request, ChatRequest).messages
        assert msgspec.to_builtins(message) == self.MESSAGE

    def test_its_text_and_tool_calls_are_taken_apart(self) -> None:
        message = AssistantMessage(content=self.RESPONSE.text, tool_calls=self.RESPONSE.tool_calls)
        without_reasoning = {name: value for name, value in self.MESSAGE.items() if name != "reasoning"}
        assert msgspec.to_builtins(message) == {**without_reasoning, "content": "I look."}

    @pytest.mark.parametrize(
        ("part", "fields"),
        [
            (RefusalPart(text="No."), {"refusal": "No."}),
            (ReasoningPart(text="Hm."), {"content": "", "reasoning": [{"type": "reasoning", "text": "Hm."}]}),
        ],
    )
    def test_a_response_without_text_has_the_rest(self, part: ResponsePart, fields: dict[str, Any]) -> None:
        assert msgspec.to_builtins(AssistantMessage(content=[part])) == {"role": "assistant", **fields}

    def test_content_that_is_text_stays_as_it_is(self) -> None:
        for content in ("Hi", [{"type": "text", "text": "Hi"}], []):
            data = {"role": "assistant", "content": content}
            assert msgspec.to_builtins(msgspec.convert(data, AssistantMessage)) == data
