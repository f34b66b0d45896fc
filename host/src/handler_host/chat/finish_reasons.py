"""Finish reasons of all providers, in the words of the chat contract."""

from __future__ import annotations

import re

from handler_host.chat.types import FinishReason
from handler_host.plugin.errors import UpstreamError

_REASONS: dict[FinishReason, tuple[str, ...]] = {
    "stop": (
        *("stop", "stopped", "stop_sequence", "end_turn", "end", "eos", "eos_token", "done", "complete", "completed"),
        *("finish", "finished", "normal", "success", "finish_reason_stop"),
    ),
    "length": (
        *("length", "max_length", "model_length", "max_tokens", "max_output_tokens", "max_completion_tokens"),
        *("finish_reason_max_tokens", "token_limit", "model_context_window_exceeded", "context_length_exceeded"),
        # The response is not complete, and the client may ask for more: Anthropic's pause of a long turn.
        *("incomplete", "pause_turn"),
    ),
    "tool_calls": ("tool_calls", "tool_call", "tool_use", "tools", "function_call", "function_calls", "functions"),
    "content_filter": (
        *("content_filter", "content_filtered", "content_policy_violation", "refusal", "refused", "guardrail"),
        *("guardrail_intervened", "safety", "recitation", "language", "blocklist", "blocked", "prohibited_content"),
        *("spii", "image_safety", "image_prohibited_content", "sensitive", "risk_control", "moderation"),
    ),
}
_BY_NAME = {name: reason for reason, names in _REASONS.items() for name in names}
_NONE = frozenset({"", "null", "none", "unspecified", "finish_reason_unspecified"})
_BY_WORD: tuple[tuple[re.Pattern[str], FinishReason | None], ...] = (
    (re.compile(r"err|fail|malformed|unexpected|abort|cancel|timeout|interrupt|insufficient|overload|unavail"), None),
    (re.compile(r"filter|safety|policy|prohibit|block|sensitive|moderat|refus|guardrail"), "content_filter"),
    (re.compile(r"tool|function"), "tool_calls"),
    (re.compile(r"length|limit|max|exceed|truncated|budget"), "length"),
)
"""What a reason means that is not listed, by a word in it; None: the provider failed. The first match counts."""


def is_finish_reason(name: str) -> bool:
    """Return whether a provider's word is a finish reason, and not a placeholder."""
    return _key(name) not in _NONE


def finish_reason_of(name: object, *, has_tool_calls: bool = False) -> FinishReason | None:
    """Return the finish reason for a provider's word, or None for a word that is a placeholder.

    Providers write ``MAX_TOKENS``, ``eos`` or ``SAFETY``, and some write an empty string in each chunk. A response with
    tool calls that ends with ``stop`` has the reason ``tool_calls``: clients run the calls only then. Raises
    ``UpstreamError`` for a word that means a failure, such as ``error``.
    """
    if not isinstance(name, str):
        return None
    key = _key(name)
    if key in _NONE:
        return None
    reason = _BY_NAME.get(key)
    if reason is None:
        for pattern, meaning in _BY_WORD:
            if pattern.search(key):
                if meaning is None:
                    raise UpstreamError(f"the provider stopped before the response was complete: {name[:100]}")
                reason = meaning
                break
        else:
            reason = "stop"
    return "tool_calls" if reason == "stop" and has_tool_calls else reason


def _key(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")
