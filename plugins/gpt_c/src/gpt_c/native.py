"""Gemini's own protocol, passed to the provider and back as it came, over the transport of both SDKs: aiohttp."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING
from urllib.parse import quote

from gpt_c.model_path import model_path
from handler_host.plugin import (
    CallInfo,
    Context,
    NativeRequest,
    NativeResponse,
    Retries,
    native,
    provider_refusal,
    retry_stream,
    trace_headers,
)

if TYPE_CHECKING:
    from gpt_c.backend import Backend, Settings

_METHODS = {
    "gemini.generate_content": "generateContent",
    "gemini.count_tokens": "countTokens",
    "gemini.embed_content": "embedContent",
}
"""Method of each operation, unless the request names another one."""


class NativeGemini:
    """Native operations of a handler with a client of Gemini."""

    context: Context
    _backend: Backend
    _retries: Retries
    _settings: Settings

    @native("gemini.generate_content")
    async def native_generate(self, request: NativeRequest, call: CallInfo) -> AsyncIterator[NativeResponse | bytes]:
        """Pass a request for content on."""
        async with aclosing(self._pass_on(request, call)) as parts:
            async for part in parts:
                yield part

    @native("gemini.count_tokens")
    async def native_count(self, request: NativeRequest, call: CallInfo) -> AsyncIterator[NativeResponse | bytes]:
        """Pass a request for a token count on."""
        async with aclosing(self._pass_on(request, call)) as parts:
            async for part in parts:
                yield part

    @native("gemini.embed_content")
    async def native_embed(self, request: NativeRequest, call: CallInfo) -> AsyncIterator[NativeResponse | bytes]:
        """Pass a request for embeddings on."""
        async with aclosing(self._pass_on(request, call)) as parts:
            async for part in parts:
                yield part

    def _pass_on(self, request: NativeRequest, call: CallInfo) -> AsyncGenerator[NativeResponse | bytes, None]:
        default_model = self.context.config["model"]
        payload = request.payload(default_model)
        model = request.model_name(default_model)
        method = request.method or _METHODS[request.operation]
        url = self._settings.url(quote(model_path(model)), method)
        return retry_stream(lambda: self._native_attempt(url, request, payload), self._retries, deadline=call.deadline)

    async def _native_attempt(
        self, url: str, request: NativeRequest, payload: bytes
    ) -> AsyncIterator[NativeResponse | bytes]:
        import aiohttp

        from gpt_c.failures import connection, from_response

        settings = self._settings
        wait_s = settings.timeout if request.stream else settings.plain_timeout
        headers = {**settings.headers, "Content-Type": "application/json", **request.headers, **trace_headers()}
        if settings.key:
            headers["x-goog-api-key"] = settings.key
        with connection(wait_s):
            async with self._backend.session.post(
                url,
                params=dict(request.query),
                data=payload,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.timeout, sock_read=wait_s),
                allow_redirects=False,
            ) as response:
                received = {name.lower(): value for name, value in response.headers.items()}
                if response.status >= 400:
                    raise provider_refusal(NativeResponse(response.status, received, await response.read()))
                if response.status >= 300:
                    raise from_response(response.status, received, b"")
                yield NativeResponse(response.status, received)
                async for chunk in response.content.iter_any():
                    yield chunk
