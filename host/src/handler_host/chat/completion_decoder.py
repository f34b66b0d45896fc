"""Decode the responses of OpenAI's chat completions, and of the servers that speak them in their own way. Pure.

The handlers on OpenAI's SDK, on LiteLLM and on llama.cpp share it. What a server does differently is read as it is
meant; a document that no reading fits is an ``UpstreamError``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Container, Mapping, Sequence
from typing import Any, Protocol

from handler_host.chat.choice_decoder import ChoiceDecoder, not_openais
from handler_host.chat.tokens import token_count
from handler_host.chat.types import ChatChunk, ModelChunk, Usage, UsageChunk
from handler_host.plugin.errors import HostError, UpstreamTimeout, UpstreamUnreachable
from handler_host.plugin.provider_errors import error_from_document
from handler_host.plugin.provider_words import find_error

FINISH_TIMEOUT_S = 5.0
"""Seconds in which a provider must send what follows its finish reason: usage, and the end of the response."""


_ANTHROPIC_CACHE = ("cache_read_input_tokens", "cache_creation_input_tokens")
_CACHED = (
    "prompt_tokens_details.cached_tokens",
    "input_tokens_details.cached_tokens",
    "cache_read_input_tokens",
    "prompt_cache_hit_tokens",
    "cached_tokens",
)
"""Where servers count input tokens from their cache: OpenAI, Anthropic and LiteLLM, DeepSeek, Moonshot."""
_CACHE_WRITES = (
    "prompt_tokens_details.cache_write_tokens",
    "prompt_tokens_details.cache_creation_tokens",
    "cache_creation_input_tokens",
)
_REASONING = (
    "completion_tokens_details.reasoning_tokens",
    "output_tokens_details.reasoning_tokens",
    "output_tokens_details.thinking_tokens",
    "reasoning_tokens",
)


class StreamDecoder(Protocol):
    """Decoder of one stream of a provider, from JSON documents to the chunks of a chat."""

    @property
    def is_finished(self) -> bool:
        """Whether the provider has sent its finish reason."""

    def chunks(self, document: Any) -> list[ChatChunk]:
        """Return the chunks in one document; raises ``UpstreamError``."""

    def last(self) -> list[ChatChunk]:
        """Return the chunks for the end of the stream, without a finish reason if it was cut off."""


async def decode_stream(documents: AsyncIterator[Any], decoder: StreamDecoder) -> AsyncGenerator[ChatChunk, None]:
    """Yield the chunks of a provider's stream.

    After its finish reason a response is whole: a connection that is then cut, or stays open, is not an error.
    """
    while True:
        try:
            async with asyncio.timeout(FINISH_TIMEOUT_S if decoder.is_finished else None):
                document = await anext(documents)
        except StopAsyncIteration:
            break
        except Exception as error:
            is_words = isinstance(error, HostError) and not isinstance(error, UpstreamTimeout | UpstreamUnreachable)
            if is_words or not decoder.is_finished:
                raise
            break
        for chunk in decoder.chunks(document):
            yield chunk
    for chunk in decoder.last():
        yield chunk


class CompletionDecoder:
    """Decoder of one response in the form of OpenAI's chat completions: the chunks of a stream, or a whole one.

    ``tool_names`` are the functions of the request, ``stop`` its stop sequences, ``choices`` the responses that it asks
    for; ``content_type`` is for messages.
    """

    def __init__(
        self,
        *,
        tool_names: Container[str] = (),
        content_type: str = "",
        stop: Sequence[str] = (),
        choices: int | None = None,
        source: str | None = None,
    ) -> None:
        self._content_type = content_type
        self._model: str | None = None
        """The model of the last :class:`ModelChunk`."""
        self._choices = [
            ChoiceDecoder(number, tool_names, content_type=content_type, stop=stop, source=source)
            for number in range(choices or 1)
        ]
        self._first: object = None
        """Index of the choice that is read if the request asks for one."""
        self._has_choice = False
        self._unread: object = None
        """The first document without choices and usage: the words of a server that sends nothing else."""
        self._usage: Usage | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the finish reasons of all choices have come."""
        return all(choice.finish is not None for choice in self._choices)

    def chunks(self, document: Any) -> list[ChatChunk]:
        """Return the chunks in one document: mostly one, none if it has no content.

        Raises ``UpstreamError`` for an error, and for a document of another shape.
        """
        if not isinstance(document, Mapping):
            raise not_openais(document, self._content_type)
        choices = document.get("choices")
        # An error beside choices without content is the reason why they have none.
        if (not choices or document.get("error")) and find_error(document) is not None:
            raise error_from_document(document, content_type=self._content_type)
        chunks: list[ChatChunk] = []
        if choices:
            for decoder, choice in self._own_choices(choices, document):
                chunks += decoder.chunks(choice)
                self._count(choice.get("usage"))
        elif choices is None and self._unread is None and not document.get("usage"):
            self._unread = document
        self._count(document.get("usage"))
        if isinstance(document.get("x_groq"), Mapping):  # Groq's place for it in a stream
            self._count(document["x_groq"].get("usage"))
        model = document.get("model")
        # With the first content and not before it: until then the call can be retried.
        if chunks and isinstance(model, str) and model and model != self._model:
            self._model = model
            tier, fingerprint = (
                value if isinstance(value := document.get(name), str) and value else None
                for name in ("service_tier", "system_fingerprint")
            )
            chunks.insert(0, ModelChunk(model=model, service_tier=tier, system_fingerprint=fingerprint))
        return chunks

    def last(self) -> list[ChatChunk]:
        """Return tool calls that wait for their arguments, the finish reason, and the usage if there is one.

        A response that was cut off has no finish reason. Raises ``UpstreamError`` for one that means a failure, for a
        tool call without a name, and for a response without any choice.
        """
        if not self._has_choice and self._unread:
            raise not_openais(self._unread, self._content_type)
        chunks: list[ChatChunk] = [chunk for choice in self._choices for chunk in choice.last()]
        if self._usage is not None:
            chunks.append(UsageChunk(usage=self._usage))
        return chunks

    def _own_choices(self, choices: Any, document: Any) -> list[tuple[ChoiceDecoder, Mapping[str, Any]]]:
        """Return the requested choices of which the document has a part, each with its decoder."""
        if not isinstance(choices, list) or not all(isinstance(choice, Mapping) for choice in choices):
            raise not_openais(document, self._content_type)
        is_first, self._has_choice = not self._has_choice, True
        if len(self._choices) == 1:
            if is_first:
                numbers = [choice.get("index") for choice in choices]
                self._first = min((number for number in numbers if isinstance(number, int)), default=None)
            own = next((choice for choice in choices if choice.get("index") == self._first), None)
            return [(self._choices[0], own)] if own is not None else []
        numbered = [(choice.get("index"), place, choice) for place, choice in enumerate(choices)]
        return [
            (self._choices[number], choice)
            for index, place, choice in numbered
            if 0 <= (number := index if isinstance(index, int) else place) < len(self._choices)
        ]

    def _count(self, usage: Any) -> None:
        """Keep the token counts; later ones replace them, unless they are all zero."""
        counts = usage_from(usage)
        if counts is not None:
            self._usage = counts


def usage_from(usage: Any) -> Usage | None:
    """Return token counts in OpenAI's or Anthropic's names, or None if the provider counted nothing.

    Servers send them as whole numbers, as floats or as strings.
    """
    if not isinstance(usage, Mapping):
        return None
    prompt = token_count(usage.get("prompt_tokens"))
    completion = token_count(usage.get("completion_tokens"))
    prompt = token_count(usage.get("input_tokens")) if prompt is None else prompt
    completion = token_count(usage.get("output_tokens")) if completion is None else completion
    total = token_count(usage.get("total_tokens"))
    if not prompt and not completion and not total:
        return None
    read, written = _first_count(usage, _CACHED), _first_count(usage, _CACHE_WRITES)
    if "prompt_tokens" not in usage and any(name in usage for name in _ANTHROPIC_CACHE):
        prompt = (prompt or 0) + read + written  # Anthropic's input tokens are without those of the cache
    return Usage(
        prompt_tokens=prompt or 0,
        completion_tokens=completion or 0,
        total_tokens=total or 0,
        cached_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=_first_count(usage, _REASONING),
    )


def _first_count(usage: Mapping[str, Any], paths: tuple[str, ...]) -> int:
    """Return the first count above 0 among ``paths`` (``group.name`` or ``name``), or 0."""
    for path in paths:
        group, _, name = path.rpartition(".")
        source = usage.get(group) if group else usage
        count = token_count(source.get(name)) if isinstance(source, Mapping) else None
        if count:
            return count
    return 0
