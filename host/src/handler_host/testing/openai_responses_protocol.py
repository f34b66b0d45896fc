"""The provider's side of OpenAI's Responses API. Its events have no sequence numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from handler_host.testing.openai_protocol import error_body, read_key
from handler_host.testing.script import ParsedRequest, Reply, ScriptedToolCall, Status, Turn

__all__ = [
    "error_body",
    "parse_request",
    "read_key",
    "stream_end",
    "stream_error",
    "stream_malformed",
    "stream_start",
    "stream_text",
    "stream_truncated",
    "whole",
]

MESSAGE_ID = "msg_1"


def parse_request(body: dict[str, Any]) -> ParsedRequest:
    """Return the content of a request."""
    items = body.get("input") or ()
    choice = body.get("tool_choice")
    turns = [Turn("system", body["instructions"])] if body.get("instructions") else []
    turns += [Turn("user", items)] if isinstance(items, str) else map(_turn, items)
    return ParsedRequest(
        model=body["model"],
        streamed=bool(body.get("stream")),
        turns=tuple(turns),
        max_tokens=body.get("max_output_tokens"),
        temperature=body.get("temperature"),
        top_p=body.get("top_p"),
        tools=tuple(tool["name"] for tool in body.get("tools") or () if "name" in tool),
        tool_choice=choice.get("name") if isinstance(choice, dict) else choice,
    )


def _turn(item: dict[str, Any]) -> Turn:
    kind = item.get("type", "message")
    if kind == "function_call":
        call = ScriptedToolCall(item["name"], json.loads(item["arguments"]), item["call_id"])
        return Turn("assistant", calls=(call,))
    if kind == "function_call_output":
        return Turn("tool", _text(item["output"]), result_of=item["call_id"])
    content = item.get("content") or ""
    images = 0 if isinstance(content, str) else sum(part.get("type") == "input_image" for part in content)
    role = item.get("role", "assistant")
    return Turn("system" if role == "developer" else role, _text(content), images)


def _text(content: str | list[dict[str, Any]]) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def token_count(tokens: int) -> dict[str, Any]:
    """Return the response to a request for a token count."""
    return {"object": "response.input_tokens", "input_tokens": tokens}


def whole(reply: Reply, request: ParsedRequest) -> dict[str, Any]:
    """Return a response that is not streamed."""
    return _response(reply, "in_progress" if reply.fault == "truncated" else _status(reply), _output(reply))


def stream_start(reply: Reply) -> Iterator[bytes]:
    """Yield the events before the first chunk of text."""
    yield _event("response.created", response=_response(reply, "in_progress", []))
    if reply.chunks:
        yield _event("response.output_item.added", output_index=0, item=_message([], "in_progress"))
        yield _event("response.content_part.added", **_place(), part=_text_part(""))


def stream_text(reply: Reply, text: str) -> bytes:
    """Return the event of a chunk of text."""
    return _event("response.output_text.delta", **_place(), delta=text, logprobs=[])


def stream_end(reply: Reply, request: ParsedRequest) -> Iterator[bytes]:
    """Yield the events after the last chunk of text."""
    output = _output(reply)
    if reply.chunks:
        part = _text_part(reply.text)
        yield _event("response.output_text.done", **_place(), text=reply.text, logprobs=[])
        yield _event("response.content_part.done", **_place(), part=part)
        yield _event("response.output_item.done", output_index=0, item=output[0])
    for index, call in enumerate(reply.calls, len(output) - len(reply.calls)):
        place = {"item_id": f"fc_{call.id}", "output_index": index}
        started = {**output[index], "arguments": "", "status": "in_progress"}
        yield _event("response.output_item.added", output_index=index, item=started)
        for fragment in call.fragments():
            yield _event("response.function_call_arguments.delta", **place, delta=fragment)
        yield _event("response.function_call_arguments.done", **place, arguments=json.dumps(call.arguments))
        yield _event("response.output_item.done", output_index=index, item=output[index])
    status = _status(reply)
    yield _event(f"response.{status}", response=_response(reply, status, output))


def stream_truncated() -> Iterator[bytes]:
    """Yield the end of a stream that was cut off by a well-behaved proxy: nothing."""
    yield from ()


def stream_malformed() -> bytes:
    """Return an event whose data is half a document."""
    return b'event: response.output_text.delta\ndata: {"type": "response.out\n\n'


def stream_error() -> bytes:
    """Return an error in the middle of a stream."""
    return _event("error", **error_body(Status(500, "overheated"))["error"])


def _status(reply: Reply) -> str:
    return "incomplete" if reply.finish in ("length", "content_filter") else "completed"


def _output(reply: Reply) -> list[dict[str, Any]]:
    parts = [_text_part(reply.text)] if reply.chunks else []
    if reply.refusal is not None:
        parts.append({"type": "refusal", "refusal": reply.refusal})
    calls = [
        {
            "type": "function_call",
            "id": f"fc_{call.id}",
            "call_id": call.id,
            "name": call.name,
            "arguments": json.dumps(call.arguments),
            "status": "completed",
        }
        for call in reply.calls
    ]
    return [*([_message(parts, "completed")] if parts else []), *calls]


def _message(parts: list[dict[str, Any]], status: str) -> dict[str, Any]:
    return {"type": "message", "id": MESSAGE_ID, "role": "assistant", "status": status, "content": parts}


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _place() -> dict[str, Any]:
    return {"item_id": MESSAGE_ID, "output_index": 0, "content_index": 0}


def _response(reply: Reply, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    reason = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(reply.finish)
    usage = {
        "input_tokens": reply.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": reply.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": reply.prompt_tokens + reply.completion_tokens,
    }
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": reason} if status == "incomplete" else None,
        "model": reply.model,
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": None if status == "in_progress" else usage,
    }


def _event(kind: str, **data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data}, ensure_ascii=False)}\n\n".encode()
