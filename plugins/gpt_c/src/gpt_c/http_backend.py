"""Requests to Gemini's API and their responses, the same for both SDKs: aiohttp sends, the host's reader reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

import aiohttp

from gpt_c.backend import ANY_SIGNATURE, Chunk, Question, Settings, wants_signatures
from gpt_c.documents import chunks_of, count_of
from gpt_c.failures import connection, from_response
from handler_host.plugin import read_documents, repair_aiohttp, trace_headers

_STREAM_PARAMS = {"alt": "sse"}


class HttpBackend(ABC):
    """Backend whose SDK makes the body of each request; its module is imported, with the SDK, when it is chosen."""

    lacks_schema_words: bool
    """Whether the SDK has a part of JSON Schema only."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        headers = {**settings.headers, "x-goog-api-key": settings.key} if settings.key else settings.headers
        repair_aiohttp()
        self.session = aiohttp.ClientSession(headers=headers)
        """Connections to the provider."""

    @abstractmethod
    def sdk_body(self, question: Question, contents: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the JSON of a request for content; raises ``InvalidInput`` for what the SDK cannot carry.

        ``contents`` are those of the question without signatures, which are added to the JSON afterwards.
        """

    async def close(self) -> None:
        """Close the connections."""
        await self.session.close()

    def stream(self, question: Question) -> AsyncIterator[Chunk]:
        """Send the question once, and yield the chunks; raises the errors of ``handler_host.plugin``.

        Closing the iterator closes the request.
        """
        return self._chunks(question, "streamGenerateContent", self._settings.timeout, _STREAM_PARAMS)

    def whole(self, question: Question) -> AsyncIterator[Chunk]:
        """Send the question once, and yield each candidate of the response as one chunk; otherwise as ``stream``."""
        return self._chunks(question, "generateContent", self._settings.plain_timeout)

    async def count(self, question: Question) -> int:
        """Return the tokens of a question; raises as ``stream`` does."""
        body = {"generateContentRequest": {**self._body(question), "model": question.model}}
        async with self._post(question, "countTokens", body, self._settings.timeout) as response:
            return count_of((await response.read()).decode(errors="replace"))

    def _body(self, question: Question) -> dict[str, Any]:
        body = self.sdk_body(question, [_without_signatures(content) for content in question.contents])
        for content, source in zip(body["contents"], question.contents, strict=True):
            _restore(content["parts"], source["parts"], needs_signature=wants_signatures(question.model))
        return body

    async def _chunks(
        self, question: Question, method: str, wait_s: float, params: Mapping[str, str] | None = None
    ) -> AsyncIterator[Chunk]:
        async with self._post(question, method, self._body(question), wait_s, params) as response:
            documents = read_documents(response.content.iter_any(), response.content_type)
            async with aclosing(documents):
                async for document in documents:
                    for chunk in chunks_of(document, response.content_type, candidates=question.candidates):
                        yield chunk

    @asynccontextmanager
    async def _post(
        self,
        question: Question,
        method: str,
        body: dict[str, Any],
        wait_s: float,
        params: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a body, and yield the response; raises the host's errors, also for a status that is not 2xx."""
        settings = self._settings
        with connection(wait_s):
            async with self.session.post(
                settings.url(question.model, method),
                params=params,
                json=body,
                headers=trace_headers(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.timeout, sock_read=wait_s),
                allow_redirects=False,
            ) as response:
                if response.status >= 300:
                    raise from_response(response.status, response.headers, await response.read())
                yield response


def _without_signatures(content: dict[str, Any]) -> dict[str, Any]:
    """Return a content without the field that one SDK does not know, and the other decodes."""
    parts = [{name: value for name, value in part.items() if name != "thought_signature"} for part in content["parts"]]
    return {**content, "parts": parts}


def _restore(parts: list[dict[str, Any]], sources: list[dict[str, Any]], *, needs_signature: bool) -> None:
    """Give parts what the SDKs' messages lose: signatures, and numbers without a fraction (1 becomes 1.0)."""
    for part, source in zip(parts, sources, strict=True):
        if "functionCall" in part:
            part["functionCall"]["args"] = source["function_call"]["args"]
            signature = source.get("thought_signature") or (ANY_SIGNATURE if needs_signature else None)
            if signature:
                part["thoughtSignature"], needs_signature = signature, False
        elif "functionResponse" in part:
            part["functionResponse"]["response"] = source["function_response"]["response"]
