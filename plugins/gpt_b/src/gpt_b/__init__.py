"""A chat handler on the Anthropic SDK: Anthropic itself, and every server that speaks its protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gpt_b.events import EventDecoder
from gpt_b.requests import headers_for, message_body, prompt_body
from handler_host.chat import (
    ChatChunk,
    ChatHandler,
    ChatRequest,
    FinishReason,
    TokenCount,
    raise_truncated,
    validate_request,
)
from handler_host.plugin import (
    CallInfo,
    ConfigError,
    Retries,
    UpstreamError,
    from_httpx,
    from_status,
    operation,
    parse_retry_after,
    retry_stream,
    timeout_error,
    trace_headers,
    unreachable_error,
)

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

EVENT_STREAM = "text/event-stream"


class GptB(ChatHandler):
    """``[handlers.gpt_b]``: see ``handler.toml`` for its keys."""

    _client: AsyncAnthropic

    async def open(self) -> None:
        """Import the SDK and make the one client that all dispatches share."""
        config, key = self.context.config, self.context.secrets.get("ANTHROPIC_API_KEY")
        base_url = config.get("base_url")
        if not key and not base_url:
            raise ConfigError(
                "neither a key nor another server: set ANTHROPIC_API_KEY, or base_url in [handlers.gpt_b] "
                "for a compatible server that takes no key"
            )
        # Here, and not at the top: the module is imported to look at it, the SDK only to be used. Its package
        # imports all of its routes and types at once, so that no way into it is cheaper than another (2.12).
        from anthropic import AsyncAnthropic

        self._client = AsyncAnthropic(
            # With none at all it would look for other credentials in the environment and in files.
            api_key=key.reveal() if key else "no-key",
            base_url=base_url,
            timeout=config["timeout"],
            max_retries=0,
            default_headers=config.get("headers"),
            open_telemetry=False,
        )
        self.context.on_close(self._client.close)
        self._retries = Retries(times=config["retries"])

    async def stream(self, request: ChatRequest, call: CallInfo | None = None) -> AsyncIterator[ChatChunk]:
        """Translate the request, and what comes back."""
        body = message_body(request, self.context.config["model"], self.context.config["max_tokens"])
        headers = {**headers_for(request), **trace_headers()}
        deadline = call.deadline if call is not None else None
        async for chunk in retry_stream(lambda: self._attempt(body, headers), self._retries, deadline=deadline):
            yield chunk

    @operation("count_tokens", summary="Count the tokens that a chat request has for the model.")
    async def count_tokens(self, request: ChatRequest, call: CallInfo) -> TokenCount:
        """Let the provider count, which generates nothing."""
        validate_request(request)
        body = prompt_body(request, self.context.config["model"])
        counted = [
            count async for count in retry_stream(lambda: self._count(body), self._retries, deadline=call.deadline)
        ]
        return counted[0]

    def on_missing_finish_reason(self) -> FinishReason:
        """Refuse a stream without a stop reason: the SDK does not tell one that was cut off from a whole one."""
        raise_truncated()

    async def _attempt(self, body: dict[str, Any], headers: dict[str, str]) -> AsyncIterator[ChatChunk]:
        from anthropic import AsyncStream

        with self._telling():
            response = await self._client.post(
                "/v1/messages",
                body={**body, "stream": True},
                cast_to=object,
                options={"headers": headers},
                stream=True,
                stream_cls=AsyncStream[object],
            )
            async with response:
                _expect(response.response, EVENT_STREAM)
                decoder = EventDecoder()
                # The raw events: iterating the stream itself skips those without a name, and makes pydantic models of
                # the others, which cost more CPU than everything else here (`make bench-upstream`).
                async for event in response.raw_events(response.response):
                    for chunk in decoder.chunks(event.data):
                        yield chunk

    async def _count(self, body: dict[str, Any]) -> AsyncIterator[TokenCount]:
        with self._telling():
            answer = await self._client.post("/v1/messages/count_tokens", body=body, cast_to=object)
            tokens = answer.get("input_tokens") if isinstance(answer, dict) else None
            if not isinstance(tokens, int):
                raise UpstreamError("the provider's count of tokens is none")
            yield TokenCount(input_tokens=tokens)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Raise the host's errors for those of the SDK and of its transport."""
        import anthropic

        try:
            yield
        except anthropic.APIStatusError as error:
            raise _status_error(error) from error
        except anthropic.APITimeoutError as error:
            raise timeout_error(self.context.config["timeout"]) from error
        except anthropic.APIConnectionError as error:
            raise unreachable_error(error.__cause__ or error) from error
        except anthropic.APIError as error:
            raise UpstreamError(f"the provider's answer is not understood: {error.message}") from error
        except UpstreamError:
            raise
        except Exception as error:
            told = from_httpx(error, self.context.config["timeout"])
            if told is None:
                raise
            raise told from error


def _expect(response: Any, content_type: str) -> None:
    """Raise ``UpstreamError`` for an answer of another kind: a proxy's page comes with status 200, too."""
    found = response.headers.get("content-type", "")
    if found.partition(";")[0].strip() != content_type:
        raise UpstreamError(f"the provider answered with {found or 'no content type'}, not with {content_type}")


def _status_error(error: Any) -> UpstreamError:
    body = error.body if isinstance(error.body, dict) else {}
    told = body.get("error")
    # Not the whole of an answer that is no JSON: it may be a proxy's page.
    message = told.get("message") if isinstance(told, dict) else None
    message = message or f"an answer that is not Anthropic's ({error.response.headers.get('content-type')})"
    return from_status(
        error.status_code,
        str(message),
        retry_after=parse_retry_after(error.response.headers),
        # Anthropic has no code of its own for it.
        code="content_filter" if "content filtering policy" in message else None,
    )
