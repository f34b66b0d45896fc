"""The body of OpenAI's chat completions for a chat request. Pure; the opposite of :mod:`completion_decoder`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from handler_host.chat.reasoning_marks import reasoning_fields
from handler_host.chat.types import AssistantMessage, ChatRequest

_OWN_FIELDS = ("cache_control", "max_completion_tokens", "reasoning", "unsupported")
"""Fields of a chat request that chat completions have under another name, or lack."""
_OWN_MESSAGE_FIELDS = ("is_error", "reasoning")
DEFAULT_FILENAME = "document.pdf"


def completion_body(
    request: ChatRequest, *, keeps_cache_control: bool = False, source: str | None = None
) -> dict[str, Any]:
    """Return the body, without ``stream`` and without a model if the request has none.

    The limit of the response is ``max_completion_tokens`` if the client used that name. ``keeps_cache_control`` is for
    servers that take Anthropic's markers. Reasoning with the format ``source`` goes back where the server had it.
    """
    body: dict[str, Any] = msgspec.to_builtins(request)
    for name in _OWN_FIELDS:
        body.pop(name, None)
    if request.max_completion_tokens is not None:
        body["max_completion_tokens"] = body.pop("max_tokens", request.max_completion_tokens)
    effort = request.reasoning.effort_or_budget if request.reasoning is not None else None
    if effort is not None:
        body["reasoning_effort"] = effort
    if not request.tools:
        # OpenAI takes neither without tools.
        body.pop("parallel_tool_calls", None)
        if body.get("tool_choice") in ("auto", "none"):
            del body["tool_choice"]
    for message, own in zip(body["messages"], request.messages, strict=True):
        _rewrite_message(message, keeps_cache_control)
        if isinstance(own, AssistantMessage) and own.reasoning:
            message |= reasoning_fields(own.reasoning, source)
    if not keeps_cache_control:
        for tool in body.get("tools") or ():
            tool.pop("cache_control", None)
    elif request.cache_control is not None:
        body["messages"][-1].setdefault("cache_control", request.cache_control)
    return body


def tool_names(body: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of the functions in a body, for :class:`handler_host.chat.CompletionDecoder`."""
    return frozenset(tool.get("function", {}).get("name", "") for tool in body.get("tools") or ())


def is_openai(base_url: str | None) -> bool:
    """Return whether a server is OpenAI's own, in any of its regions, and not a compatible one."""
    return base_url is None or f".{urlsplit(base_url).hostname}".endswith(".api.openai.com")


def _rewrite_message(message: dict[str, Any], keeps_cache_control: bool) -> None:
    for name in _OWN_MESSAGE_FIELDS:
        message.pop(name, None)
    marked = [message, *(message.get("tool_calls") or ())]
    for call in message.get("tool_calls") or ():
        signature = call.pop("signature", None)
        if signature is not None:
            call["extra_content"] = {"google": {"thought_signature": signature}}
    content = message.get("content")
    if isinstance(content, list):
        marked += content
        for part in content:
            if part["type"] == "file":
                file = part["file"]
                part["file"] = {"file_data": file["url"], "filename": file.get("filename", DEFAULT_FILENAME)}
    if not keeps_cache_control:
        for item in marked:
            item.pop("cache_control", None)
