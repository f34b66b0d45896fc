"""The stand-in's side of Gemini's generateContent and streamGenerateContent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from clients.stand_in.model import ANY_OBJECT, CACHED_TOKENS, SIGNATURE, SOURCE, THOUGHT, Question, Reply
from clients.stand_in.sse import event, split

USAGE = {
    "promptTokenCount": 5000,
    "candidatesTokenCount": 9,
    "totalTokenCount": 5013,
    "cachedContentTokenCount": CACHED_TOKENS,
    "thoughtsTokenCount": 4,
}


def read(body: dict[str, Any]) -> Question:
    """Return the parts of a request that the model reads; whether it is streamed is in the path."""
    body = _in_camel_case(body)
    question = Question(streamed=False)
    for content in body["contents"]:
        for part in content.get("parts") or ():
            if content.get("role", "user") != "model" and part.get("text"):
                question.texts.append(part["text"])
            result = part.get("functionResponse")
            question.results += result is not None
            inner = (result or {}).get("parts") or ()
            question.media += sum("inlineData" in entry for entry in (part, *inner))
    for tool in body.get("tools") or ():
        question.can_search |= "googleSearch" in tool
        for function in tool.get("functionDeclarations") or ():
            schema = function.get("parametersJsonSchema") or function.get("parameters") or {}
            question.tools[function["name"]] = schema
    config = body.get("generationConfig") or {}
    if config.get("responseMimeType") == "application/json":
        question.schema = config.get("responseJsonSchema") or config.get("responseSchema") or ANY_OBJECT
    calling = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
    if calling.get("mode") == "ANY" and not question.results:
        question.forced = (calling.get("allowedFunctionNames") or list(question.tools))[0]
    return question


def whole(body: dict[str, Any], reply: Reply) -> dict[str, Any]:
    """Return a response that is not streamed."""
    parts = [*_thoughts(body), *([{"text": reply.text}] if reply.text else []), *_calls(reply)]
    return _response(parts, "STOP", reply)


def stream(body: dict[str, Any], reply: Reply) -> Iterator[bytes]:
    """Yield the events of a streamed response."""
    for part in [*_thoughts(body), *({"text": text} for text in split(reply.text))]:
        yield event(_response([part]))
    yield event(_response(_calls(reply) or [{"text": ""}], "STOP", reply))


def error(message: str, status: int) -> dict[str, Any]:
    """Return the body of an error."""
    kinds = {400: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE"}
    return {"error": {"code": status, "message": message, "status": kinds[status]}}


def _in_camel_case(value: Any) -> Any:
    """Return a value with all keys in camel case: the API takes both."""
    if isinstance(value, list):
        return [_in_camel_case(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        re.sub("_([a-z])", lambda match: match[1].upper(), key): _in_camel_case(item) for key, item in value.items()
    }


def _thoughts(body: dict[str, Any]) -> list[dict[str, Any]]:
    config = (_in_camel_case(body).get("generationConfig") or {}).get("thinkingConfig") or {}
    return [{"text": THOUGHT, "thought": True}] if config.get("includeThoughts") else []


def _calls(reply: Reply) -> list[dict[str, Any]]:
    calls = [{"functionCall": {"name": call.name, "args": call.arguments}} for call in reply.calls]
    return [{**call, "thoughtSignature": SIGNATURE} for call in calls]


def _response(parts: list[dict[str, Any]], finish: str | None = None, reply: Reply | None = None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    if reply is not None and reply.searched:
        source = {"web": {"uri": SOURCE, "title": "A page"}}
        support = {"segment": {"endIndex": len(reply.text), "text": reply.text}, "groundingChunkIndices": [0]}
        grounding = {"webSearchQueries": ["the number"], "groundingChunks": [source], "groundingSupports": [support]}
        candidate["groundingMetadata"] = grounding
    return {"candidates": [candidate], "usageMetadata": USAGE, "modelVersion": "gemini-stand-in", "responseId": "r1"}
