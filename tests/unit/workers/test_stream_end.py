"""The end of native streams, by the marks of their protocols."""

from __future__ import annotations

import pytest

from handler_host.plugin import UpstreamError
from handler_host.workers.runtime.stream_end import StreamEnd

COMPLETE = [
    ("openai.chat", b'data: {"choices":[{"finish_reason":"stop"}]}\n\n'),
    ("openai.chat", b'data: {"choices":[{"finish_reason" : 1}]}\n\n'),
    ("openai.chat", b"data: [DONE]\n\n"),
    ("openai.chat", b'data:"[DONE]"\n\n'),
    ("openai.chat", b'data: {"choices":[]}\r\n\r\ndata: [done]\r\n\r\n'),
    ("openai.chat", b'data: {"choices":[]}\n\ndata: {"error":{"message":"no"}}\n\n'),
    ("openai.chat", b'\xef\xbb\xbf\n{"choices":[{"message":{}}]}'),
    ("openai.responses", b'event: response.failed\ndata: {"n":1,"type":"response.failed"}\n\n'),
    ("openai.responses", b'data: {"type":"response.incomplete"}\n\n'),
    ("openai.responses", b'event: error\ndata: {"type":"error"}\n\n'),
    ("anthropic.messages", b'data: {"type": "message_stop"}\n\n'),
    ("anthropic.messages", b'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}\n\n'),
    ("anthropic.messages", b'data: {"type":"error","error":{}}\n\n'),
    ("gemini.generate_content", b'data: {"candidates":[{"finishReason": "MALFORMED_FUNCTION_CALL"}]}\n\n'),
    ("gemini.generate_content", b'data: {"promptFeedback":{"blockReason": "SAFETY"}}\n\n'),
    ("gemini.generate_content", b'[{"candidates":[]}\n,'),
    ("openai.embeddings", b""),
]
CUT_OFF = [
    ("openai.chat", b""),
    ("openai.chat", b": ping\n\n"),
    ("openai.chat", b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":null}]}\n\n'),
    ("openai.chat", b'data: {"choices":[{"finish_reason":""},{"finish_reason":"null"}]}\n\n'),
    ("openai.chat", b'data: {"choices":[{"delta":{"content":"\\"finish_reason\\":\\"stop\\" data: [DONE]"}}]}\n\n'),
    ("openai.responses", b'data: {"type":"response.created","response":{"status":"completed"}}\n\n'),
    ("anthropic.messages", b'data: {"type":"message_start","message":{"stop_reason":null}}\n\n'),
    ("anthropic.messages", b'data: {"type":"content_block_stop","index":0}\n\n'),
    ("gemini.generate_content", b'data: {"candidates":[{"finishReason":"FINISH_REASON_UNSPECIFIED"}]}\n\n'),
]


def read(operation: str, stream: bytes, size: int) -> StreamEnd:
    end = StreamEnd(operation)
    for start in range(0, len(stream), size):
        end.feed(stream[start : start + size])
    return end


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_mark_is_found_however_the_stream_is_split(size: int) -> None:
    for operation, stream in COMPLETE:
        read(operation, stream, size).check()


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_stream_without_a_mark_is_cut_off(size: int) -> None:
    for operation, stream in CUT_OFF:
        with pytest.raises(UpstreamError, match="cut off"):
            read(operation, stream, size).check()


def test_mark_after_a_long_event_is_found() -> None:
    image = b'data: {"candidates":[{"inlineData":"' + b"A" * 3_000_000 + b'","finishReason":"STOP"}]}\n\n'
    read("gemini.generate_content", image, 65_536).check()
