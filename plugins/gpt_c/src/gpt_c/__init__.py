"""A chat handler on Google's SDKs: google-generativeai, and its successor google-genai by configuration."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from importlib.util import find_spec
from typing import TYPE_CHECKING

from gpt_c.decoder import ChunkDecoder
from gpt_c.loosening import loosen_schemas
from gpt_c.native import NativeGemini
from handler_host.chat import (
    ChatChunk,
    ChatHandler,
    ChatRequest,
    FinishReason,
    IgnoredChunk,
    TokenCount,
    decode_stream,
    leave_out_unsupported,
    raise_truncated,
    validate_request,
)
from handler_host.plugin import (
    CallInfo,
    ConfigError,
    Retries,
    operation,
    retry_call,
    retry_stream,
)

if TYPE_CHECKING:
    from gpt_c.backend import Chunk, Question, Settings
    from gpt_c.http_backend import HttpBackend

GOOGLE = "https://generativelanguage.googleapis.com"
GENAI = "google-genai"


class GptC(NativeGemini, ChatHandler):
    """``[handlers.gpt_c]``: see ``handler.toml`` for its keys."""

    supports = frozenset(
        {
            *("messages[].content[].file", "messages[].content[].input_audio", "messages[].tool_calls[].signature"),
            *("logprobs", "top_logprobs", "n", "reasoning", "top_k"),
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
            retry_stream(lambda: self._attempt(send(question), question.candidates), self._retries, deadline=deadline)
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
        """Loosen the schemas that the chosen SDK cannot carry, too."""
        is_strict = request.unsupported == "refuse"
        ignored = leave_out_unsupported(request, self.supports, self.lacks, provider=self.context.config["sdk"])
        return ignored if is_strict or not self._backend.lacks_schema_words else [*ignored, *loosen_schemas(request)]

    async def _attempt(self, response: AsyncIterator[Chunk], candidates: int) -> AsyncIterator[ChatChunk]:
        async with aclosing(response):  # type: ignore[type-var]
            async for chunk in decode_stream(response, ChunkDecoder(candidates)):
                yield chunk


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
