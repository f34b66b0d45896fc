"""Bodies of chat requests that the tests of several handlers send."""

from __future__ import annotations

from typing import Any

from handler_host.testing.chat_conformance import IMAGE

HI: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
FULL_CHAT: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What is this?"}, IMAGE]},
        {
            "role": "assistant",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "a cat", "tool_call_id": "c1"},
    ],
    "temperature": 0.5,
    "top_p": 0.9,
    "max_tokens": 10,
    "stop": ["x"],
    "seed": 1,
    "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}},
    "presence_penalty": 0.1,
    "frequency_penalty": 0.2,
    "user": "u",
}
"""A chat with each field that OpenAI's protocol takes over unchanged."""
