"""Decode one choice of OpenAI's chat completions; :mod:`completion_decoder` decodes the documents around it. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec.structs import astuple

from handler_host.chat.finish_reasons import finish_reason_of, is_finish_reason
from handler_host.chat.reasoning_marks import DETAILS, ReasoningMarker, detail_text
from handler_host.chat.tokens import token_count
from handler_host.chat.tool_call_decoder import ToolCallDecoder
from handler_host.chat.types import (
    ChoiceChunk,
    Citation,
    CitationChunk,
    FinishChunk,
    LogprobsChunk,
    ReasoningChunk,
    RefusalChunk,
    TextChunk,
    TokenLogprob,
)
from handler_host.plugin.errors import UpstreamError
from handler_host.plugin.provider_errors import error_from_document


class ChoiceDecoder:
    """Decoder of the choice ``number``: the chunks of a stream, or a whole one."""

    def __init__(
        self, number: int, tool_names: Container[str], *, content_type: str, stop: Sequence[str], source: str | None
    ) -> None:
        self._number = number
        self._content_type = content_type
        self._stop = stop
        self._stop_sequence: str | None = None
        self._texts: dict[str, list[str]] = {"reasoning": [], "content": [], "refusal": []}
        self._citations: set[tuple[Any, ...]] = set()
        self._calls = ToolCallDecoder(tool_names)
        self._marker = ReasoningMarker(source)
        self.finish: str | None = None
        """The provider's finish reason."""

    def chunks(self, choice: Mapping[str, Any]) -> list[ChoiceChunk]:
        """Return the chunks in one part of the choice; raises ``UpstreamError``."""
        chunks: list[ChoiceChunk] = []
        self._read(chunks, choice)
        return self._numbered(chunks)

    def last(self) -> list[ChoiceChunk]:
        """Return tool calls that wait for their arguments, and the finish reason unless the choice was cut off.

        Raises ``UpstreamError`` for a reason that means a failure, and for a tool call without a name.
        """
        chunks: list[ChoiceChunk] = [*self._calls.close(), *self._marker.close()]
        reason = finish_reason_of(self.finish, has_tool_calls=self._calls.count > 0)
        if reason is not None:
            chunks.append(FinishChunk(reason=reason, stop_sequence=self._stop_sequence))
        return self._numbered(chunks)

    def _numbered(self, chunks: list[ChoiceChunk]) -> list[ChoiceChunk]:
        if self._number:
            for chunk in chunks:
                chunk.choice = self._number
        return chunks

    def _read(self, chunks: list[ChoiceChunk], choice: Mapping[str, Any]) -> None:
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
                raise not_openais(choice, self._content_type)
        if not delta and not message and choice.get("text"):
            self._add_message(chunks, {"content": choice["text"]}, is_whole=False)
        finish = choice.get("finish_reason")
        if finish and not isinstance(finish, str):
            finish = "stop"  # a number or an object: the server has ended the response
        if isinstance(finish, str) and is_finish_reason(finish):
            self.finish = finish
            # Of vLLM and of SGLang. Only the request's own: it may be a token's number, or the reason once more.
            matches = (choice.get("stop_reason"), choice.get("matched_stop"))
            self._stop_sequence = next((stop for stop in matches if isinstance(stop, str) and stop in self._stop), None)

    def _add_message(self, chunks: list[ChoiceChunk], message: Mapping[str, Any], *, is_whole: bool) -> None:
        texts: tuple[tuple[str, Callable[..., ChoiceChunk], str], ...] = (
            ("reasoning", ReasoningChunk, _reasoning_of(message)),
            ("content", TextChunk, self._text_of(message.get("content"), message)),
            ("refusal", RefusalChunk, self._text_of(message.get("refusal"), message)),
        )
        self._marker.read(message, is_whole=is_whole)
        for name, kind, text in texts:
            if is_whole:
                text = self._remainder(name, text)
            if text:
                if name != "reasoning":
                    chunks += self._marker.close()
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
            chunks += self._marker.close()
            chunks += self._calls.chunks(calls, is_whole=is_whole)
        elif calls is not None:
            raise not_openais(message, self._content_type)

    def _add_citations(self, chunks: list[ChoiceChunk], annotations: Any) -> None:
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
            raise not_openais(message, self._content_type)
        texts: list[str] = []
        for part in content:
            text = part.get("text") if isinstance(part, Mapping) else part
            if isinstance(text, str):
                texts.append(text)
        return "".join(texts)


def not_openais(document: Any, content_type: str) -> UpstreamError:
    """Return the error for a document, or a part of one, that is not of OpenAI's form."""
    start = json.dumps(document, default=str)[:200]
    place = f" ({content_type})" if content_type else ""
    return UpstreamError(f"the provider sent a chunk that is not one of OpenAI's{place}: {start}")


def _reasoning_of(message: Mapping[str, Any]) -> str:
    """Return the text of a message's reasoning: in fields of its own, or in parts of the content (Mistral's)."""
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(reasoning, str):
        return reasoning
    details = message.get(DETAILS)
    if isinstance(details, list):
        return "".join(detail_text(detail) for detail in details if isinstance(detail, Mapping))
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
