"""A chat handler on the Anthropic SDK: Anthropic itself, and every server that speaks its protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from gpt_b.events import EventDecoder
from gpt_b.native import NativeAnthropic
from gpt_b.requests import headers_for, message_body, prompt_body
from handler_host.chat import (
    TOOL_MEDIA,
    ChatChunk,
    ChatHandler,
    ChatRequest,
    FinishReason,
    IgnoredChunk,
    TokenCount,
    decode_stream,
    raise_truncated,
    validate_request,
)
from handler_host.plugin import (
    CallInfo,
    ConfigError,
    ContentRefused,
    Retries,
    UpstreamError,
    aiohttp_client,
    error_from_response,
    operation,
    read_documents,
    retry_call,
    retry_stream,
    sdk_errors,
    trace_headers,
)

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic


class GptB(NativeAnthropic, ChatHandler):
    """``[handlers.gpt_b]``: see ``handler.toml`` for its keys."""

    supports = frozenset(
        {
            *("cache_control", "messages[].content[].file", "messages[].is_error", "messages[].reasoning"),
            *("reasoning", "service_tier", "top_k", TOOL_MEDIA),
        }
    )
    provider = "Anthropic"
    lacks = frozenset(
        {
            *("seed", "presence_penalty", "frequency_penalty"),
            *("messages[].name", "messages[].content[].image_url.detail"),
        }
    )
    _client: AsyncAnthropic

    async def open(self) -> None:
        """Import the SDK and make the one client that all dispatches share."""
        config, key = self.context.config, self.context.secrets.get("ANTHROPIC_API_KEY")
        base_url = config.get("base_url")
        if not key and not base_url:
            raise ConfigError(
                "[handlers.gpt_b]: no key; set ANTHROPIC_API_KEY, or base_url for a compatible server that takes no key"
            )
        # Not at the top: tools import this module to inspect it, without the cost of the SDK. All modules of the SDK
        # import all of its routes and types (anthropic 2.12), so none of them is cheaper.
        import anthropic

        self._client = anthropic.AsyncAnthropic(
            # Without a key the SDK looks for other credentials in the environment and in files.
            api_key=key.reveal() if key else "no-key",
            base_url=base_url,
            timeout=config["timeout"],
            max_retries=0,
            default_headers=config.get("headers"),
            open_telemetry=False,
            http_client=aiohttp_client(anthropic, config["timeout"]),
        )
        self.context.on_close(self._client.close)
        self._retries = Retries(times=config["retries"])

    async def stream(self, request: ChatRequest, call: CallInfo | None = None) -> AsyncIterator[ChatChunk]:
        """Send the translated request, and yield the chunks of the response."""
        body, ignored = message_body(request, self.context.config["model"], self.context.config["max_tokens"])
        if ignored:
            yield IgnoredChunk(fields=ignored)
        headers = {**headers_for(request), **trace_headers()}
        deadline = call.deadline if call is not None else None
        async for chunk in retry_stream(lambda: self._attempt(body, headers), self._retries, deadline=deadline):
            yield chunk

    @operation("count_tokens", summary="Count the tokens that a chat request has for the model.")
    async def count_tokens(self, request: ChatRequest, call: CallInfo) -> TokenCount:
        """Return the provider's token count; the provider generates nothing."""
        validate_request(request)
        self.leave_out_unsupported(request)
        body, _ = prompt_body(request, self.context.config["model"], self.context.config["max_tokens"])
        return await retry_call(lambda: self._count(body), self._retries, deadline=call.deadline)

    def on_missing_finish_reason(self) -> FinishReason:
        """Raise: a stream without a stop reason was cut off, which the SDK does not report."""
        raise_truncated()

    async def _attempt(self, body: dict[str, Any], headers: dict[str, str]) -> AsyncIterator[ChatChunk]:
        from anthropic import AsyncStream

        with self._host_errors():
            response = await self._client.post(
                "/v1/messages",
                body={**body, "stream": True},
                cast_to=object,
                options={"headers": headers},
                stream=True,
                stream_cls=AsyncStream[object],
            )
            async with response:
                # The raw bytes: the SDK's own reader skips events without a name and those that are not JSON, and makes
                # pydantic models, which cost more CPU than everything else here (`make bench-upstream`).
                content_type = response.response.headers.get("content-type", "")
                documents = read_documents(response.response.aiter_bytes(), content_type)
                async for chunk in decode_stream(documents, EventDecoder(content_type)):
                    yield chunk

    async def _count(self, body: dict[str, Any]) -> TokenCount:
        with self._host_errors():
            response = await self._client.post(
                "/v1/messages/count_tokens", body=body, cast_to=object, options={"headers": trace_headers()}
            )
            tokens = response.get("input_tokens") if isinstance(response, dict) else None
            if not isinstance(tokens, int):
                raise UpstreamError(f"the provider's token count is not a number: {str(response)[:200]}")
            return TokenCount(input_tokens=tokens)

    def _host_errors(self) -> AbstractContextManager[None]:
        import anthropic

        return sdk_errors(anthropic, self.context.config["timeout"], _status_error)


def _status_error(error: Any) -> UpstreamError:
    response = error.response
    host_error = error_from_response(error.status_code, response.headers, response.content)
    if "content filtering policy" in host_error.message:
        # Anthropic has no code for it.
        return ContentRefused(host_error.message)
    return host_error
