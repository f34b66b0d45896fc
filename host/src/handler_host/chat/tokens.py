"""Tokens of a chat: their counts and their probabilities."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from handler_host.chat.parts import Model


class TopLogprob(Model, omit_defaults=False):
    """A token that the model could have written, and the logarithm of its probability."""

    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(TopLogprob):
    """A token of the text, and the most probable ones at its place."""

    top_logprobs: list[TopLogprob] = msgspec.field(default_factory=list)


class Usage(Model):
    """Token counts of one response, as the provider reports them."""

    prompt_tokens: int = 0
    """All input tokens, with those of the cache."""
    completion_tokens: int = 0
    """All output tokens, with those of the reasoning."""
    total_tokens: int = 0
    cached_tokens: int = 0
    """Input tokens read from the provider's cache."""
    cache_write_tokens: int = 0
    """Input tokens written to the provider's cache."""
    reasoning_tokens: int = 0


class TokenCount(Model, omit_defaults=False):
    """The response of the optional operation ``count_tokens`` to a :class:`~handler_host.chat.types.ChatRequest`."""

    input_tokens: int


def token_count(value: Any) -> int | None:
    """Return a provider's count as a whole number of 0 or more, or None for a value that is not a count."""
    if isinstance(value, str):
        try:
            value = float(value[:40])
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    # Beyond 53 bits a count is not one, and some clients' JSON cannot hold it.
    return int(value) if 0 <= value < 2**53 else None
