"""A chat handler on Google's SDKs: google-generativeai, and its successor google-genai by configuration."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from importlib.util import find_spec
from typing import TYPE_CHECKING

from gpt_c.loosening import loosen_schemas
from gpt_c.native import NativeGemini
from handler_host.chat import (
    ChatChunk,
    ChatHandler,
    ChatRequest,
    CitationChunk,
    FinishChunk,
    FinishReason,
    IgnoredChunk,
    LogprobsChunk,
    ModelChunk,
    ReasoningChunk,
    TextChunk,
    TokenCount,
    ToolCallChunk,
    Usage,
    UsageChunk,
    decode_stream,
    leave_out_unsupported,
    raise_truncated,
    validate_request,
)
from handler_host.plugin import (
    CallInfo,
    ConfigError,
    ContentRefused,
    Retries,
    UpstreamError,
    operation,
    retry_call,
    retry_stream,
)

if TYPE_CHECKING:
    from gpt_c.backend import Chunk, Question, Settings, Source
    from gpt_c.http_backend import HttpBackend

GOOGLE = "https://generativelanguage.googleapis.com"
GENAI = "google-genai"
FORMAT = "gemini"
"""Format of Gemini's thought signatures."""

_FINISH_REASONS: dict[str, FinishReason] = {
    "STOP": "stop",
    # Not Google's, but used by compatible servers for a function call.
    "FUNCTION_CALL": "tool_calls",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
}
"""Finish reasons of Google for whole responses; any other reason means that the response failed."""


class GptC(NativeGemini, ChatHandler):
    """``[handlers.gpt_c]``: see ``handler.toml`` for its keys."""

    supports = frozenset(
        {
            *("messages[].content[].file", "messages[].content[].input_audio", "messages[].tool_calls[].signature"),
            *("logprobs", "top_logprobs", "reasoning", "top_k"),
        }
    )
    lacks = frozenset(
        {
            *("messages[].content[].file.filename", "messages[].content[].image_url.detail", "messages[].name"),
            *("parallel_tool_calls", "tools[].function.strict", "user"),
        }
    )
    _backend: HttpBackend

    async def open(self) -> None:
        """Import the chosen SDK, and make the one client that all dispatches share."""
        config, secrets = self.context.config, self.context.secrets
        key = secrets.get("GEMINI_API_KEY") or secrets.get("GOOGLE_API_KEY")
        base_url = config.get("base_url")
        if not key and not base_url:
            raise ConfigError(
                "neither a key nor another server: set GEMINI_API_KEY, or base_url in [handlers.gpt_c] "
                "for a server that takes no key"
            )
        # Here, and not at the top: the module is imported to look at it, an SDK only to be used.
        from gpt_c.backend import Settings

        settings = Settings(
            key=key.reveal() if key else "",
            base_url=(base_url or GOOGLE).rstrip("/"),
            api_version=config["api_version"],
            timeout=config["timeout"],
            plain_timeout=config["plain_timeout"],
            headers=config.get("headers") or {},
        )
        self._settings = settings
        self._backend = _backend(config["sdk"], settings)
        self.context.on_close(self._backend.close)
        self._retries = Retries(times=config["retries"])

    async def stream(self, request: ChatRequest, call: CallInfo | None = None) -> AsyncIterator[ChatChunk]:
        """Pass the request on, and what comes back: streamed only if the client takes it so."""
        question = self._question(request)
        if question.ignored:
            yield IgnoredChunk(fields=list(question.ignored))
        send = self._backend.stream if call is None or call.streamed else self._backend.whole
        deadline = call.deadline if call is not None else None
        async with aclosing(
            retry_stream(lambda: self._attempt(send(question)), self._retries, deadline=deadline)
        ) as chunks:
            async for chunk in chunks:
                yield chunk

    @operation("count_tokens", summary="Count the tokens that a chat request has for the model.")
    async def count_tokens(self, request: ChatRequest, call: CallInfo) -> TokenCount:
        """Return the provider's count; nothing is generated."""
        validate_request(request)
        self.leave_out_unsupported(request)
        question = self._question(request)
        tokens = await retry_call(lambda: self._backend.count(question), self._retries, deadline=call.deadline)
        return TokenCount(input_tokens=tokens)

    def on_missing_finish_reason(self) -> FinishReason:
        """Refuse a stream without a finish reason: the SDKs do not tell one that was cut off from a whole one."""
        raise_truncated()

    def _question(self, request: ChatRequest) -> Question:
        from gpt_c.questions import question

        return question(request, request.model or self.context.config["model"])

    def leave_out_unsupported(self, request: ChatRequest) -> list[str]:
        """Remove the fields that the chosen SDK lacks, too."""
        lacks = self.lacks | frozenset(self._backend.lacks)
        is_strict = request.unsupported == "refuse"
        ignored = leave_out_unsupported(request, self.supports, lacks, provider=self.context.config["sdk"])
        return ignored if is_strict or not self._backend.lacks_schema_words else [*ignored, *loosen_schemas(request)]

    async def _attempt(self, response: AsyncIterator[Chunk]) -> AsyncIterator[ChatChunk]:
        async with aclosing(response):  # type: ignore[type-var]
            async for chunk in decode_stream(response, _ChunkDecoder()):
                yield chunk


class _ChunkDecoder:
    """Decoder of one stream."""

    def __init__(self) -> None:
        self._finish: str | None = None
        self._calls = 0
        self._texts: list[str] = []
        self._sources: dict[Source, None] = {}
        """Sources of the text; Google repeats them."""
        self._usage: Usage | None = None
        self._model: str | None = None
        self._sent_model: str | None = None

    @property
    def is_finished(self) -> bool:
        """Whether a finish reason has come."""
        return self._finish is not None

    def chunks(self, data: Chunk) -> list[ChatChunk]:
        """Return the content of a chunk, and keep the rest for :meth:`last`; raises ``ContentRefused``."""
        if data.blocked is not None:
            raise ContentRefused(f"the provider refused the prompt: {data.blocked}")
        # Each chunk includes the counts of those before it.
        self._usage = data.usage or self._usage
        self._model = data.model or self._model
        self._finish = data.finish or self._finish
        self._texts.append(data.text)
        self._sources |= dict.fromkeys(data.sources)
        chunks = self._new_model() if data.text or data.calls or data.thought else []
        if data.thought:
            chunks.append(ReasoningChunk(text=data.thought, format=FORMAT))
        if data.logprobs:
            chunks.append(LogprobsChunk(content=list(data.logprobs)))
        if data.text:
            chunks.append(TextChunk(text=data.text))
        for call in data.calls:
            arguments = json.dumps(call.arguments, ensure_ascii=False)
            chunks.append(
                ToolCallChunk(
                    index=self._calls, id=call.id, name=call.name, arguments=arguments, signature=call.signature
                )
            )
            self._calls += 1
        return chunks

    def last(self) -> list[ChatChunk]:
        """Return model, citations, finish reason and usage; raises ``UpstreamError`` if the response was cut off."""
        if self._finish is None:
            raise_truncated()
        reason = _FINISH_REASONS.get(self._finish)
        if reason is None:
            raise UpstreamError(f"the provider stopped before the response was complete: {self._finish}")
        finish = FinishChunk(reason="tool_calls" if self._calls and reason == "stop" else reason)
        usage = [UsageChunk(usage=self._usage)] if self._usage is not None else []
        # The caller has imported it for the chunks.
        from gpt_c.backend import citations_of

        citations = [CitationChunk(citation=each) for each in citations_of(self._sources, "".join(self._texts))]
        return [*self._new_model(), *citations, finish, *usage]

    def _new_model(self) -> list[ChatChunk]:
        if self._model is None or self._model == self._sent_model:
            return []
        self._sent_model = self._model
        return [ModelChunk(model=self._model)]


def _backend(sdk: str, settings: Settings) -> HttpBackend:
    if sdk != GENAI:
        from gpt_c.generativeai import GenerativeAi

        return GenerativeAi(settings)
    if find_spec("google.genai") is None:
        raise ConfigError(
            f'sdk = "{GENAI}" in [handlers.gpt_c], but it is not installed: pip install "handler-host-gpt-c[{GENAI}]"'
        )
    from gpt_c.genai import GenAi

    return GenAi(settings)
