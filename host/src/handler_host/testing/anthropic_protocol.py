"""The provider's side of Anthropic's messages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from handler_host.testing import openai_protocol
from handler_host.testing.script import ParsedRequest, Reply, ScriptedToolCall, Status, Turn

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}
STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


def read_key(headers: Mapping[str, str]) -> str | None:
    """Return the key of a request: in its own header, or like OpenAI's, as newer SDKs (2.12) send it."""
    return headers.get("x-api-key") or openai_protocol.read_key(headers)


def parse_request(body: dict[str, Any]) -> ParsedRequest:
    """Return the content of a request."""
    choice = body.get("tool_choice") or {}
    kind = {"any": "required", "tool": choice.get("name")}.get(choice.get("type", ""), choice.get("type"))
    system = body.get("system")
    turns = [Turn("system", _text(system))] if system else []
    for message in body["messages"]:
        turns += _turns(message)
    return ParsedRequest(
        model=body["model"],
        streamed=bool(body.get("stream")),
        turns=tuple(turns),
        max_tokens=body.get("max_tokens"),
        temperature=body.get("temperature"),
        top_p=body.get("top_p"),
        stop=tuple(body.get("stop_sequences") or ()),
        tools=tuple(tool["name"] for tool in body.get("tools") or ()),
        tool_choice=kind,
    )


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(block.get("text", "") for block in content or () if block["type"] == "text")


def _turns(message: dict[str, Any]) -> list[Turn]:
    """Return the turns of a message: the results of tools are blocks of a user message."""
    content = message["content"]
    blocks = content if isinstance(content, list) else []
    turns = [
        Turn("tool", _text(block.get("content")), result_of=block["tool_use_id"])
        for block in blocks
        if block["type"] == "tool_result"
    ]
    text, images = _text(content), sum(block["type"] == "image" for block in blocks)
    calls = tuple(
        ScriptedToolCall(block["name"], block["input"], block["id"]) for block in blocks if block["type"] == "tool_use"
    )
    role: Literal["user", "assistant"] = message["role"]
    return turns if turns and not text and not images else [*turns, Turn(role, text, images, calls)]


def whole(reply: Reply, request: ParsedRequest) -> dict[str, Any]:
    """Return a response that is not streamed."""
    text = {"type": "text", "text": reply.text, "citations": _citations(reply) or None}
    blocks: list[dict[str, Any]] = [text] if reply.text else []
    blocks += [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": dict(call.arguments)} for call in reply.calls
    ]
    stop = {} if reply.fault == "truncated" else _stop(reply)
    return {**_message(reply, reply.completion_tokens), "content": blocks, **stop}


def stream_start(reply: Reply) -> Iterator[bytes]:
    """Yield the events before the first chunk of text."""
    yield _event("message_start", message=_message(reply, 1))
    if reply.text:
        yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    yield _event("ping")


def stream_text(reply: Reply, text: str) -> bytes:
    """Return the event of a chunk of text."""
    return _event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


def stream_end(reply: Reply, request: ParsedRequest) -> Iterator[bytes]:
    """Yield the events after the last chunk of text."""
    first = 0
    if reply.text:
        for citation in _citations(reply):
            delta = {"type": "citations_delta", "citation": citation}
            yield _event("content_block_delta", index=0, delta=delta)
        yield _event("content_block_stop", index=0)
        first = 1
    for index, call in enumerate(reply.calls, first):
        block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
        yield _event("content_block_start", index=index, content_block=block)
        for fragment in call.fragments():
            delta = {"type": "input_json_delta", "partial_json": fragment}
            yield _event("content_block_delta", index=index, delta=delta)
        yield _event("content_block_stop", index=index)
    yield _event("message_delta", delta=_stop(reply), usage={"output_tokens": reply.completion_tokens})
    yield _event("message_stop")


def stream_truncated() -> Iterator[bytes]:
    """Yield the end of a stream that was cut off by a well-behaved proxy: nothing."""
    yield from ()


def stream_malformed() -> bytes:
    """Return an event whose data is half a document."""
    return b'event: content_block_delta\ndata: {"type": "content_block_delta", "index": 0, "del\n\n'


def stream_error() -> bytes:
    """Return an error in the middle of a stream."""
    return _event("error", error=error_body(Status(500, "overheated"))["error"])


def error_body(status: Status) -> dict[str, Any]:
    """Return the body of a refusal."""
    kind = status.code or ERROR_TYPES.get(status.status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": status.text}, "request_id": "req_1"}


def token_count(tokens: int) -> dict[str, Any]:
    """Return the response to a request for a token count."""
    return {"input_tokens": tokens}


def _citations(reply: Reply) -> list[dict[str, Any]]:
    kind = {"type": "web_search_result_location", "cited_text": "", "encrypted_index": ""}
    return [{**kind, "url": citation.url, "title": citation.title} for citation in reply.citations]


def _stop(reply: Reply) -> dict[str, str | None]:
    reason = STOP_REASONS[reply.finish] if reply.stop_sequence is None else "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": reply.stop_sequence}


def _message(reply: Reply, output_tokens: int) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": reply.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": reply.prompt_tokens, "output_tokens": output_tokens},
    }


def _event(kind: str, **data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data}, ensure_ascii=False)}\n\n".encode()
