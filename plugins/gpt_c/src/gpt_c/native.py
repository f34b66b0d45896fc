"""Gemini's own protocol, passed to the provider and back as it came, over the transport of both SDKs: aiohttp."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING
from urllib.parse import quote

from gpt_c.model_path import model_path
from handler_host.chat import EmbedRequest, EmbedResponse
from handler_host.plugin import (
    CallInfo,
    Context,
    NativeRequest,
    NativeResponse,
    Retries,
    UpstreamError,
    native,
    operation,
    provider_refusal,
    relay_body,
    retry_stream,
    trace_headers,
)

if TYPE_CHECKING:
    from gpt_c.backend import Settings
    from gpt_c.http_backend import HttpBackend

_METHODS = {
    "gemini.generate_content": "generateContent",
    "gemini.count_tokens": "countTokens",
    "gemini.embed_content": "embedContent",
}
"""Method of each operation, unless the request names another one."""


class NativeGemini:
    """Native operations of a handler with a client of Gemini."""

    context: Context
    _backend: HttpBackend
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

    @operation("embed", summary="Compute the embeddings of texts.")
    async def embed(self, request: EmbedRequest, call: CallInfo) -> EmbedResponse:
        """Return the provider's embeddings; it counts no tokens."""
        model = request.model or self.context.config["embedding_model"]
        options = {} if request.dimensions is None else {"outputDimensionality": request.dimensions}
        requests = [
            {"model": model_path(model), "content": {"parts": [{"text": text}]}, **options} for text in request.input
        ]
        body = json.dumps({"requests": requests}).encode()
        batch = NativeRequest("gemini.embed_content", "batchEmbedContents", model, False, {}, {}, body)
        async with aclosing(self._pass_on(batch, call)) as parts:
            content = b"".join([part async for part in parts if isinstance(part, bytes)])
        try:
            vectors = [embedding["values"] for embedding in json.loads(content)["embeddings"]]
        except (ValueError, KeyError, TypeError) as error:
            raise UpstreamError(f"the provider's embeddings are invalid: {error}") from error
        return EmbedResponse(embeddings=vectors, model=model)

    def _pass_on(self, request: NativeRequest, call: CallInfo) -> AsyncGenerator[NativeResponse | bytes, None]:
        is_embedding = request.operation == "gemini.embed_content"
        default_model = self.context.config["embedding_model" if is_embedding else "model"]
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
                start = NativeResponse(response.status, received)
                async with aclosing(relay_body(start, response.content.iter_any())) as parts:
                    async for part in parts:
                        yield part
