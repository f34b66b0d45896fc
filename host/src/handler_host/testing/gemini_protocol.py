"""The provider's side of Gemini's generateContent, streamGenerateContent, countTokens and embedContent.

A client may write the keys of a request in camel case or with underscores, as in every JSON form of protobuf.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from handler_host.testing.script import ParsedRequest, Reply, ScriptedToolCall, Status, Turn

ERROR_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
FINISH_REASONS = {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP", "content_filter": "SAFETY"}
ROLES: dict[str, Any] = {"model": "assistant", "user": "user", "function": "user"}


def read_key(headers: Mapping[str, str]) -> str | None:
    """Return the key of a request in its header."""
    return headers.get("x-goog-api-key") or None


def parse_request(body: dict[str, Any], model: str, streamed: bool) -> ParsedRequest:
    """Return the content of a request."""
    config = _get(body, "generationConfig") or {}
    system = _get(body, "systemInstruction")
    turns = [Turn("system", _text(system))] if system else []
    for content in body["contents"]:
        turns += _turns(content)
    functions = [function for tool in body.get("tools") or () for function in _get(tool, "functionDeclarations") or ()]
    return ParsedRequest(
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
    """Return the value of a key, given in camel case, in either spelling."""
    return mapping.get(name, mapping.get(re.sub("[A-Z]", lambda match: f"_{match.group().lower()}", name)))


def _choice(config: Mapping[str, Any]) -> str | None:
    names: list[Any] = _get(config, "allowedFunctionNames") or []
    if len(names) == 1:
        return str(names[0])
    return {"AUTO": "auto", "NONE": "none", "ANY": "required"}.get(str(config.get("mode", "")).upper())


def _text(content: Mapping[str, Any]) -> str:
    return "".join(part.get("text", "") for part in content.get("parts") or ())


def _turns(content: Mapping[str, Any]) -> list[Turn]:
    """Return the turns of a content: the results of functions are parts of a user's content."""
    parts = content.get("parts") or ()
    results = [_get(part, "functionResponse") for part in parts]
    turns = [
        Turn("tool", json.dumps(result.get("response"), ensure_ascii=False), result_of=result["name"])
        for result in results
        if result
    ]
    text, images = _text(content), sum(_get(part, "inlineData") is not None for part in parts)
    function_calls = (_get(part, "functionCall") for part in parts)
    calls = tuple(
        ScriptedToolCall(call["name"], call.get("args") or {}, call.get("id", "")) for call in function_calls if call
    )
    role = ROLES[content.get("role", "user")]
    return turns if turns and not text and not images else [*turns, Turn(role, text, images, calls)]


def whole(reply: Reply, request: ParsedRequest) -> dict[str, Any]:
    """Return a response that is not streamed."""
    parts = [{"text": reply.text}] if reply.text else []
    return _response(reply, [*parts, *_calls(reply)], None if reply.fault == "truncated" else reply.finish)


def stream_start(reply: Reply) -> Iterator[bytes]:
    """Yield the documents before the first chunk of text: none."""
    yield from ()


def stream_text(reply: Reply, text: str) -> bytes:
    """Return the document of a chunk of text."""
    return _document(_response(reply, [{"text": text}]))


def stream_end(reply: Reply, request: ParsedRequest) -> Iterator[bytes]:
    """Yield the documents after the last chunk of text."""
    yield _document(_response(reply, [*_calls(reply)] or [{"text": ""}], reply.finish))


def stream_truncated() -> Iterator[bytes]:
    """Yield the end of a stream that was cut off by a well-behaved proxy: nothing."""
    yield from ()


def stream_malformed() -> bytes:
    """Return half a document."""
    return b'{"candidates": [{"content": {"par'


def stream_error() -> bytes:
    """Return an error in the middle of a stream."""
    return _document(error_body(Status(500, "overheated")))


def error_body(status: Status) -> dict[str, Any]:
    """Return the body of a refusal."""
    name = status.code or ERROR_STATUSES.get(status.status, "UNKNOWN")
    content: dict[str, Any] = {"code": status.status, "message": status.text, "status": name}
    if status.retry_after is not None:
        kind = "type.googleapis.com/google.rpc.RetryInfo"
        content["details"] = [{"@type": kind, "retryDelay": f"{status.retry_after:g}s"}]
    return {"error": content}


def token_count(tokens: int) -> dict[str, Any]:
    """Return the response to a request for a token count."""
    return {"totalTokens": tokens}


def parse_embeddings(body: dict[str, Any], model: str) -> ParsedRequest:
    """Return the content of a request for embeddings, or of a batch: one turn for each content."""
    turns = tuple(Turn("user", _text(request["content"])) for request in body.get("requests", [body]))
    return ParsedRequest(model=model, streamed=False, turns=turns)


def embeddings(request: ParsedRequest, *, batch: bool) -> dict[str, Any]:
    """Return the response to a request for embeddings."""
    values = [{"values": [0.5, 1.0]} for _ in request.turns]
    return {"embeddings": values} if batch else {"embedding": values[0]}


def _calls(reply: Reply) -> list[dict[str, Any]]:
    return [{"functionCall": {"name": call.name, "args": dict(call.arguments)}} for call in reply.calls]


def _response(reply: Reply, parts: list[dict[str, Any]], finish: str | None = None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}}
    usage = {"promptTokenCount": reply.prompt_tokens, "totalTokenCount": reply.prompt_tokens}
    if finish is not None:
        candidate["finishReason"] = FINISH_REASONS[finish]
        if reply.citations:
            candidate["groundingMetadata"] = _grounding(reply)
        usage["candidatesTokenCount"] = reply.completion_tokens
        usage["totalTokenCount"] += reply.completion_tokens
    candidates = [{**candidate, "index": index} for index in range(reply.choices)]
    return {"candidates": candidates, "usageMetadata": usage, "modelVersion": reply.model, "responseId": "r1"}


def _grounding(reply: Reply) -> dict[str, Any]:
    sources = [{"web": {"uri": citation.url, "title": citation.title}} for citation in reply.citations]
    segment = {"startIndex": 0, "endIndex": len(reply.text.encode()), "text": reply.text}
    support = {"segment": segment, "groundingChunkIndices": list(range(len(sources)))}
    return {"groundingChunks": sources, "groundingSupports": [support]}


def _document(data: dict[str, Any]) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode()
