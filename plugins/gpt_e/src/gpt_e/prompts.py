"""Prompts in which the words of a client stay text.

llama.cpp reads a rendered prompt with its control tokens, so ``<|im_end|>`` in a message of the user would end the
message, and the user could write as the system. Here the template is rendered with placeholders, and the texts of the
messages are tokenized apart from it, without control tokens.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from typing import Any

from gpt_e.server import LlamaServer
from handler_host.plugin import InvalidInput


class PromptMaker:
    """Maker of prompts; the server renders templates and tokenizes texts."""

    def __init__(self, server: LlamaServer) -> None:
        self._server = server

    async def prompt(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None
    ) -> list[str | int] | None:
        """Return the prompt as texts of the template and tokens of the messages, or None if no text needs it.

        Texts without control tokens are left to llama.cpp. Raises ``InvalidInput`` for a control token in a field that
        is not text: a name, an ID, the arguments of a call, or a tool.
        """
        texts = [message["content"] for message in messages if isinstance(message.get("content"), str)]
        if await self._server.has_control_tokens("\n".join(texts_of(tools))):
            raise InvalidInput("tools: a text has a control token of the model; leave it out", param="tools")
        if await self._server.has_control_tokens("\n".join(_other_texts(messages))):
            raise InvalidInput(
                "messages: a name, an ID or arguments have a control token of the model; leave it out", param="messages"
            )
        if not await self._server.has_control_tokens("\n".join(texts)):
            return None
        mark = f"text{secrets.token_hex(16)}n"
        masked = [
            {**message, "content": f"{mark}{number}e"} if isinstance(message.get("content"), str) else message
            for number, message in enumerate(messages)
        ]
        rendered = await self._server.post("/apply-template", {"messages": masked, "tools": tools or []})
        prompt: list[str | int] = []
        for place, part in enumerate(re.split(rf"{mark}(\d+)e", rendered["prompt"])):
            if place % 2:
                prompt += await self._server.tokens(messages[int(part)]["content"], parse_special=False)
            elif part:
                prompt.append(part)
        return prompt

    async def count(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> int:
        """Return the tokens of the prompt, as llama.cpp's tokenizer counts them. Raises as :meth:`prompt` does."""
        prompt = await self.prompt(messages, tools)
        if prompt is None:
            body = {"messages": messages, "tools": tools or []}
            count: int = (await self._server.post("/v1/chat/completions/input_tokens", body))["input_tokens"]
            return count
        texts = [part for part in prompt if isinstance(part, str)]
        counts = [len(await self._server.tokens(text, parse_special=True)) for text in texts]
        return len(prompt) - len(texts) + sum(counts)


def join_parts(messages: list[dict[str, Any]]) -> None:
    """Make one text of the parts of each message, as llama.cpp does: no part continues a word of the one before."""
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            message["content"] = "\n".join(part["text"] for part in content)


def _other_texts(messages: list[dict[str, Any]]) -> list[str]:
    """Return the texts of the messages beside their content."""
    texts: list[str] = []
    for message in messages:
        texts += [str(message[name]) for name in ("name", "tool_call_id", "refusal") if message.get(name)]
        for call in message.get("tool_calls") or ():
            texts += [call["id"], call["function"]["name"], call["function"]["arguments"]]
    return texts


def texts_of(value: Any) -> Iterator[str]:
    """Yield all texts in a JSON value, names of fields among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from texts_of(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from texts_of(item)
