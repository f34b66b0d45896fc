"""IDs of tool calls in the history of a chat. Pure."""

from __future__ import annotations

import hashlib
import re
from collections import Counter

from handler_host.chat.types import AssistantMessage, ChatRequest, ToolMessage


def call_ids(request: ChatRequest) -> set[str]:
    """Return the IDs of the tool calls in the history."""
    messages = (message for message in request.messages if isinstance(message, AssistantMessage))
    return {call.id for message in messages for call in message.tool_calls or ()}


def fit_call_ids(request: ChatRequest, pattern: re.Pattern[str]) -> None:
    """Give each tool call, and its result, an ID that matches ``pattern`` and that no other call has.

    Calls of other providers may have IDs that this one refuses. A new ID is the same in each turn, for the cache of
    the prompt.
    """
    turns: Counter[str] = Counter()
    used: set[str] = set()
    current: dict[str, str] = {}
    for message in request.messages:
        if isinstance(message, AssistantMessage):
            for call in message.tool_calls or ():
                own = fitting = call.id
                while fitting in used or not pattern.fullmatch(fitting):
                    turns[own] += 1
                    digest = hashlib.sha256(f"{turns[own]} {own}".encode(errors="replace")).hexdigest()
                    fitting = f"call_{digest[:24]}"
                used.add(fitting)
                call.id = current[own] = fitting
        elif isinstance(message, ToolMessage):
            message.tool_call_id = current.get(message.tool_call_id, message.tool_call_id)
