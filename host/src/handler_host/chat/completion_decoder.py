"""Decode the responses of OpenAI's chat completions, and of the servers that speak them in their own way. Pure.

The handlers on OpenAI's SDK, on LiteLLM and on llama.cpp share it. What a server does differently is read as it is
meant; a document that no reading fits is an ``UpstreamError``.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Container, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import msgspec
from msgspec.structs import astuple

from handler_host.chat.finish_reasons import finish_reason_of, is_finish_reason
from handler_host.chat.tool_call_decoder import ToolCallDecoder
from handler_host.chat.types import (
    ChatChunk,
    Citation,
    CitationChunk,
    FinishChunk,
    LogprobsChunk,
    ModelChunk,
    ReasoningChunk,
    RefusalChunk,
    TextChunk,
    TokenLogprob,
    Usage,
    UsageChunk,
)
from handler_host.plugin.errors import HostError, UpstreamError, UpstreamTimeout, UpstreamUnreachable
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

    ``tool_names`` are the functions of the request, ``stop`` its stop sequences; ``content_type`` is for messages.
    """

    def __init__(self, *, tool_names: Container[str] = (), content_type: str = "", stop: Sequence[str] = ()) -> None:
        self._content_type = content_type
        self._stop = stop
        self._stop_sequence: str | None = None
        self._model: str | None = None
        """The model of the last :class:`ModelChunk`."""
        self._choice: object = None
        """Index of the choice that is read; further ones were not requested."""
        self._has_choice = False
        self._unread: object = None
        """The first document without choices and usage: the words of a server that sends nothing else."""
        self._texts: dict[str, list[str]] = {"reasoning": [], "content": [], "refusal": []}
        self._citations: set[tuple[Any, ...]] = set()
        self._calls = ToolCallDecoder(tool_names)
        self._finish: str | None = None
        self._usage: Usage | None = None

    @property
    def is_finished(self) -> bool:
        """Whether a finish reason has come."""
        return self._finish is not None

    def chunks(self, document: Any) -> list[ChatChunk]:
        """Return the chunks in one document: mostly one, none if it has no content.

        Raises ``UpstreamError`` for an error, and for a document of another shape.
        """
        if not isinstance(document, Mapping):
            raise self._not_openais(document)
        choices = document.get("choices")
        # An error beside choices without content is the reason why they have none.
        if (not choices or document.get("error")) and find_error(document) is not None:
            raise error_from_document(document, content_type=self._content_type)
        chunks: list[ChatChunk] = []
        if choices:
            choice = self._own_choice(choices, document)
            if choice is not None:
                self._add_choice(chunks, choice)
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
            chunks.insert(0, ModelChunk(model=model))
        return chunks

    def last(self) -> list[ChatChunk]:
        """Return tool calls that wait for their arguments, the finish reason, and the usage if there is one.

        A response that was cut off has no finish reason. Raises ``UpstreamError`` for one that means a failure, for a
        tool call without a name, and for a response without any choice.
        """
        if not self._has_choice and self._unread:
            raise self._not_openais(self._unread)
        chunks: list[ChatChunk] = list(self._calls.close())
        reason = finish_reason_of(self._finish, has_tool_calls=self._calls.count > 0)
        if reason is not None:
            chunks.append(FinishChunk(reason=reason, stop_sequence=self._stop_sequence))
        if self._usage is not None:
            chunks.append(UsageChunk(usage=self._usage))
        return chunks

    def _own_choice(self, choices: Any, document: Any) -> Mapping[str, Any] | None:
        """Return the choice that is read, if the document has a part of it."""
        if not isinstance(choices, list) or not all(isinstance(choice, Mapping) for choice in choices):
            raise self._not_openais(document)
        if not self._has_choice:
            self._has_choice = True
            numbers = [choice.get("index") for choice in choices]
            self._choice = min((number for number in numbers if isinstance(number, int)), default=None)
        return next((choice for choice in choices if choice.get("index") == self._choice), None)

    def _add_choice(self, chunks: list[ChatChunk], choice: Mapping[str, Any]) -> None:
        if choice.get("error"):
            raise error_from_document(choice, content_type=self._content_type)
        logprobs = choice.get("logprobs")
        if isinstance(logprobs, Mapping) and logprobs.get("content"):
            # Other shapes are left out: some servers send theirs although the client did not ask.
            with suppress(msgspec.ValidationError):
                chunks.append(LogprobsChunk(content=msgspec.convert(logprobs["content"], list[TokenLogprob])))
        delta, message = choice.get("delta"), choice.get("message")
        for part, is_whole in ((delta, False), (message, True)):
            if isinstance(part, Mapping):
                self._add_message(chunks, part, is_whole=is_whole)
            elif part is not None:
                raise self._not_openais(choice)
        if not delta and not message and choice.get("text"):
            self._add_message(chunks, {"content": choice["text"]}, is_whole=False)
        finish = choice.get("finish_reason")
        if finish and not isinstance(finish, str):
            finish = "stop"  # a number or an object: the server has ended the response
        if isinstance(finish, str) and is_finish_reason(finish):
            self._finish = finish
            # Of vLLM and of SGLang. Only the request's own: it may be a token's number, or the reason once more.
            matches = (choice.get("stop_reason"), choice.get("matched_stop"))
            self._stop_sequence = next((stop for stop in matches if isinstance(stop, str) and stop in self._stop), None)

    def _add_message(self, chunks: list[ChatChunk], message: Mapping[str, Any], *, is_whole: bool) -> None:
        texts: tuple[tuple[str, Callable[..., ChatChunk], str], ...] = (
            ("reasoning", ReasoningChunk, _reasoning_of(message)),
            ("content", TextChunk, self._text_of(message.get("content"), message)),
            ("refusal", RefusalChunk, self._text_of(message.get("refusal"), message)),
        )
        for name, kind, text in texts:
            if is_whole:
                text = self._remainder(name, text)
            if text:
                self._texts[name].append(text)
                # The text of a call whose arguments are complete comes after it.
                chunks += self._calls.last()
                chunks.append(kind(text=text))
        self._add_citations(chunks, message.get("annotations"))
        calls = message.get("tool_calls")
        if calls is None and isinstance(message.get("function_call"), Mapping):
            # Servers from before tool calls: one call, without an ID.
            calls = [{"index": 0, "function": message["function_call"]}]
        if isinstance(calls, Mapping):
            calls = [calls]
        if isinstance(calls, list):
            if is_whole and self._calls.count:
                return  # they came in the chunks before
            chunks += self._calls.chunks(calls, is_whole=is_whole)
        elif calls is not None:
            raise self._not_openais(message)

    def _add_citations(self, chunks: list[ChatChunk], annotations: Any) -> None:
        for annotation in annotations if isinstance(annotations, list) else ():
            citation = _citation_of(annotation)
            if citation is not None and (key := astuple(citation)) not in self._citations:
                self._citations.add(key)  # some servers repeat them at the end
                chunks.append(CitationChunk(citation=citation))

    def _remainder(self, name: str, text: str) -> str:
        """Return what a whole message adds to the text so far: some servers repeat it all in their last chunk."""
        if not self._texts[name]:
            return text
        so_far = "".join(self._texts[name])
        return text.removeprefix(so_far)

    def _text_of(self, content: Any, message: Any) -> str:
        if content is None or isinstance(content, str):
            return content or ""
        if isinstance(content, Mapping):
            content = [content]
        if not isinstance(content, list):
            raise self._not_openais(message)
        texts: list[str] = []
        for part in content:
            text = part.get("text") if isinstance(part, Mapping) else part
            if isinstance(text, str):
                texts.append(text)
        return "".join(texts)

    def _count(self, usage: Any) -> None:
        """Keep the token counts; later ones replace them, unless they are all zero."""
        counts = usage_from(usage)
        if counts is not None:
            self._usage = counts

    def _not_openais(self, document: Any) -> UpstreamError:
        start = json.dumps(document, default=str)[:200]
        place = f" ({self._content_type})" if self._content_type else ""
        return UpstreamError(f"the provider sent a chunk that is not one of OpenAI's{place}: {start}")


def _reasoning_of(message: Mapping[str, Any]) -> str:
    """Return the text of a message's reasoning: in a field of its own, or in parts of the content (Mistral's)."""
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(reasoning, str):
        return reasoning
    content = message.get("content")
    parts = [part.get("thinking") for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []
    texts = [step.get("text") for part in parts if isinstance(part, list) for step in part if isinstance(step, Mapping)]
    return "".join(text for text in texts if isinstance(text, str))


def _citation_of(annotation: Any) -> Citation | None:
    """Return the citation in an annotation, or None for one of another kind."""
    source = annotation.get("url_citation") if isinstance(annotation, Mapping) else None
    if not isinstance(source, Mapping):
        return None
    url, title, quote = (
        value if isinstance(value, str) and value else None
        for value in (source.get("url"), source.get("title"), source.get("content"))
    )
    start, end = token_count(source.get("start_index")), token_count(source.get("end_index"))
    if start is None or end is None or start >= end:
        start = end = None
    return Citation(url=url, title=title, quote=quote, start_index=start, end_index=end)


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


def token_count(value: Any) -> int | None:
    """Return a provider's count as a whole number of 0 or more, or None for a value that is not a count."""
    if isinstance(value, str):
        try:
            value = float(value[:40])
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    # Beyond 53 bits a count is not one, and some clients' JSON cannot hold it.
    return int(value) if 0 <= value < 2**53 else None
