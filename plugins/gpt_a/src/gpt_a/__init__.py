"""A chat handler on the OpenAI SDK: OpenAI itself, and every server that speaks its protocol."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from gpt_a.chunks import ChunkDecoder
from handler_host.chat import ChatChunk, ChatHandler, ChatRequest, FinishReason, raise_truncated
from handler_host.plugin import (
    CallInfo,
    ConfigError,
    Retries,
    UpstreamError,
    from_httpx,
    from_status,
    parse_retry_after,
    retry_stream,
    timeout_error,
    trace_headers,
    unreachable_error,
)

if TYPE_CHECKING:
    from openai import AsyncOpenAI


class GptA(ChatHandler):
    """``[handlers.gpt_a]``: see ``handler.toml`` for its keys.

    A variant for another provider derives from it: it names its own secret, and its
    manifest has the keys of this one's with defaults of its own.
    """

    key_variable: ClassVar[str] = "OPENAI_API_KEY"
    """The declared secret that has the provider's key."""
    _client: AsyncOpenAI

    async def open(self) -> None:
        """Import the SDK and make the one client that all dispatches share."""
        config, key = self.context.config, self.context.secrets.get(self.key_variable)
        base_url = config.get("base_url")
        if not key and not base_url:
            raise ConfigError(
                f"neither a key nor another server: set {self.key_variable}, or base_url in "
                f"[handlers.{self.context.handler}] for a compatible server that takes no key"
            )
        # Here, and not at the top: the module is imported to look at it, the SDK only to be used.
        from openai import AsyncOpenAI

        self._client = AsyncOpenAI(
            api_key=key.reveal() if key else "no-key",
            base_url=base_url,
            organization=config.get("organization"),
            project=config.get("project"),
            timeout=config["timeout"],
            max_retries=0,
            default_headers=config.get("headers"),
        )
        self.context.on_close(self._client.close)
        self._retries = Retries(times=config["retries"])

    async def stream(self, request: ChatRequest, call: CallInfo | None = None) -> AsyncIterator[ChatChunk]:
        """Pass the request on, and what comes back."""
        body = msgspec.to_builtins(request)
        body["model"] = request.model or self.context.config["model"]
        deadline = call.deadline if call is not None else None
        async for chunk in retry_stream(lambda: self._attempt(body), self._retries, deadline=deadline):
            yield chunk

    def on_missing_finish_reason(self) -> FinishReason:
        """Refuse a stream without a finish reason: the SDK does not tell one that was cut off from a whole one."""
        raise_truncated()

    async def _attempt(self, body: dict[str, Any]) -> AsyncIterator[ChatChunk]:
        import openai

        from gpt_a.streams import WholeStream

        try:
            # The SDK's way for any path. `client.chat.completions` would import the resources of all its
            # routes: 0.3 to 0.4 s and 14 MB more at activation, for the same request (measured with 2.54).
            stream = await self._client.post(
                "/chat/completions",
                body={**body, "stream": True, "stream_options": {"include_usage": True}},
                # Plain JSON: pydantic models of the chunks cost more CPU than everything else (`make bench-upstream`).
                cast_to=object,
                options={"headers": trace_headers()},
                stream=True,
                stream_cls=WholeStream,
            )
            decoder = ChunkDecoder()
            async with stream:
                async for data in stream:
                    for chunk in decoder.chunks(data):
                        yield chunk
        except openai.APIStatusError as error:
            raise _status_error(error) from error
        except openai.APITimeoutError as error:
            raise timeout_error(self.context.config["timeout"]) from error
        except openai.APIConnectionError as error:
            raise unreachable_error(error.__cause__ or error) from error
        except json.JSONDecodeError as error:
            raise UpstreamError("the provider sent a chunk that is not JSON") from error
        except openai.APIError as error:
            raise UpstreamError(f"the provider ended the stream with an error: {error.message}") from error
        except Exception as error:
            told = from_httpx(error, self.context.config["timeout"])
            if told is None:
                raise
            raise told from error


def _status_error(error: Any) -> UpstreamError:
    body = error.body if isinstance(error.body, dict) else {}
    # Not the whole of an answer that is no JSON: it may be a proxy's page.
    message = body.get("message") or f"an answer that is not OpenAI's ({error.response.headers.get('content-type')})"
    return from_status(
        error.status_code,
        str(message),
        retry_after=parse_retry_after(error.response.headers),
        param=body.get("param"),
        code=body.get("code"),
    )
