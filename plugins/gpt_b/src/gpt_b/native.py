"""Anthropic's own protocol, passed to the provider and back as it came, by the SDK's client and transport."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

from handler_host.plugin import (
    CallInfo,
    Context,
    NativeRequest,
    NativeResponse,
    Retries,
    native,
    relay_sdk,
    retry_stream,
    trace_headers,
)

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

BETA = "anthropic-beta"


class NativeAnthropic:
    """Native operations of a handler with Anthropic's client."""

    context: Context
    _client: AsyncAnthropic
    _retries: Retries

    @native("anthropic.messages")
    async def native_messages(self, request: NativeRequest, call: CallInfo) -> AsyncIterator[NativeResponse | bytes]:
        """Pass a message on."""
        async with aclosing(self._pass_on("/v1/messages", request, call)) as parts:
            async for part in parts:
                yield part

    @native("anthropic.count_tokens")
    async def native_count(self, request: NativeRequest, call: CallInfo) -> AsyncIterator[NativeResponse | bytes]:
        """Pass a request for a token count on."""
        async with aclosing(self._pass_on("/v1/messages/count_tokens", request, call)) as parts:
            async for part in parts:
                yield part

    def _pass_on(
        self, path: str, request: NativeRequest, call: CallInfo
    ) -> AsyncGenerator[NativeResponse | bytes, None]:
        import anthropic

        config = self.context.config
        headers = {**request.headers, **trace_headers()}
        own_betas = _own_betas(config.get("headers") or {})
        if own_betas and BETA in headers:
            headers[BETA] = f"{own_betas},{headers[BETA]}"
        attempt = partial(
            relay_sdk,
            anthropic,
            self._client,
            path,
            request.payload(config["model"]),
            headers=headers,
            query=request.query,
            timeout_s=config["timeout"],
        )
        return retry_stream(attempt, self._retries, deadline=call.deadline)


def _own_betas(headers: dict[str, str]) -> str | None:
    """Return the betas of the handler's configuration, which a client's own would otherwise replace."""
    return next((value for name, value in headers.items() if name.lower() == BETA), None)
