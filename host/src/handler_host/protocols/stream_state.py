"""What an encoder keeps of a stream with several choices. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from handler_host.chat import types as chat
from handler_host.chat.by_choice import ByChoice

State = TypeVar("State")


class StreamState(Generic[State]):
    """The model, its tier, the usage, and the state of each choice, which ``make`` returns."""

    def __init__(self, model: str, make: Callable[[int], State]) -> None:
        self.model = model
        """The requested one until the handler has named its own."""
        self.service_tier: str | None = None
        self.system_fingerprint: str | None = None
        self.usage: chat.Usage | None = None
        self.choices = ByChoice(make)

    def choice_chunk(self, chunk: chat.ChatChunk) -> chat.ChoiceChunk | None:
        """Return a chunk of one choice, or keep what a chunk says of all of them and return None."""
        match chunk:
            case chat.ModelChunk():
                self.model = chunk.model
                self.service_tier = chunk.service_tier or self.service_tier
                self.system_fingerprint = chunk.system_fingerprint or self.system_fingerprint
            case chat.UsageChunk():
                self.usage = chunk.usage
            case chat.IgnoredChunk():
                pass
            case _:
                return chunk
        return None
