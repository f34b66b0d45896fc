"""Anthropic's own protocol, passed to the provider and back as it came, by the SDK's client and transport."""

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
        async with aclosing(self._pass_on("/v1/messages", request, call)) as parts:  # type: ignore[type-var]
            async for part in parts:
                yield part

    @native("anthropic.count_tokens")
    async def native_count(self, request: NativeRequest, call: CallInfo) -> AsyncIterator[NativeResponse | bytes]:
        """Pass a request for a token count on."""
        async with aclosing(self._pass_on("/v1/messages/count_tokens", request, call)) as parts:  # type: ignore[type-var]
            async for part in parts:
                yield part

    def _pass_on(self, path: str, request: NativeRequest, call: CallInfo) -> AsyncIterator[NativeResponse | bytes]:
        payload = request.payload(self.context.config["model"])
        headers = {**request.headers, **trace_headers()}
        own_betas = _own_betas(self.context.config.get("headers") or {})
        if own_betas and BETA in headers:
            headers[BETA] = f"{own_betas},{headers[BETA]}"
        return retry_stream(
            lambda: self._native_attempt(path, payload, headers, dict(request.query)),
            self._retries,
            deadline=call.deadline,
        )

    async def _native_attempt(
        self, path: str, payload: bytes, headers: dict[str, str], query: dict[str, object]
    ) -> AsyncIterator[NativeResponse | bytes]:
        from anthropic import AsyncStream

        with self._native_errors():
            stream = await self._client.post(
                path,
                content=payload,
                cast_to=object,
                options={"headers": headers, "params": query},
                stream=True,
                stream_cls=AsyncStream[object],
            )
            async with aclosing(relay_httpx(stream.response)) as parts:  # type: ignore[type-var]
                async for part in parts:
                    yield part

    @contextmanager
    def _native_errors(self) -> Iterator[None]:
        """Translate the errors of the SDK and of its transport to those of the host."""
        import anthropic

        timeout_s = self.context.config["timeout"]
        try:
            yield
        except anthropic.APIStatusError as error:
            headers = {name.lower(): value for name, value in error.response.headers.items()}
            raise provider_refusal(NativeResponse(error.status_code, headers, error.response.content)) from error
        except anthropic.APITimeoutError as error:
            raise timeout_error(timeout_s) from error
        except anthropic.APIConnectionError as error:
            raise unreachable_error(error.__cause__ or error) from error
        except Exception as error:
            host_error = from_httpx(error, timeout_s)
            if host_error is None:
                raise
            raise host_error from error


def _own_betas(headers: dict[str, str]) -> str | None:
    """Return the betas of the handler's configuration, which a client's own would otherwise replace."""
    return next((value for name, value in headers.items() if name.lower() == BETA), None)
