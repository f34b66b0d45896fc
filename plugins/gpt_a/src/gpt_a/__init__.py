"""A chat handler on the OpenAI SDK: OpenAI itself, and every server that speaks its protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from gpt_a.native import RESPONSES, NativeOpenAI
from gpt_a.requests import RESPONSES_LACKS, RESPONSES_SUPPORTS, SUMMARY, Body, request_body, route_of
from gpt_a.responses_body import count_body
from gpt_a.responses_decoder import ResponseDecoder
from handler_host.chat import (
    ChatChunk,
    ChatHandler,
    ChatRequest,
    CompletionDecoder,
    EmbedRequest,
    EmbedResponse,
    FinishReason,
    IgnoredChunk,
    StreamDecoder,
    TokenCount,
    decode_stream,
    embed_response,
    embedding_body,
    is_openai,
    leave_out_unsupported,
    raise_truncated,
    tool_names,
    validate_request,
)
from handler_host.plugin import (
    CallInfo,
    ConfigError,
    HostError,
    Retries,
    UnknownOperation,
    UpstreamBadRequest,
    UpstreamError,
    aiohttp_client,
    error_from_response,
    is_missing_route,
    operation,
    read_documents,
    retry_call,
    retry_stream,
    sdk_errors,
    sdk_response,
    trace_headers,
)

if TYPE_CHECKING:
    from openai import AsyncOpenAI


class GptA(NativeOpenAI, ChatHandler):
    """``[handlers.gpt_a]``: see ``handler.toml`` for its keys.

    A variant for another provider derives from it, names its own secret, and has the same keys in its manifest, with
    its own defaults.
    """

    supports = frozenset(
        {
            *(
                "logit_bias",
                "logprobs",
                "top_logprobs",
                "max_completion_tokens",
                "n",
                "messages[].content[].file",
                "messages[].content[].input_audio",
                "messages[].reasoning",
            ),
            *("messages[].tool_calls[].signature", "prompt_cache_key", "reasoning", "service_tier", "verbosity"),
        }
    )
    provider = "OpenAI's chat completions"
    key_variable: ClassVar[str] = "OPENAI_API_KEY"
    """The declared secret with the provider's key."""
    _client: AsyncOpenAI
    _has_summaries = True
    """Whether OpenAI shows summaries of the reasoning, as far as is known: it does to verified organizations only."""

    async def open(self) -> None:
        """Import the SDK and make the one client that all dispatches share."""
        config, key = self.context.config, self.context.secrets.get(self.key_variable)
        base_url = config.get("base_url")
        if not key and not base_url:
            raise ConfigError(
                f"[handlers.{self.context.handler}]: no key; set {self.key_variable}, or base_url for a compatible "
                "server that takes no key"
            )
        # Not at the top: tools import this module to inspect it, without the cost of the SDK.
        import openai

        self._embedding_model = config.get("embedding_model") or config["model"]  # a variant may lack the key
        self._client = openai.AsyncOpenAI(
            api_key=key.reveal() if key else "no-key",
            base_url=base_url,
            organization=config.get("organization"),
            project=config.get("project"),
            timeout=config["timeout"],
            max_retries=0,
            default_headers=config.get("headers"),
            http_client=aiohttp_client(openai, config["timeout"]),
        )
        self.context.on_close(self._client.close)
        self._retries = Retries(times=config["retries"])

    async def stream(self, request: ChatRequest, call: CallInfo | None = None) -> AsyncIterator[ChatChunk]:
        """Send the request, and yield the chunks of the response."""
        body = request_body(request, self._model_of(request), is_openai=self._is_openai, source=self._source)
        if not self._has_summaries:
            body.leave_out_summary()
        if body.ignored:
            yield IgnoredChunk(fields=body.ignored)
        deadline = call.deadline if call is not None else None
        run = partial(retry_stream, partial(self._attempt, body), self._retries, deadline=deadline)
        try:
            async for chunk in run():
                yield chunk
        except UpstreamBadRequest as error:
            refused = body.leave_out_refused(error)
            if refused is None:
                raise
            # Else a model lacks the word: "Unsupported value: 'concise' ..."
            if refused == SUMMARY and "organization" in error.message:
                self._has_summaries = False
            yield IgnoredChunk(fields=[refused])
            async for chunk in run():
                yield chunk

    def leave_out_unsupported(self, request: ChatRequest) -> list[str]:
        """Remove the fields that the route of the request lacks; raises ``InvalidInput`` for one to refuse."""
        if route_of(request, self._model_of(request), is_openai=self._is_openai) != RESPONSES:
            return super().leave_out_unsupported(request)
        supports = RESPONSES_SUPPORTS.union(self.supports) - RESPONSES_LACKS
        lacks = RESPONSES_LACKS.union(self.lacks)
        return leave_out_unsupported(request, supports, lacks, provider="OpenAI's Responses API")

    def on_missing_finish_reason(self) -> FinishReason:
        """Raise: a stream without a finish reason was cut off, which the SDK does not report."""
        raise_truncated()

    @operation("embed", summary="Compute the embeddings of texts.")
    async def embed(self, request: EmbedRequest, call: CallInfo) -> EmbedResponse:
        """Return the provider's embeddings."""
        body = embedding_body(request, self._embedding_model)
        attempt = partial(self._embed, body)
        return await retry_call(attempt, self._retries, deadline=call.deadline)

    @operation("count_tokens", summary="Count the tokens that a chat request has for the model.")
    async def count_tokens(self, request: ChatRequest, call: CallInfo) -> TokenCount:
        """Return the provider's token count; raises ``UnknownOperation`` for a server that has none."""
        validate_request(request)
        self.leave_out_unsupported(request)
        attempt = partial(self._count, count_body(request, self._model_of(request)))
        return await retry_call(attempt, self._retries, deadline=call.deadline)

    @property
    def _source(self) -> str | None:
        """The format of a compatible server's reasoning; OpenAI shows none in chat completions."""
        return None if self._is_openai else self.context.handler

    @property
    def _is_openai(self) -> bool:
        return is_openai(self.context.config.get("base_url"))

    def _model_of(self, request: ChatRequest) -> str:
        model: str = request.model or self.context.config["model"]
        return model

    async def _count(self, body: dict[str, Any]) -> TokenCount:
        import openai

        with sdk_errors(openai, self.context.config["timeout"], _count_refusal):
            response = await self._client.post(
                "/responses/input_tokens", body=body, cast_to=object, options={"headers": trace_headers()}
            )
        tokens = response.get("input_tokens") if isinstance(response, dict) else None
        if not isinstance(tokens, int):
            raise UpstreamError(f"the provider's token count is not a number: {str(response)[:200]}")
        return TokenCount(input_tokens=tokens)

    async def _embed(self, body: dict[str, Any]) -> EmbedResponse:
        import openai

        with sdk_errors(openai, self.context.config["timeout"]):
            document = await self._client.post(
                "/embeddings", body=body, cast_to=object, options={"headers": trace_headers()}
            )
        return embed_response(document)

    async def _attempt(self, body: Body) -> AsyncIterator[ChatChunk]:
        import openai

        content = {**body.content, "stream": True}
        if body.path != RESPONSES:
            content["stream_options"] = {"include_usage": True}
        with sdk_errors(openai, self.context.config["timeout"]):
            # The SDK's method for any path. `client.chat.completions` imports the resources of all routes, which costs
            # 0.3 to 0.4 s and 14 MB at activation, for the same request (openai 2.54, `make bench-activation`).
            stream = await self._client.post(
                body.path,
                body=content,
                cast_to=object,
                options={"headers": trace_headers()},
                stream=True,
                stream_cls=openai.AsyncStream[object],
            )
            async with stream:
                # The raw bytes: the SDK's own reader fails on events without data, makes pydantic models, which cost
                # more CPU than everything else here (`make bench-upstream`), and does not read to the end of the
                # response, so that each call would cost a new connection.
                response = stream.response
                content_type = response.headers.get("content-type", "")
                documents = read_documents(response.aiter_bytes(), content_type)
                async for chunk in decode_stream(documents, _decoder_of(body, content_type, self._source)):
                    yield chunk


def _decoder_of(body: Body, content_type: str, source: str | None) -> StreamDecoder:
    if body.path == RESPONSES:
        return ResponseDecoder(content_type)
    content = body.content
    return CompletionDecoder(
        tool_names=tool_names(content),
        content_type=content_type,
        stop=content.get("stop") or (),
        choices=content.get("n"),
        source=source,
    )


def _count_refusal(error: Any) -> HostError:
    if is_missing_route(sdk_response(error)):
        return UnknownOperation("the provider counts no tokens")
    return error_from_response(error.status_code, error.response.headers, error.response.content)
