"""From the JSON documents of Gemini's responses to chunks, without the SDKs' messages.

Those lose whole numbers in the arguments of a call, take a thought for text, know no newer finish reason, and refuse
what JSON has and UTF-8 has not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from gpt_c.backend import Call, Chunk, Source
from gpt_c.failures import in_stream
from handler_host.chat import TokenLogprob, TopLogprob, Usage, token_count
from handler_host.plugin import UpstreamError, find_error

_KNOWN = ("candidates", "promptFeedback", "usageMetadata", "modelVersion", "responseId")
_UNSPECIFIED = frozenset({"", "FINISH_REASON_UNSPECIFIED", "BLOCK_REASON_UNSPECIFIED", "BLOCKED_REASON_UNSPECIFIED"})


def chunks_of(document: Any, content_type: str = "", *, candidates: int = 1) -> list[Chunk]:
    """Return the chunks in one document, of a stream or a whole response: one for each of its candidates.

    ``candidates`` is the number of those that the request asks for; a document without any is one chunk.

    Raises ``UpstreamError`` for an error, and for a document of another shape.
    """
    if not isinstance(document, Mapping):
        raise _not_geminis(document, content_type)
    has_content = any(_get(document, name) for name in ("candidates", "promptFeedback", "usageMetadata"))
    if (not has_content or "error" in document) and find_error(document) is not None:
        raise in_stream(document, content_type)
    if document and not any(name in document or _snake(name) in document for name in _KNOWN):
        raise _not_geminis(document, content_type)
    try:
        return _chunks(document, candidates)
    except (AttributeError, LookupError, TypeError) as error:
        raise _not_geminis(document, content_type) from error


def _chunks(document: Mapping[str, Any], count: int) -> list[Chunk]:
    feedback = _get(document, "promptFeedback") or {}
    blocked, words = _text(_get(feedback, "blockReason")), _text(_get(feedback, "blockReasonMessage"))
    shared = Chunk(
        blocked=": ".join(filter(None, (blocked, words))) if blocked and blocked not in _UNSPECIFIED else None,
        usage=usage_of(_get(document, "usageMetadata")),
        model=_text(_get(document, "modelVersion")),
    )
    candidates = _get(document, "candidates") or []
    if not isinstance(candidates, list):
        raise TypeError("candidates is not a list")
    chunks = []
    for place, candidate in enumerate(candidates[:count]):
        # Some servers number the only candidate in their own way.
        index = token_count(candidate.get("index")) if count > 1 else None
        chunks.append(_with_candidate(shared, place if index is None else index, candidate))
    return chunks or [shared]


def _with_candidate(shared: Chunk, number: int, candidate: Mapping[str, Any]) -> Chunk:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[Call] = []
    for part in (candidate.get("content") or {}).get("parts") or ():
        if part.get("thought"):
            thoughts.append(_text(part.get("text")) or "")
            continue
        call = _get(part, "functionCall")
        if call:
            calls.append(_call(call, _text(_get(part, "thoughtSignature"))))
        texts.append(_text(part.get("text")) or "")
    finish = _text(_get(candidate, "finishReason"))
    return replace(
        shared,
        candidate=number,
        text="".join(texts),
        thought="".join(thoughts),
        calls=tuple(calls),
        logprobs=_logprobs(_get(candidate, "logprobsResult") or {}),
        sources=tuple(_sources(candidate)),
        finish=finish.upper() if finish and finish.upper() not in _UNSPECIFIED else None,
    )


def _logprobs(result: Mapping[str, Any]) -> tuple[TokenLogprob, ...]:
    chosen = _get(result, "chosenCandidates") or ()
    tops = _get(result, "topCandidates") or ()
    return tuple(
        TokenLogprob(
            token=candidate.get("token") or "",
            logprob=_get(candidate, "logProbability") or 0.0,
            top_logprobs=[
                TopLogprob(token=top.get("token") or "", logprob=_get(top, "logProbability") or 0.0)
                for top in (tops[number].get("candidates") or () if number < len(tops) else ())
            ],
        )
        for number, candidate in enumerate(chosen)
    )


def _sources(candidate: Mapping[str, Any]) -> list[Source]:
    """Return the sources of the text; metadata of another form are left out, as they must not end a good response."""
    with suppress(AttributeError, LookupError, TypeError):
        return [*_grounding(_get(candidate, "groundingMetadata") or {}), *_recitations(candidate)]
    return []


def _grounding(metadata: Mapping[str, Any]) -> list[Source]:
    """Return the sources that the model has searched, once for each segment of the text that they support."""
    chunks = [
        _get(chunk, "web") or _get(chunk, "retrievedContext") or _get(chunk, "maps") or {}
        for chunk in _get(metadata, "groundingChunks") or ()
    ]
    sources = [
        Source(url=_text(chunk.get("uri")), title=_text(chunk.get("title")), quote=_text(chunk.get("text")))
        for chunk in chunks
    ]
    segments: dict[int, list[Mapping[str, Any]]] = {}
    for support in _get(metadata, "groundingSupports") or ():
        for number in _get(support, "groundingChunkIndices") or ():
            segments.setdefault(number, []).append(support.get("segment") or {})
    return [
        _located(source, segment) for number, source in enumerate(sources) for segment in segments.get(number, [{}])
    ]


def _recitations(candidate: Mapping[str, Any]) -> list[Source]:
    """Return the sources of text that the model has recited."""
    metadata = _get(candidate, "citationMetadata") or {}
    sources = _get(metadata, "citationSources") or metadata.get("citations") or ()
    return [
        _located(Source(url=_text(source.get("uri")), title=_text(source.get("title"))), source) for source in sources
    ]


def _located(source: Source, place: Mapping[str, Any]) -> Source:
    start, end = token_count(_get(place, "startIndex")), token_count(_get(place, "endIndex"))
    return replace(source, start=start or 0, end=end, segment=_text(place.get("text")))


def _call(call: Mapping[str, Any], signature: str | None) -> Call:
    arguments = call.get("args") or {}
    if isinstance(arguments, str):
        arguments = json.loads(arguments) if arguments.startswith("{") else {}
    return Call(name=str(call.get("name") or ""), arguments=arguments, id=_text(call.get("id")), signature=signature)


def count_of(body: str) -> int:
    """Return the tokens in a response to ``countTokens``; raises ``UpstreamError`` if there are none."""
    try:
        document = json.loads(body)
        tokens = token_count(_get(document, "totalTokens"))
    except (AttributeError, ValueError, RecursionError):
        tokens = None
    if tokens is None:
        raise UpstreamError(f"the provider's count of tokens is invalid: {body[:200]}")
    return tokens


def usage_of(usage: Any) -> Usage | None:
    """Return the counts, or None if there are none; thinking belongs to the response."""
    if not isinstance(usage, Mapping):
        return None
    prompt = token_count(_get(usage, "promptTokenCount"))
    total = token_count(_get(usage, "totalTokenCount"))
    parts = [token_count(_get(usage, name)) for name in ("candidatesTokenCount", "thoughtsTokenCount")]
    completion = sum(part or 0 for part in parts)
    if not completion and total and prompt is not None:
        completion = max(0, total - prompt)
    if not prompt and not completion and not total:
        return None
    return Usage(
        prompt_tokens=prompt or 0,
        completion_tokens=completion,
        total_tokens=total or 0,
        cached_tokens=token_count(_get(usage, "cachedContentTokenCount")) or 0,
        reasoning_tokens=parts[1] or 0,
    )


def _get(source: Mapping[str, Any], name: str) -> Any:
    """Return a field by its name in camel case, else in snake case, which some servers write."""
    value = source.get(name)
    return source.get(_snake(name)) if value is None else value


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _not_geminis(document: Any, content_type: str) -> UpstreamError:
    start = json.dumps(document, default=str)[:200]
    place = content_type or "no content type"
    return UpstreamError(f"the provider sent a chunk that is not a response of Gemini's ({place}): {start}")
