"""Token counts of chats on the host's own routes, read without the types of the chat contract."""

from __future__ import annotations

import msgspec

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
        """By kind, as ``Dispatcher.count_tokens`` expects them."""
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
        usage = decoded.usage
        if usage is not None:
            self.tokens = {
                "input": usage.prompt_tokens,
                "cached": usage.cached_tokens,
                "cache_write": usage.cache_write_tokens,
                "output": usage.completion_tokens,
                "reasoning": usage.reasoning_tokens,
            }
