"""Native operations of Anthropic's API: messages and token counts."""

from __future__ import annotations

import msgspec

from handler_host.protocols.anthropic.errors import error_events
from handler_host.protocols.native_operation import NativeOperation

COUNT_TOKENS = NativeOperation(
    name="anthropic.count_tokens",
    error_events=error_events,
    request_headers=("anthropic-beta", "anthropic-version"),
    query=("beta",),
    response_header_starts=("anthropic-ratelimit-",),
)
MESSAGES = msgspec.structs.replace(COUNT_TOKENS, name="anthropic.messages", event_model=("message", "model"))
