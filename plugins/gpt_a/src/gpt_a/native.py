"""OpenAI's own protocol, passed to the provider and back as it came, by the SDK's client and transport."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

from handler_host.plugin import (
    CallInfo,
    Context,
    HostError,
    NativeRequest,
    NativeResponse,
    Retries,
    UnknownOperation,
    is_for_responses,
    is_missing_route,
    native,
    provider_refusal,
    relay_sdk,
    retry_stream,
    sdk_response,
    trace_headers,
)

if TYPE_CHECKING:
    import openai
    from openai import AsyncOpenAI

COMPLETIONS = "/chat/completions"
RESPONSES = "/responses"
_NO_RESPONSES = "the provider has no Responses API"
_NO_TOOLS = "the provider gives this model no tools beside reasoning in chat completions"


class NativeOpenAI:
    """Native operations of a handler with OpenAI's client."""

    context: Context
    _client: AsyncOpenAI
    _embedding_model: str
    _retries: Retries
    _has_responses = True
    """Whether the server has the Responses API, as far as is known: many compatible servers do not."""

    @native("openai.chat")
    async def native_chat(self, request: NativeRequest, call: CallInfo) -> AsyncIterator[NativeResponse | bytes]:
        """Pass a chat completion on, unless OpenAI refuses it tools: then the host translates it."""
        async with aclosing(self._pass_on(COMPLETIONS, request, call)) as parts:
            async for part in parts:
                yield part

    @native("openai.responses")
    async def native_responses(self, request: NativeRequest, call: CallInfo) -> AsyncIterator[NativeResponse | bytes]:
        """Pass a request of the Responses API on, unless the server has none: then the host translates the request."""
        if not self._has_responses:
            raise UnknownOperation(_NO_RESPONSES)
        async with aclosing(self._pass_on(RESPONSES, request, call)) as parts:
            async for part in parts:
                yield part

    @native("openai.embeddings")
    async def native_embeddings(self, request: NativeRequest, call: CallInfo) -> AsyncIterator[NativeResponse | bytes]:
        """Pass a request for embeddings on."""
        async with aclosing(self._pass_on("/embeddings", request, call, self._embedding_model)) as parts:
            async for part in parts:
                yield part

    def _pass_on(
        self, path: str, request: NativeRequest, call: CallInfo, default_model: str | None = None
    ) -> AsyncGenerator[NativeResponse | bytes, None]:
        import openai

        config = self.context.config
        attempt = partial(
            relay_sdk,
            openai,
            self._client,
            path,
            request.payload(default_model or config["model"]),
            headers={**request.headers, **trace_headers()},
            query=request.query,
            timeout_s=config["timeout"],
            error_of_status=self._native_refusal,
        )
        return retry_stream(attempt, self._retries, deadline=call.deadline)

    def _native_refusal(self, error: openai.APIStatusError) -> HostError:
        response = sdk_response(error)
        if error.request.url.path.endswith(RESPONSES) and is_missing_route(response):
            self._has_responses = False
            return UnknownOperation(_NO_RESPONSES)
        if is_for_responses(response):
            return UnknownOperation(_NO_TOOLS)
        return provider_refusal(response)
