"""Prompts in which the words of a client stay text.

llama.cpp reads a rendered prompt with its control tokens, so ``<|im_end|>`` in a message of the user would end the
message, and the user could write as the system. Here the template is rendered with placeholders, and the texts of the
messages are tokenized apart from it, without control tokens.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from typing import Any

from handler_host.plugin import InvalidInput, UpstreamError

TIMEOUT_S = 30.0
"""Seconds for one call of llama.cpp's own routes; each takes about a millisecond."""


class PromptMaker:
    """Maker of prompts; it calls the routes of llama.cpp's server that render templates and count tokens."""

    def __init__(self, address: str, key: str) -> None:
        host, _, port = address.rpartition("//")[2].rpartition(":")
        self._host = host
        self._port = int(port)
        self._key = key

    async def prompt(self, messages: list[dict[str, Any]]) -> list[str | int] | None:
        """Return the prompt as texts of the template and tokens of the messages, or None if no text needs it.

        Texts without control tokens are left to llama.cpp. Raises ``InvalidInput`` for a control token in a field that
        is not text: a name, an ID or the arguments of a call.
        """
        texts = [message["content"] for message in messages if isinstance(message.get("content"), str)]
        if await self._has_control_tokens("\n".join(_other_texts(messages))):
            raise InvalidInput(
                "messages: a name, an ID or arguments have a control token of the model; leave it out", param="messages"
            )
        if not await self._has_control_tokens("\n".join(texts)):
            return None
        mark = f"text{secrets.token_hex(16)}n"
        masked = [
            {**message, "content": f"{mark}{number}e"} if isinstance(message.get("content"), str) else message
            for number, message in enumerate(messages)
        ]
        rendered = await self._post("/apply-template", {"messages": masked})
        prompt: list[str | int] = []
        for place, part in enumerate(re.split(rf"{mark}(\d+)e", rendered["prompt"])):
            if place % 2:
                prompt += await self._tokens(messages[int(part)]["content"], parse_special=False)
            elif part:
                prompt.append(part)
        return prompt

    async def _has_control_tokens(self, text: str) -> bool:
        if not text:
            return False
        return await self._tokens(text, parse_special=True) != await self._tokens(text, parse_special=False)

    async def _tokens(self, text: str, *, parse_special: bool) -> list[int]:
        body = {"content": text, "add_special": False, "parse_special": parse_special}
        tokens: list[int] = (await self._post("/tokenize", body))["tokens"]
        return tokens

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return the JSON of a response; by hand, because an HTTP client costs the worker 4 MB and more."""
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.0\r\nHost: {self._host}\r\nAuthorization: Bearer {self._key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection(self._host, self._port)
            try:
                writer.write(head.encode() + data)
                response = await reader.read(-1)
            finally:
                writer.close()
        head_bytes, _, content = response.partition(b"\r\n\r\n")
        if b" 200 " not in head_bytes.partition(b"\r\n")[0]:
            words = content[:300].decode(errors="replace")
            if path == "/apply-template":
                raise InvalidInput(f"messages: the template of the model refuses them: {words}", param="messages")
            raise UpstreamError(f"llama.cpp cannot tokenize the messages: {words}")
        document: dict[str, Any] = json.loads(content)
        return document


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
