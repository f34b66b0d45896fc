"""The stand-in's side of OpenAI's chat completions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from clients.stand_in.model import ANY_OBJECT, CACHED_TOKENS, THOUGHT, Question, Reply
from clients.stand_in.sse import event, split, texts

USAGE = {
    "prompt_tokens": 5000,
    "completion_tokens": 9,
    "total_tokens": 5009,
    "prompt_tokens_details": {"cached_tokens": CACHED_TOKENS},
    "completion_tokens_details": {"reasoning_tokens": 4},
}


def read(body: dict[str, Any]) -> Question:
    """Return the parts of a request that the model reads."""
    question = Question(bool(body.get("stream")))
    for message in body["messages"]:
        content = message.get("content")
        if message["role"] == "user":
            question.texts += texts(content)
        question.results += message["role"] == "tool"
        parts = content if isinstance(content, list) else ()
        question.media += sum(part["type"] in ("image_url", "file") for part in parts)
    functions = [tool["function"] for tool in body.get("tools") or () if tool["type"] == "function"]
    question.tools = {function["name"]: function.get("parameters") or {} for function in functions}
    response_format = body.get("response_format") or {}
    is_json = response_format.get("type") in ("json_object", "json_schema")
    question.schema = (response_format.get("json_schema") or {}).get("schema", ANY_OBJECT) if is_json else None
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        question.forced = (choice.get("function") or {}).get("name")
    elif choice == "required" and not question.results:
        question.forced = next(iter(question.tools), None)
    return question


def whole(body: dict[str, Any], reply: Reply) -> dict[str, Any]:
    """Return a response that is not streamed."""
    message: dict[str, Any] = {"role": "assistant", "content": reply.text or None, "refusal": None}
    if reply.calls:
        message["tool_calls"] = _calls(body, reply)
    if body.get("reasoning_effort"):
        message["reasoning_content"] = THOUGHT
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(reply)}
    return {**_head(body, "chat.completion"), "choices": [choice], "usage": USAGE}


def stream(body: dict[str, Any], reply: Reply) -> Iterator[bytes]:
    """Yield the events of a streamed response."""
    yield _chunk(body, {"role": "assistant", "content": ""})
    if body.get("reasoning_effort"):
        for part in split(THOUGHT):
            yield _chunk(body, {"reasoning_content": part})
    for part in split(reply.text):
        yield _chunk(body, {"content": part})
    for index, call in enumerate(_calls(body, reply)):
        arguments = call["function"].pop("arguments")
        call["function"]["arguments"] = ""
        yield _chunk(body, {"tool_calls": [{"index": index, **call}]})
        for part in split(arguments):
            yield _chunk(body, {"tool_calls": [{"index": index, "function": {"arguments": part}}]})
    yield _chunk(body, {}, _finish(reply))
    if (body.get("stream_options") or {}).get("include_usage"):
        yield event({**_head(body, "chat.completion.chunk"), "choices": [], "usage": USAGE})
    yield b"data: [DONE]\n\n"


def error(message: str, status: int) -> dict[str, Any]:
    """Return the body of an error."""
    kinds: dict[int, dict[str, Any]] = {
        400: {"type": "invalid_request_error", "param": "messages", "code": "invalid_value"},
        429: {"type": "requests", "param": None, "code": "rate_limit_exceeded"},
        503: {"type": "server_error", "param": None, "code": None},
    }
    return {"error": {"message": message, **kinds[status]}}


def _calls(body: dict[str, Any], reply: Reply) -> list[dict[str, Any]]:
    return [
        {
            "id": f"call_{len(body['messages'])}_{index}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
        }
        for index, call in enumerate(reply.calls)
    ]


def _finish(reply: Reply) -> str:
    return "tool_calls" if reply.calls else "stop"


def _head(body: dict[str, Any], kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": body["model"]}


def _chunk(body: dict[str, Any], delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return event({**_head(body, "chat.completion.chunk"), "choices": [choice]})
