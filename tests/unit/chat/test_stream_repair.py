"""Halves of surrogate pairs, and IDs of tool calls, in the stream of any handler."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler_host.channel import frames
from handler_host.chat import (
    ChatChunk,
    ChatHandler,
    ChatRequest,
    FinishChunk,
    ReasoningChunk,
    RefusalChunk,
    TextChunk,
    ToolCallChunk,
    UserMessage,
    accumulate,
)
from handler_host.chat.stream_repair import StreamRepair
from handler_host.plugin import CallInfo, UpstreamError


def repair(*chunks: ChatChunk) -> list[ChatChunk]:
    stream = StreamRepair()
    repaired = [part for chunk in chunks for part in stream.chunks(chunk)] + list(stream.last())
    msgspec.json.encode(repaired)  # fails on half a pair
    return repaired


def texts(*parts: str) -> list[ChatChunk]:
    return [TextChunk(text=part) for part in parts]


class TestSurrogates:
    def test_halves_that_meet_are_joined(self) -> None:
        assert repair(*texts("a\ud83d", "\ude00b")) == texts("a", "\U0001f600b")

    def test_halves_in_one_chunk(self) -> None:
        assert repair(*texts("a\ud83d\ude00b")) == texts("a\U0001f600b")

    @pytest.mark.parametrize(
        ("parts", "expected"),
        [(["a\ud83d"], "a\ufffd"), (["\ude00"], "\ufffd"), (["a\ud83d", "b"], "a\ufffdb"),
         (["\ud83d", "", "\ude00"], "\U0001f600"), (["\ud83d", "\ud83d\ude00"], "\ufffd\U0001f600")],
    )  # fmt: skip
    def test_text_of_a_stream(self, parts: list[str], expected: str) -> None:
        assert accumulate(repair(*texts(*parts))).text == expected

    def test_each_text_has_its_own_halves(self) -> None:
        first, second = ToolCallChunk(index=0, id="a", name="f", arguments="\ud83d"), ToolCallChunk(index=1, id="b")
        rest = [ToolCallChunk(index=1, arguments="x"), ToolCallChunk(index=0, arguments="\ude00")]
        calls = accumulate(repair(first, second, *rest)).tool_calls
        assert [call.function.arguments for call in calls] == ["\U0001f600", "x"]

    def test_a_half_stays_before_what_follows(self) -> None:
        chunks = repair(TextChunk(text="a\ud83d"), RefusalChunk(text="\ude00"), FinishChunk(reason="stop"))
        assert chunks == [
            TextChunk(text="a"), TextChunk(text="\ufffd"), RefusalChunk(text="\ufffd"), FinishChunk(reason="stop"),
        ]  # fmt: skip

    def test_a_signature_is_kept(self) -> None:
        (chunk, *_) = repair(ReasoningChunk(text="\ud83d", signature="s"))
        assert chunk == ReasoningChunk(text="", signature="s")

    @given(st.text(), st.lists(st.integers(0, 40), max_size=5))
    def test_any_cut_of_any_text(self, text: str, cuts: list[int]) -> None:
        data = text.encode("utf-16-le")
        units = [data[place : place + 2].decode("utf-16-le", "surrogatepass") for place in range(0, len(data), 2)]
        places = [0, *sorted(cuts), len(units)]
        parts = ["".join(units[a:b]) for a, b in pairwise(places)]
        assert (accumulate(repair(*texts(*parts))).text or "") == text

    def test_a_chunk_that_no_frame_holds_is_split(self) -> None:
        text = "\x01" * 400_000
        chunks = repair(TextChunk(text=text), ToolCallChunk(index=0, id="a", name="f", arguments=text))
        assert max(len(msgspec.json.encode(chunk)) for chunk in chunks) < frames.DEFAULT_MAX_FRAME - 1000
        response = accumulate(chunks)
        assert response.text == text
        assert [(call.id, call.function.arguments) for call in response.tool_calls] == [("a", text)]

    def test_whole_chunks_are_not_copied(self) -> None:
        chunk = TextChunk(text="Grüße 🦊")
        assert repair(chunk)[0] is chunk


class TestCallIds:
    @pytest.mark.parametrize("ids", [(None, None), ("", ""), ("a", "a"), ("a", None), ("a", "b")])
    def test_each_call_has_an_id_of_its_own(self, ids: tuple[str | None, ...]) -> None:
        calls = [ToolCallChunk(index=index, id=call_id, name="f") for index, call_id in enumerate(ids)]
        repaired = [chunk.id for chunk in repair(*calls) if isinstance(chunk, ToolCallChunk)]
        assert len(set(repaired)) == 2
        assert all(repaired)
        assert repaired[0] == (ids[0] or repaired[0])

    def test_a_call_keeps_its_id(self) -> None:
        chunks = repair(ToolCallChunk(index=0, id=None, name="f"), ToolCallChunk(index=0, id="late", arguments="{}"))
        (call,) = accumulate(chunks).tool_calls
        assert isinstance(chunks[0], ToolCallChunk)
        assert call.id == chunks[0].id


async def test_every_chat_handler_is_repaired() -> None:
    class Odd(ChatHandler):
        async def stream(self, request: ChatRequest) -> AsyncIterator[ChatChunk | str]:
            yield "a\ud83d"
            yield "\ude00"
            yield ToolCallChunk(index=0, name="f", arguments="{}")
            yield "\udc00"

    handler = Odd()
    handler._stream_takes_call = False
    call = CallInfo(request_id="r", operation="chat", streamed=True, deadline=None, log=None)  # type: ignore[arg-type]
    request = ChatRequest(messages=[UserMessage(content="Hi")])
    response = accumulate([chunk async for chunk in handler.chat(request, call)])
    assert response.text == "a\U0001f600\ufffd"
    assert response.tool_calls[0].id


def test_texts_of_frames() -> None:
    """An error's message and a log record are a provider's or a plugin's words."""
    error = UpstreamError("half: \ud83d")
    for frame in (frames.Error(1, error.code, error.message), frames.Log(20, "log", "\ude00")):
        (decoded,) = frames.worker_frame_decoder().feed(frames.encode(frame))
        assert "\ufffd" in decoded.message  # type: ignore[union-attr]
