"""The provider's side of OpenAI's chat completions and embeddings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from handler_host.testing.script import ParsedRequest, Reply, ScriptedToolCall, Status, Turn

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "invalid_request_error",
    403: "permission_error",
    404: "invalid_request_error",
    429: "requests",
}
DONE = b"data: [DONE]\n\n"


def read_key(headers: Mapping[str, str]) -> str | None:
    """Return the key of a request."""
    scheme, _, key = headers.get("Authorization", "").partition(" ")
    return key if scheme.lower() == "bearer" and key else None


def parse_request(body: dict[str, Any]) -> ParsedRequest:
    """Return the content of a request."""
    stop = body.get("stop") or ()
    choice = body.get("tool_choice")
    return ParsedRequest(
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
            ScriptedToolCall(call["function"]["name"], json.loads(call["function"]["arguments"]), call["id"])
            for call in message.get("tool_calls") or ()
        ),
        result_of=message.get("tool_call_id"),
    )


def parse_embeddings(body: dict[str, Any]) -> ParsedRequest:
    """Return the content of a request for embeddings: one turn for each input."""
    inputs = body["input"]
    if isinstance(inputs, str) or (inputs and isinstance(inputs[0], int)):  # one text, or its tokens
        inputs = [inputs]
    turns = tuple(Turn("user", text if isinstance(text, str) else "") for text in inputs)
    return ParsedRequest(model=body["model"], streamed=False, turns=turns)


def embeddings(request: ParsedRequest) -> dict[str, Any]:
    """Return the response to a request for embeddings."""
    data = [{"object": "embedding", "index": index, "embedding": [0.5, 1.0]} for index in range(len(request.turns))]
    tokens = sum(len(turn.text.split()) for turn in request.turns)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": request.model, "usage": usage}


def whole(reply: Reply, request: ParsedRequest) -> dict[str, Any]:
    """Return a response that is not streamed."""
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": json.dumps(call.arguments)}}
        for call in reply.calls
    ]
    message: dict[str, Any] = {
        "role": "assistant",
        "content": reply.text or None,
        "refusal": reply.refusal,
        "annotations": _annotations(reply),
    }
    if calls:
        message["tool_calls"] = calls
    finish = None if reply.fault == "truncated" else reply.finish
    choice = {"message": message, "logprobs": None, "finish_reason": finish, **_stop(reply)}
    return {**_head(reply, "chat.completion"), "choices": _choices(reply, choice), "usage": _usage(reply)}


def stream_start(reply: Reply) -> Iterator[bytes]:
    """Yield the events before the first chunk of text."""
    yield _chunk(reply, {"role": "assistant", "content": "", "refusal": None})


def stream_text(reply: Reply, text: str) -> bytes:
    """Return the event of a chunk of text."""
    return _chunk(reply, {"content": text})


def stream_end(reply: Reply, request: ParsedRequest) -> Iterator[bytes]:
    """Yield the events after the last chunk of text."""
    if reply.refusal is not None:
        yield _chunk(reply, {"refusal": reply.refusal})
    for index, call in enumerate(reply.calls):
        first = {"name": call.name, "arguments": ""}
        yield _chunk(reply, {"tool_calls": [{"index": index, "id": call.id, "type": "function", "function": first}]})
        for fragment in call.fragments():
            yield _chunk(reply, {"tool_calls": [{"index": index, "function": {"arguments": fragment}}]})
    if reply.citations:
        yield _chunk(reply, {"annotations": _annotations(reply)})
    yield _chunk(reply, {}, reply.finish)
    if request.include_usage:
        yield _event({**_head(reply, "chat.completion.chunk"), "choices": [], "usage": _usage(reply)})
    yield DONE


def stream_truncated() -> Iterator[bytes]:
    """Yield the end of a stream that was cut off by a well-behaved proxy."""
    yield DONE


def stream_malformed() -> bytes:
    """Return an event whose data is half a document."""
    return b'data: {"id": "chatcmpl-1", "choices": [{"in\n\n'


def stream_error() -> bytes:
    """Return an error in the middle of a stream."""
    return _event(error_body(Status(500, "overheated")))


def error_body(status: Status) -> dict[str, Any]:
    """Return the body of a refusal."""
    kind = ERROR_TYPES.get(status.status, "server_error")
    return {"error": {"message": status.text, "type": kind, "param": status.param, "code": status.code}}


def _annotations(reply: Reply) -> list[dict[str, Any]]:
    place = {"start_index": 0, "end_index": len(reply.text)}
    sources = [{**place, "url": citation.url, "title": citation.title} for citation in reply.citations]
    return [{"type": "url_citation", "url_citation": source} for source in sources]


def _stop(reply: Reply) -> dict[str, str]:
    return {} if reply.stop_sequence is None else {"stop_reason": reply.stop_sequence}


def _head(reply: Reply, kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": reply.model, "service_tier": "default"}


def _usage(reply: Reply) -> dict[str, int]:
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "total_tokens": reply.prompt_tokens + reply.completion_tokens,
    }


def _chunk(reply: Reply, delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"delta": delta, "logprobs": None, "finish_reason": finish}
    if finish is not None:
        choice |= _stop(reply)
    return _event({**_head(reply, "chat.completion.chunk"), "choices": _choices(reply, choice), "usage": None})


def _choices(reply: Reply, choice: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"index": index, **choice} for index in range(reply.choices)]


def _event(data: dict[str, Any]) -> bytes:
    # Not escaped: providers send characters beyond ASCII as UTF-8.
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
