"""OpenAI's own protocol, passed to the provider and back as it came, by the SDK's client and transport."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING

from handler_host.plugin import (
    CallInfo,
    Context,
    NativeRequest,
    NativeResponse,
    Retries,
    UnknownOperation,
    from_httpx,
    native,
    provider_refusal,
    relay_httpx,
    retry_stream,
    timeout_error,
    trace_headers,
    unreachable_error,
)

if TYPE_CHECKING:
    import openai
    from openai import AsyncOpenAI


RESPONSES = "/responses"
_NO_RESPONSES = "the provider has no Responses API"
_MISSING_ROUTE = (404, 405, 501)


class NativeOpenAI:
    """Native operations of a handler with OpenAI's client."""

    context: Context
    _client: AsyncOpenAI
    _retries: Retries
    _has_responses = True
    """Whether the server has the Responses API, as far as is known: many compatible servers do not."""

    @native("openai.chat")
    async def native_chat(self, request: NativeRequest, call: CallInfo) -> AsyncIterator[NativeResponse | bytes]:
        """Pass a chat completion on."""
        async with aclosing(self._pass_on("/chat/completions", request, call)) as parts:  # type: ignore[type-var]
            async for part in parts:
                yield part

    @native("openai.responses")
    async def native_responses(self, request: NativeRequest, call: CallInfo) -> AsyncIterator[NativeResponse | bytes]:
        """Pass a request of the Responses API on, unless the server has none: then the host translates the request."""
        if not self._has_responses:
            raise UnknownOperation(_NO_RESPONSES)
        async with aclosing(self._pass_on(RESPONSES, request, call)) as parts:  # type: ignore[type-var]
            async for part in parts:
                yield part

    @native("openai.embeddings")
    async def native_embeddings(self, request: NativeRequest, call: CallInfo) -> AsyncIterator[NativeResponse | bytes]:
        """Pass a request for embeddings on."""
        async with aclosing(self._pass_on("/embeddings", request, call)) as parts:  # type: ignore[type-var]
            async for part in parts:
                yield part

    def _pass_on(self, path: str, request: NativeRequest, call: CallInfo) -> AsyncIterator[NativeResponse | bytes]:
        payload = request.payload(self.context.config["model"])
        headers = {**request.headers, **trace_headers()}
        return retry_stream(lambda: self._native_attempt(path, payload, headers), self._retries, deadline=call.deadline)

    async def _native_attempt(
        self, path: str, payload: bytes, headers: dict[str, str]
    ) -> AsyncIterator[NativeResponse | bytes]:
        from openai import AsyncStream

        with self._native_errors():
            stream = await self._client.post(
                path,
                content=payload,
                cast_to=object,
                options={"headers": headers},
                stream=True,
                stream_cls=AsyncStream[object],
            )
            async with aclosing(relay_httpx(stream.response)) as parts:  # type: ignore[type-var]
                async for part in parts:
                    yield part

    @contextmanager
    def _native_errors(self) -> Iterator[None]:
        """Translate the errors of the SDK and of its transport to those of the host."""
        import openai

        timeout_s = self.context.config["timeout"]
        try:
            yield
        except openai.APIStatusError as error:
            if _is_missing_route(error):
                self._has_responses = False
                raise UnknownOperation(_NO_RESPONSES) from error
            headers = {name.lower(): value for name, value in error.response.headers.items()}
            raise provider_refusal(NativeResponse(error.status_code, headers, error.response.content)) from error
        except openai.APITimeoutError as error:
            raise timeout_error(timeout_s) from error
        except openai.APIConnectionError as error:
            raise unreachable_error(error.__cause__ or error) from error
        except Exception as error:
            host_error = from_httpx(error, timeout_s)
            if host_error is None:
                raise
            raise host_error from error


def _is_missing_route(error: openai.APIStatusError) -> bool:
    """Return whether the server does not know the Responses API; OpenAI answers 404 for an unknown model, too."""
    if error.status_code not in _MISSING_ROUTE or not error.request.url.path.endswith(RESPONSES):
        return False
    return not (isinstance(error.body, dict) and error.body.get("code"))
