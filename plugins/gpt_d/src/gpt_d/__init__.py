"""A chat handler on LiteLLM: whatever it reaches by a model string."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any

import msgspec

from gpt_d.chunks import GEMINI, ChunkDecoder, Watch, raw_response
from gpt_d.deployments import PLACE, Deployment, key_of, make_router, read
from gpt_d.failures import is_event_stream, translate
from gpt_d.importing import import_litellm
from gpt_d.native import NativeLiteLLM
from gpt_d.whole import Heard, chunks_of, decode_document
from handler_host.chat import (
    AssistantMessage,
    ChatChunk,
    ChatHandler,
    ChatRequest,
    CitationChunk,
    CompletionDecoder,
    EmbedRequest,
    EmbedResponse,
    FinishReason,
    ReasoningOptions,
    SystemMessage,
    arguments_of,
    completion_body,
    decode_stream,
    embed_response,
    embedding_body,
    is_openai,
    leave_out_unsupported,
    raise_truncated,
    tool_names,
)
from handler_host.plugin import (
    CallInfo,
    ConfigError,
    HostError,
    InvalidInput,
    Retries,
    limit_silence,
    operation,
    read_documents,
    retry_call,
    retry_stream,
    trace_headers,
)

MODEL = "openai/gpt-4o-mini"
"""What is asked where neither the request nor the configuration names a model."""

CHATTY = ("LiteLLM", "LiteLLM Router")
"""LiteLLM's loggers that write a line at ``info`` for each call, and that twice: to standard error, too."""

FIELDS = (
    *("temperature", "top_p", "max_tokens", "stop", "seed", "tools", "tool_choice", "parallel_tool_calls"),
    *("response_format", "presence_penalty", "frequency_penalty", "user"),
)
"""Fields of a request that some provider lacks."""
SUPPORTED = {
    "logit_bias": "logit_bias",
    "logprobs": "logprobs",
    "top_logprobs": "top_logprobs",
    "max_completion_tokens": "max_completion_tokens",
    "n": "n",
    "prompt_cache_key": "prompt_cache_key",
    "reasoning": "reasoning_effort",
    "service_tier": "service_tier",
    "top_k": "top_k",
    "verbosity": "verbosity",
}
"""LiteLLM's name of each optional field of a request."""
SUPPORTS = frozenset({"messages[].content[].file", "messages[].content[].input_audio"})
"""Optional fields that LiteLLM translates for all providers that have them."""
CACHE_MARKERS = frozenset({"anthropic", "bedrock", "databricks", "openrouter", "vertex_ai"})
"""Providers to which LiteLLM passes the markers of a prompt cache."""
DROPPED = {"gemini": {"parallel_tool_calls"}, "vertex_ai": {"parallel_tool_calls"}}
"""Fields that LiteLLM says a provider has, and then drops in silence."""

MAX_ONLY_STREAMS = 1000
"""Most models that are remembered because their server only streams: clients choose the names."""
FIRST_CALL = 10.0
"""Seconds that LiteLLM may take beside the provider for what it loads at a first call; 0.5 to 0.7 were seen."""


class GptD(NativeLiteLLM, ChatHandler):
    """``[handlers.gpt_d]``: see ``handler.toml`` for its keys."""

    async def open(self) -> None:
        """Import LiteLLM, quietly; make a Router if there are deployments."""
        config = self.context.config
        self._settings = read(config)
        self._only_streams: dict[str, None] = {}
        """Models whose server responds to a plain call with an event stream, the newest last."""
        self._timeout: float = config["timeout"]
        self._plain_timeout: float = config["plain_timeout"]
        self._retries = Retries(times=config["retries"])
        litellm = import_litellm()
        level = self.context.log.getEffectiveLevel()
        if level > logging.DEBUG:
            for name in CHATTY:
                logging.getLogger(name).setLevel(max(level, logging.WARNING))
        litellm.telemetry = False
        litellm.suppress_debug_info = True
        litellm.drop_params = False
        litellm.modify_params = False
        # What a provider does not count LiteLLM would estimate, with a tokenizer of 38 MB.
        litellm.disable_token_counter = True
        litellm.disable_streaming_logging = True
        litellm.expose_router_debug_in_errors = False
        self.context.on_close(litellm.close_litellm_async_clients)
        self._without_responses = set()
        self._groups: dict[str, list[Deployment]] = {}
        for deployment in self._settings.deployments:
            self._groups.setdefault(deployment.name, []).append(deployment)
        self._router: Any = None
        if self._groups:
            limits = {"timeout": self._plain_timeout, "stream_timeout": self._timeout}
            calls = [(each, {**self._parameters(each.model, each), **limits}) for each in self._settings.deployments]
            self._router = make_router(calls, self._settings, config["cooldown"])
            self.context.on_close(self._router.discard)
        self._model: str = config.get("model") or next(iter(self._groups), MODEL)
        if self._model not in self._groups and provider_of(self._model) is None:
            names = f", or name one of the deployments: {', '.join(self._groups)}" if self._groups else ""
            raise ConfigError(
                f"{PLACE}: model: LiteLLM knows no provider of {self._model!r}; "
                f"write PROVIDER/MODEL, like {MODEL}{names}"
            )

    async def stream(self, request: ChatRequest, call: CallInfo | None = None) -> AsyncIterator[ChatChunk]:
        """Pass the request on, and what comes back: streamed only if the client takes it so.

        Of LiteLLM a stream costs three times the processor time of a plain call.
        """
        model = request.model or self._model
        body = {**chat_body(request, keeps_cache_control=self._keeps_cache_control(model)), "model": model}
        if "tools" in body:
            # Else LiteLLM looks for tools of MCP servers among them, with a package that it does not depend on.
            body["_skip_mcp_handler"] = True
            # Else LiteLLM calls the Responses API for gpt-5.4 and later, which needs that package, too.
            body["_skip_responses_api_bridge"] = True
        deadline = call.deadline if call is not None else None
        streams = call is None or call.streamed or model in self._only_streams
        if request.n is not None and request.n > 1:
            streams = False  # LiteLLM's streams have one choice only
        attempt = self._streamed if streams else self._whole
        counts_bytes = any(provider_of(name) in GEMINI for name in self._models_of(model))
        async for chunk in retry_stream(lambda: attempt(body), self._retries, deadline=deadline):
            if counts_bytes and isinstance(chunk, CitationChunk):
                # LiteLLM passes on Gemini's places, which are in bytes.
                chunk.citation.start_index = chunk.citation.end_index = None
            yield chunk

    def on_missing_finish_reason(self) -> FinishReason:
        """Refuse a stream without a finish reason: it was cut off on its way."""
        raise_truncated()

    async def _whole(self, body: dict[str, Any]) -> AsyncIterator[ChatChunk]:
        heard = Heard()
        try:
            async with asyncio.timeout(self._patience(body["model"], self._plain_timeout)):
                response = await self._ask({**body, "logger_fn": heard.listener()}, self._plain_timeout)
            chunks = chunks_of(response, heard.document(), body)
        except HostError:
            raise
        except Exception as error:
            own = decode_document(heard.document(), body)
            if own is None and is_event_stream(error):
                # The server streams whatever is asked: from now on it is asked for a stream.
                self._note_only_streams(body["model"])
                async for chunk in self._streamed(body):
                    yield chunk
                return
            if own is None:
                raise heard.error_of(translate(error, self._plain_timeout)) from error
            chunks = own
        for chunk in chunks:
            yield chunk

    def _note_only_streams(self, model: str) -> None:
        self._only_streams[model] = None
        if len(self._only_streams) > MAX_ONLY_STREAMS:
            del self._only_streams[next(iter(self._only_streams))]

    async def _streamed(self, body: dict[str, Any]) -> AsyncIterator[ChatChunk]:
        stream: Any = None
        arguments = {**body, "stream": True, "stream_options": {"include_usage": True}}
        try:
            # A limit of our own for each step: LiteLLM's does not bind all providers once they stream.
            async with limit_silence(self._patience(body["model"], self._timeout)):
                stream = await self._ask(arguments, self._timeout)
                if stream.completion_stream is None:
                    await stream.fetch_stream()  # Gemini's request is made by the first reading only
            response = raw_response(stream)
            if response is not None:
                async for chunk in self._decoded(response, body):
                    yield chunk
                return
            watch, decoder = Watch(stream), ChunkDecoder(tool_names(body))
            while True:
                async with limit_silence(self._timeout):
                    data = await anext(stream, None)
                for chunk in _chunks_of(data, decoder, watch):
                    yield chunk
                if data is None:
                    return
        except HostError:
            raise
        except Exception as error:
            raise translate(error, self._timeout) from error
        finally:
            if stream is not None:
                await stream.aclose()

    async def _decoded(self, response: Any, body: dict[str, Any]) -> AsyncIterator[ChatChunk]:
        """Yield the chunks of a server that speaks OpenAI's protocol, from its raw bytes.

        LiteLLM merges tool calls, fails on events without data, and costs three times the processor time.
        """
        content_type = response.headers.get("content-type", "")
        documents = read_documents(response.aiter_bytes(), content_type)
        stop = body.get("stop") or ()
        decoder = CompletionDecoder(
            tool_names=tool_names(body), content_type=content_type, stop=stop, choices=body.get("n")
        )
        async with aclosing(decode_stream(documents, decoder)) as chunks:
            while True:
                async with limit_silence(self._timeout):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    return
                yield chunk

    async def _ask(self, arguments: dict[str, Any], timeout: float, *, method: str = "acompletion") -> Any:
        """Call LiteLLM's method, of the Router for the name of deployments."""
        import litellm

        trace = trace_headers()
        # A call's own headers replace those of a deployment.
        headers = {"extra_headers": {**self._settings.headers, **trace}} if trace else {}
        model = arguments["model"]
        if model in self._groups:
            return await getattr(self._router, method)(**arguments, **headers)
        parameters = {**self._parameters(model), **headers}
        return await getattr(litellm, method)(**arguments, **parameters, timeout=timeout)

    @operation("embed", summary="Compute the embeddings of texts.")
    async def embed(self, request: EmbedRequest, call: CallInfo) -> EmbedResponse:
        """Return the provider's embeddings, as LiteLLM models them."""
        if request.model is not None:
            self._require_providers(request.model)
        body = embedding_body(request, self.context.config["embedding_model"])
        del body["encoding_format"]  # some providers lack it, and numbers are the default of all
        attempt = partial(self._embed, body)
        return await retry_call(attempt, self._retries, deadline=call.deadline)

    async def _embed(self, body: dict[str, Any]) -> EmbedResponse:
        timeout = self._plain_timeout
        try:
            async with asyncio.timeout(self._patience(body["model"], timeout)):
                response = await self._ask(body, timeout, method="aembedding")
        except HostError:
            raise
        except Exception as error:
            raise translate(error, timeout) from error
        return embed_response(response.model_dump())

    def _patience(self, model: str, timeout: float) -> float:
        """Return the seconds for an answer to come or begin: a Router may ask all deployments, one after the other."""
        calls = len(self._settings.deployments) if model in self._groups else 1
        return timeout * calls + FIRST_CALL

    def _parameters(self, model: str, deployment: Deployment | None = None) -> dict[str, Any]:
        """Return what the calls of a model have beside the request: where, and with which key."""
        provider = provider_of(model)
        if provider is None:
            raise ConfigError(f"{PLACE}: deployments: LiteLLM knows no provider of {model!r}")
        secret, base = (deployment.secret, deployment.api_base) if deployment is not None else (None, None)
        base = base or self._settings.api_base.get(provider)
        key = key_of(provider, secret, self.context.secrets)
        parameters = {
            # A server of one's own may take none, but without any LiteLLM asks nobody.
            "api_key": key or ("no-key" if base is not None else None),
            "api_base": base,
            "extra_headers": self._settings.headers or None,
            # They are OpenAI's own, but LiteLLM passes them on to models only that it knows.
            "allowed_openai_params": ["user", "dimensions"] if provider == "openai" else None,
            "num_retries": 0,
            "max_retries": 0,
        }
        return {name: value for name, value in parameters.items() if value is not None}

    def _models_of(self, model: str) -> list[str]:
        """Return the models behind a name: those of its deployments, or itself."""
        return [deployment.model for deployment in self._groups.get(model, ())] or [model]

    def _require_providers(self, model: str) -> dict[str, str]:
        """Return the provider of each model behind a name that a client may have given; raises ``InvalidInput``."""
        providers: dict[str, str] = {}
        for name in self._models_of(model):
            provider = provider_of(name)
            if provider is None:
                known = f" or one of {', '.join(sorted(self._groups))}" if self._groups else ""
                raise InvalidInput(
                    f"model: LiteLLM knows no provider of {name!r}; use PROVIDER/MODEL{known}", param="model"
                )
            providers[name] = provider
        return providers

    def _keeps_cache_control(self, model: str) -> bool:
        return all(provider_of(name) in CACHE_MARKERS for name in self._models_of(model))

    def leave_out_unsupported(self, request: ChatRequest) -> list[str]:
        """Remove what LiteLLM would refuse with its own words, or drop silently, for the provider of the model."""
        import litellm

        ignored: list[str] = []
        needs_none = False
        mode = request.unsupported
        model = request.model or self._model
        for name, provider in self._require_providers(model).items():
            if provider != "openai":
                _prepare_messages(request, provider)
            available = set(litellm.get_supported_openai_params(model=name, custom_llm_provider=provider) or FIELDS)
            if provider == "openai":
                available.add("user")
            available -= DROPPED.get(provider, set())
            lacks = {field for field in FIELDS if field not in available}
            supports = {field for field, theirs in SUPPORTED.items() if theirs in available} | SUPPORTS
            if provider in CACHE_MARKERS:
                supports.add("cache_control")
            if provider == "openai" and request.tools and self._gives_tools_without_reasoning(model, name):
                supports.discard("reasoning")
                needs_none = True
            request.unsupported = mode
            ignored += leave_out_unsupported(request, supports, lacks, provider=f"{provider} ({name})")
        if needs_none:
            request.reasoning = ReasoningOptions(effort="none")
        return ignored

    def _gives_tools_without_reasoning(self, model: str, name: str) -> bool:
        """Return whether OpenAI itself has the model ``name``: its chat completions give it tools or reasoning only."""
        from litellm.llms.openai.chat.gpt_5_transformation import OpenAIGPT5Config

        default = self._settings.api_base.get("openai")
        own = [deployment for deployment in self._groups.get(model, ()) if deployment.model == name]
        bases = [deployment.api_base or default for deployment in own] or [default]
        return OpenAIGPT5Config.is_model_gpt_5_4_plus_model(name) and any(map(is_openai, bases))


def chat_body(request: ChatRequest, *, keeps_cache_control: bool) -> dict[str, Any]:
    """Return the body for LiteLLM, without a model if the request has none."""
    if request.reasoning is not None and request.reasoning.is_unmeasured:
        request.reasoning.effort = "medium"  # LiteLLM takes efforts only
    return completion_body(request, keeps_cache_control=keeps_cache_control)


def _chunks_of(data: Any, decoder: ChunkDecoder, watch: Watch) -> list[ChatChunk]:
    """Return the chunks in one of LiteLLM's, or for the end of its stream, which is None."""
    if data is None:
        if not watch.is_whole():
            raise_truncated()
        return decoder.last()
    return decoder.chunks(data, watch.reason)


def _prepare_messages(request: ChatRequest, provider: str) -> None:
    """Mend what LiteLLM cannot translate, and then makes up, or calls the provider's fault; raises ``InvalidInput``."""
    if all(isinstance(message, SystemMessage) for message in request.messages):
        raise InvalidInput(f"messages: {provider} wants a message beside the instructions", param="messages")
    for message in request.messages:
        if isinstance(message, AssistantMessage):
            for call in message.tool_calls or ():
                call.function.arguments = msgspec.json.encode(arguments_of(call.function.arguments)).decode()


def provider_of(model: str) -> str | None:
    """Return LiteLLM's name for the provider of a model string, or None if it knows none."""
    import litellm

    try:
        provider: str = litellm.get_llm_provider(model)[1]
    except litellm.BadRequestError:
        return None
    return provider
