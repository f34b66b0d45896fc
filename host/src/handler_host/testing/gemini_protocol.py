"""Gemini's generateContent and streamGenerateContent, from the provider's side.

A client may write the keys of a request in camel case or with underscores, as in
every JSON form of protobuf.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from handler_host.testing.script import Asked, Called, Reply, Status, Turn

STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
FINISHES = {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP", "content_filter": "SAFETY"}
ROLES: dict[str, Any] = {"model": "assistant", "user": "user", "function": "user"}


def key_of(headers: Mapping[str, str]) -> str | None:
    """Return the key that a request brings in its header."""
    return headers.get("x-goog-api-key") or None


def read(body: dict[str, Any], model: str, streamed: bool) -> Asked:
    """Return what a request asks for."""
    config = _get(body, "generationConfig") or {}
    system = _get(body, "systemInstruction")
    turns = [Turn("system", _text(system))] if system else []
    for content in body["contents"]:
        turns += _turns(content)
    functions = [function for tool in body.get("tools") or () for function in _get(tool, "functionDeclarations") or ()]
    return Asked(
        model=model,
        streamed=streamed,
        turns=tuple(turns),
        max_tokens=_get(config, "maxOutputTokens"),
        temperature=config.get("temperature"),
        top_p=_get(config, "topP"),
        seed=config.get("seed"),
        stop=tuple(_get(config, "stopSequences") or ()),
        tools=tuple(function["name"] for function in functions),
        tool_choice=_choice(_get(_get(body, "toolConfig") or {}, "functionCallingConfig") or {}),
    )


def _get(mapping: Mapping[str, Any], name: str) -> Any:
    """Return the value of a key in camel case, however it is written."""
    return mapping.get(name, mapping.get(re.sub("[A-Z]", lambda found: f"_{found.group().lower()}", name)))


def _choice(config: Mapping[str, Any]) -> str | None:
    names: list[Any] = _get(config, "allowedFunctionNames") or []
    if len(names) == 1:
        return str(names[0])
    return {"AUTO": "auto", "NONE": "none", "ANY": "required"}.get(str(config.get("mode", "")).upper())


def _text(content: Mapping[str, Any]) -> str:
    return "".join(part.get("text", "") for part in content.get("parts") or ())


def _turns(content: Mapping[str, Any]) -> list[Turn]:
    """Return a content as turns: the results of functions stand in the user's."""
    parts = content.get("parts") or ()
    results = [_get(part, "functionResponse") for part in parts]
    turns = [
        Turn("tool", json.dumps(result.get("response"), ensure_ascii=False), responses=result["name"])
        for result in results
        if result
    ]
    text, images = _text(content), sum(_get(part, "inlineData") is not None for part in parts)
    found = (_get(part, "functionCall") for part in parts)
    calls = tuple(Called(call["name"], call.get("args") or {}, call.get("id", "")) for call in found if call)
    role = ROLES[content.get("role", "user")]
    return turns if turns and not text and not images else [*turns, Turn(role, text, images, calls)]


def whole(reply: Reply, asked: Asked) -> dict[str, Any]:
    """Return an answer that is no stream."""
    parts = [{"text": reply.text}] if reply.text else []
    return _response(reply, [*parts, *_calls(reply)], None if reply.broken == "truncated" else reply.finish)


def begin(reply: Reply, asked: Asked) -> Iterator[bytes]:
    """Yield what comes before the first piece of a stream: nothing."""
    yield from ()


def chunk(reply: Reply, text: str) -> bytes:
    """Return a piece of the text."""
    return _document(_response(reply, [{"text": text}]))


def end(reply: Reply, asked: Asked) -> Iterator[bytes]:
    """Yield what comes after the last piece of the text."""
    yield _document(_response(reply, [*_calls(reply)] or [{"text": ""}], reply.finish))


def truncated(reply: Reply) -> Iterator[bytes]:
    """Yield the end of a stream that has been cut off by something polite: nothing."""
    yield from ()


def malformed(reply: Reply) -> bytes:
    """Return half a document."""
    return b'{"candidates": [{"content": {"par'


def failed(reply: Reply) -> bytes:
    """Return an error in the middle of a stream."""
    return _document(error(Status(500, "overheated")))


def error(status: Status) -> dict[str, Any]:
    """Return the body of a refusal."""
    name = status.code or STATUSES.get(status.status, "UNKNOWN")
    content: dict[str, Any] = {"code": status.status, "message": status.text, "status": name}
    if status.retry_after is not None:
        kind = "type.googleapis.com/google.rpc.RetryInfo"
        content["details"] = [{"@type": kind, "retryDelay": f"{status.retry_after:g}s"}]
    return {"error": content}


def counted(tokens: int) -> dict[str, Any]:
    """Return the answer to a question for the number of tokens."""
    return {"totalTokens": tokens}


def _calls(reply: Reply) -> list[dict[str, Any]]:
    return [{"functionCall": {"name": call.name, "args": dict(call.arguments)}} for call in reply.calls]


def _response(reply: Reply, parts: list[dict[str, Any]], finish: str | None = None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
    usage = {"promptTokenCount": reply.prompt_tokens, "totalTokenCount": reply.prompt_tokens}
    if finish is not None:
        candidate["finishReason"] = FINISHES[finish]
        usage["candidatesTokenCount"] = reply.completion_tokens
        usage["totalTokenCount"] += reply.completion_tokens
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": reply.model, "responseId": "r1"}


def _document(data: dict[str, Any]) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode()
