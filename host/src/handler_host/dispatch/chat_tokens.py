"""Token counts of chats on the host's own routes, read without the types of the chat contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from handler_host.chat.types import Usage

CHAT = "chat"
"""Operation whose responses have token counts."""
_MARKERS = (b'"usage"', b'"model"')


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0


class _Document(msgspec.Struct):
    usage: _Usage | None = None
    model: str | None = None


class ChatTokens:
    """Tokens and model of one chat."""

    def __init__(self) -> None:
        self.tokens: dict[str, int] = {}
        """As :func:`tokens_by_kind` returns them."""
        self.model: str | None = None

    def read(self, document: bytes) -> None:
        """Read a response, or a chunk of a stream; the last counts of a stream apply."""
        if not any(marker in document for marker in _MARKERS):
            return
        try:
            decoded = msgspec.json.decode(document, type=_Document)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return  # another shape: the client sees what is wrong with it
        self.model = decoded.model or self.model
        if decoded.usage is not None:
            self.tokens = tokens_by_kind(decoded.usage)


def tokens_by_kind(usage: _Usage | Usage) -> dict[str, int]:
    """Return the tokens of a chat by kind, as ``Dispatcher.count_tokens`` expects them."""
    return {
        "input": usage.prompt_tokens,
        "cached": usage.cached_tokens,
        "cache_write": usage.cache_write_tokens,
        "output": usage.completion_tokens,
        "reasoning": usage.reasoning_tokens,
    }
