"""The stand-in's side of OpenAI's responses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from clients.stand_in.model import CACHED_TOKENS, SIGNATURE, SOURCE, THOUGHT, Question, Reply
from clients.stand_in.openai_chat import error
from clients.stand_in.sse import event, split, texts

__all__ = ["error", "read", "stream", "whole"]

USAGE = {
    "input_tokens": 5000,
    "output_tokens": 9,
    "total_tokens": 5009,
    "input_tokens_details": {"cached_tokens": CACHED_TOKENS},
    "output_tokens_details": {"reasoning_tokens": 4},
}


def read(body: dict[str, Any]) -> Question:
    """Return the parts of a request that the model reads."""
    question = Question(bool(body.get("stream")))
    items: list[dict[str, Any]] | str = body["input"]
    user: dict[str, Any] = {"role": "user", "content": items}
    for item in [user] if isinstance(items, str) else items:
        kind = item.get("type", "message")
        if item.get("role") == "user":
            question.texts += texts(item["content"])
        question.results += kind.endswith("_output")
        parts = item.get("output" if kind.endswith("_output") else "content")
        media = ("input_image", "input_file")
        question.media += sum(part.get("type") in media for part in parts or () if isinstance(part, dict))
        if kind == "additional_tools":
            _read_tools(question, item["tools"])
    _read_tools(question, body.get("tools") or [])
    output_format = (body.get("text") or {}).get("format") or {}
    question.schema = {"type": "object"} if output_format.get("type") == "json_object" else output_format.get("schema")
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        question.forced = choice.get("name")
    elif choice == "required" and not question.results:
        question.forced = next(iter(question.tools), None)
    return question


def _read_tools(question: Question, tools: list[dict[str, Any]]) -> None:
    for tool in tools:
        if tool["type"] == "namespace":
            _read_tools(question, tool["tools"])
        elif tool["type"].startswith("web_search"):
            question.can_search = True
        elif tool["type"] in ("function", "custom"):
            question.tools[tool["name"]] = None if tool["type"] == "custom" else tool.get("parameters") or {}


def whole(body: dict[str, Any], reply: Reply) -> dict[str, Any]:
    """Return a response that is not streamed."""
    return {**_head(body), "status": "completed", "output": _items(body, reply), "usage": USAGE}


def stream(body: dict[str, Any], reply: Reply) -> Iterator[bytes]:
    """Yield the events of a streamed response."""
    events = _events(body, reply)
    for number, data in enumerate(events):
        yield event({**data, "sequence_number": number}, data["type"])


def _events(body: dict[str, Any], reply: Reply) -> Iterator[dict[str, Any]]:
    for kind in ("response.created", "response.in_progress"):
        yield {"type": kind, "response": {**_head(body), "status": "in_progress"}}
    for index, item in enumerate(_items(body, reply)):
        place = {"item_id": item["id"], "output_index": index}
        yield {"type": "response.output_item.added", "output_index": index, "item": {**item, **_empty(item)}}
        match item["type"]:
            case "reasoning":
                inner = {**place, "summary_index": 0}
                part = {"type": "summary_text", "text": THOUGHT}
                yield {"type": "response.reasoning_summary_part.added", **inner, "part": {**part, "text": ""}}
                for text in split(THOUGHT):
                    yield {"type": "response.reasoning_summary_text.delta", **inner, "delta": text}
                yield {"type": "response.reasoning_summary_text.done", **inner, "text": THOUGHT}
                yield {"type": "response.reasoning_summary_part.done", **inner, "part": part}
            case "message":
                inner, (part,) = {**place, "content_index": 0}, item["content"]
                yield {"type": "response.content_part.added", **inner, "part": {**part, "text": ""}}
                for text in split(part["text"]):
                    yield {"type": "response.output_text.delta", **inner, "delta": text, "logprobs": []}
                yield {"type": "response.output_text.done", **inner, "text": part["text"], "logprobs": []}
                yield {"type": "response.content_part.done", **inner, "part": part}
            case "web_search_call":
                for state in ("in_progress", "searching", "completed"):
                    yield {"type": f"response.web_search_call.{state}", **place}
            case "function_call":
                for text in split(item["arguments"]):
                    yield {"type": "response.function_call_arguments.delta", **place, "delta": text}
                name, arguments = item["name"], item["arguments"]
                yield {"type": "response.function_call_arguments.done", **place, "name": name, "arguments": arguments}
            case _:
                for text in split(item["input"]):
                    yield {"type": "response.custom_tool_call_input.delta", **place, "delta": text}
                yield {"type": "response.custom_tool_call_input.done", **place, "input": item["input"]}
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    yield {"type": "response.completed", "response": whole(body, reply)}


def _empty(item: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that an item has before its first delta."""
    fields: dict[str, dict[str, Any]] = {
        "reasoning": {"summary": []},
        "message": {"content": [], "status": "in_progress"},
        "web_search_call": {"status": "in_progress"},
    }
    return fields.get(item["type"]) or {"arguments" if item["type"] == "function_call" else "input": ""}


def _items(body: dict[str, Any], reply: Reply) -> list[dict[str, Any]]:
    turn = len(body["input"])
    items: list[dict[str, Any]] = []
    if body.get("reasoning"):
        summary = [{"type": "summary_text", "text": THOUGHT}]
        items.append({"type": "reasoning", "id": f"rs_{turn}", "summary": summary, "encrypted_content": SIGNATURE})
    notes = []
    if reply.searched:
        action = {"type": "search", "query": "the number", "sources": [{"type": "url", "url": SOURCE}]}
        items.append({"type": "web_search_call", "id": f"ws_{turn}", "status": "completed", "action": action})
        place = {"start_index": 0, "end_index": len(reply.text)}
        notes.append({"type": "url_citation", "url": SOURCE, "title": "A page", **place})
    if reply.text:
        part = {"type": "output_text", "text": reply.text, "annotations": notes, "logprobs": []}
        message = {"type": "message", "id": f"msg_{turn}", "role": "assistant", "status": "completed"}
        items.append({**message, "content": [part]})
    for index, call in enumerate(reply.calls):
        ids = {"id": f"fc_{turn}_{index}", "call_id": f"call_{turn}_{index}", "name": call.name, "status": "completed"}
        if call.text is None:
            items.append({"type": "function_call", **ids, "arguments": json.dumps(call.arguments)})
        else:
            items.append({"type": "custom_tool_call", **ids, "id": f"ctc_{turn}_{index}", "input": call.text})
    return items


def _head(body: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of every response, as far as SDKs demand them."""
    head = {"id": "resp_1", "object": "response", "created_at": 1, "model": body["model"], "output": []}
    choices = {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "metadata": {}}
    return {**head, **choices, "error": None, "incomplete_details": None, "instructions": None}
