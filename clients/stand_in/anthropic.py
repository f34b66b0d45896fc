"""The stand-in's side of Anthropic's messages."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

from clients.stand_in.model import ANY_OBJECT, CACHED_TOKENS, SIGNATURE, SOURCE, THOUGHT, Question, Reply
from clients.stand_in.sse import event, split, texts


def read(body: dict[str, Any]) -> Question:
    """Return the parts of a request that the model reads."""
    question = Question(bool(body.get("stream")))
    for message in body["messages"]:
        content = message["content"]
        if message["role"] == "user":
            question.texts += texts(content)
        for block in content if isinstance(content, list) else ():
            inner = block.get("content") if block["type"] == "tool_result" else None
            question.results += block["type"] == "tool_result"
            parts = [block, *(inner if isinstance(inner, list) else ())]
            question.media += sum(part["type"] in ("image", "document") for part in parts)
    question.tools = {tool["name"]: tool["input_schema"] for tool in body.get("tools") or () if "input_schema" in tool}
    question.can_search = any(tool.get("type", "").startswith("web_search") for tool in body.get("tools") or ())
    output_format = (body.get("output_config") or {}).get("format") or body.get("output_format") or {}
    question.schema = output_format.get("schema")
    if not question.tools and "JSON" in " ".join(texts(body.get("system"))):  # the protocol has no JSON mode
        question.schema = question.schema or ANY_OBJECT
    choice = body.get("tool_choice") or {}
    is_any = choice.get("type") == "any" and not question.results
    question.forced = next(iter(question.tools), None) if is_any else choice.get("name")
    return question


def whole(body: dict[str, Any], reply: Reply) -> dict[str, Any]:
    """Return a response that is not streamed."""
    stop = "tool_use" if reply.calls else "end_turn"
    return {**_message(body), "content": _blocks(body, reply), "stop_reason": stop}


def stream(body: dict[str, Any], reply: Reply) -> Iterator[bytes]:
    """Yield the events of a streamed response."""
    yield _event("message_start", message={**_message(body), "content": []})
    yield _event("ping")
    for index, block in enumerate(_blocks(body, reply)):
        empty: dict[str, Any]
        match block["type"]:
            case "thinking":
                empty = {"thinking": "", "signature": ""}
                deltas = [{"type": "thinking_delta", "thinking": part} for part in split(block["thinking"])]
                deltas.append({"type": "signature_delta", "signature": block["signature"]})
            case "web_search_tool_result":  # comes whole
                empty, deltas = {}, []
            case "text":
                empty = {"text": ""}
                deltas = [{"type": "text_delta", "text": part} for part in split(block["text"])]
            case _:
                empty = {"input": {}}
                deltas = [
                    {"type": "input_json_delta", "partial_json": part} for part in split(json.dumps(block["input"]))
                ]
        yield _event("content_block_start", index=index, content_block={**block, **empty})
        for delta in deltas:
            yield _event("content_block_delta", index=index, delta=delta)
        yield _event("content_block_stop", index=index)
    stop = {"stop_reason": "tool_use" if reply.calls else "end_turn", "stop_sequence": None}
    yield _event("message_delta", delta=stop, usage={"output_tokens": 9})
    yield _event("message_stop")


def error(message: str, status: int) -> dict[str, Any]:
    """Return the body of an error."""
    kind = {400: "invalid_request_error", 429: "rate_limit_error"}.get(status, "overloaded_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}


def _blocks(body: dict[str, Any], reply: Reply) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if (body.get("thinking") or {}).get("type") in ("enabled", "adaptive"):
        blocks.append({"type": "thinking", "thinking": THOUGHT, "signature": SIGNATURE})
    if reply.searched:
        search_id = f"srvtoolu_{len(body['messages'])}"
        found = {"type": "web_search_result", "url": SOURCE, "title": "A page", "encrypted_content": SIGNATURE}
        query = {"type": "server_tool_use", "id": search_id, "name": "web_search", "input": {"query": "the number"}}
        blocks += [query, {"type": "web_search_tool_result", "tool_use_id": search_id, "content": [found]}]
    if reply.text:
        blocks.append({"type": "text", "text": reply.text})
    for index, call in enumerate(reply.calls):
        call_id = f"toolu_{len(body['messages'])}_{index}"
        blocks.append({"type": "tool_use", "id": call_id, "name": call.name, "input": call.arguments})
    return blocks


def _message(body: dict[str, Any]) -> dict[str, Any]:
    usage = {"input_tokens": 11, "output_tokens": 9, "cache_read_input_tokens": CACHED_TOKENS}
    # Claude Code takes responses with the same ID for parts of one.
    head = {"id": f"msg_{uuid.uuid4().hex}", "type": "message", "role": "assistant", "model": body["model"]}
    return {**head, "stop_reason": None, "stop_sequence": None, "usage": {**usage, "cache_creation_input_tokens": 7}}


def _event(kind: str, **data: Any) -> bytes:
    return event({"type": kind, **data}, kind)
