"""OpenAI's chat completions, from the provider's side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from handler_host.testing.script import Asked, Called, Reply, Status, Turn

TYPES = {
    400: "invalid_request_error",
    401: "invalid_request_error",
    403: "permission_error",
    404: "invalid_request_error",
    429: "requests",
}
END = b"data: [DONE]\n\n"


def key_of(headers: Mapping[str, str]) -> str | None:
    """Return the key that a request brings."""
    scheme, _, key = headers.get("Authorization", "").partition(" ")
    return key if scheme.lower() == "bearer" and key else None


def read(body: dict[str, Any]) -> Asked:
    """Return what a request asks for."""
    stop = body.get("stop") or ()
    choice = body.get("tool_choice")
    return Asked(
        model=body["model"],
        streamed=bool(body.get("stream")),
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        turns=tuple(map(_turn, body["messages"])),
        max_tokens=body.get("max_tokens") or body.get("max_completion_tokens"),
        temperature=body.get("temperature"),
        top_p=body.get("top_p"),
        seed=body.get("seed"),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        tools=tuple(tool["function"]["name"] for tool in body.get("tools") or ()),
        tool_choice=choice["function"]["name"] if isinstance(choice, dict) else choice,
    )


def _turn(message: dict[str, Any]) -> Turn:
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
    return Turn(
        role="system" if message["role"] == "developer" else message["role"],
        text="".join(part.get("text", "") for part in parts if part["type"] == "text"),
        images=sum(part["type"] == "image_url" for part in parts),
        calls=tuple(
            Called(call["function"]["name"], json.loads(call["function"]["arguments"]), call["id"])
            for call in message.get("tool_calls") or ()
        ),
        responses=message.get("tool_call_id"),
    )


def whole(reply: Reply, asked: Asked) -> dict[str, Any]:
    """Return an answer that is no stream."""
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": json.dumps(call.arguments)}}
        for call in reply.calls
    ]
    message: dict[str, Any] = {
        "role": "assistant",
        "content": reply.text or None,
        "refusal": reply.refusal,
        "annotations": [],
    }
    if calls:
        message["tool_calls"] = calls
    finish = None if reply.broken == "truncated" else reply.finish
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    return {**_head(reply, "chat.completion"), "choices": [choice], "usage": _usage(reply)}


def begin(reply: Reply, asked: Asked) -> Iterator[bytes]:
    """Yield what comes before the first piece of a stream."""
    yield _chunk(reply, {"role": "assistant", "content": "", "refusal": None})


def chunk(reply: Reply, text: str) -> bytes:
    """Return a piece of the text."""
    return _chunk(reply, {"content": text})


def end(reply: Reply, asked: Asked) -> Iterator[bytes]:
    """Yield what comes after the last piece of the text."""
    if reply.refusal is not None:
        yield _chunk(reply, {"refusal": reply.refusal})
    for index, call in enumerate(reply.calls):
        first = {"name": call.name, "arguments": ""}
        yield _chunk(reply, {"tool_calls": [{"index": index, "id": call.id, "type": "function", "function": first}]})
        for fragment in call.fragments():
            yield _chunk(reply, {"tool_calls": [{"index": index, "function": {"arguments": fragment}}]})
    yield _chunk(reply, {}, reply.finish)
    if asked.include_usage:
        yield _event({**_head(reply, "chat.completion.chunk"), "choices": [], "usage": _usage(reply)})
    yield END


def truncated(reply: Reply) -> Iterator[bytes]:
    """Yield the end of a stream that has been cut off by something polite."""
    yield END


def malformed(reply: Reply) -> bytes:
    """Return an event whose data is half a document."""
    return b'data: {"id": "chatcmpl-1", "choices": [{"in\n\n'


def failed(reply: Reply) -> bytes:
    """Return an error in the middle of a stream."""
    return _event(error(Status(500, "overheated")))


def error(status: Status) -> dict[str, Any]:
    """Return the body of a refusal."""
    kind = TYPES.get(status.status, "server_error")
    return {"error": {"message": status.text, "type": kind, "param": status.param, "code": status.code}}


def _head(reply: Reply, kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": reply.model, "service_tier": "default"}


def _usage(reply: Reply) -> dict[str, int]:
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "total_tokens": reply.prompt_tokens + reply.completion_tokens,
    }


def _chunk(reply: Reply, delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return _event({**_head(reply, "chat.completion.chunk"), "choices": [choice], "usage": None})


def _event(data: dict[str, Any]) -> bytes:
    # Not escaped: what is outside ASCII comes as UTF-8, as providers send it.
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
