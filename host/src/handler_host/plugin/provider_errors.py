"""Map errors of providers to errors of the host."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from handler_host._internal.units import bound_seconds
from handler_host.plugin.errors import (
    ContentRefused,
    ContextLengthExceeded,
    InvalidInput,
    UpstreamAuth,
    UpstreamBadRequest,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from handler_host.plugin.provider_words import ProviderError, find_error, words_of, words_of_text
from handler_host.plugin.rate_limits import seconds_until_reset

MAX_CAUSES = 20
"""Exceptions that are looked at, from an error down to its first cause."""
TOO_LONG_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error", "string_above_max_length"})
TOO_LONG = re.compile(
    r"prompt is too long|maximum context length|exceeds? the (?:maximum number of tokens|context|available context)"
    r"|exceed context limit|context window",
    re.IGNORECASE,
)
"""Words of providers without a code for it: Anthropic, OpenAI's compatible servers, Gemini, llama.cpp."""
REFUSALS = frozenset({"content_filter", "content_policy_violation", "safety"})
"""Codes of providers for content that their filters refuse."""


def is_too_long(code: str | None, message: str) -> bool:
    """Return whether a provider refused a chat for its length, by its code or its words."""
    return code in TOO_LONG_CODES or TOO_LONG.search(message) is not None


def from_status(
    status: int,
    message: str,
    *,
    retry_after: float | None = None,
    param: str | None = None,
    code: str | None = None,
    content_type: str | None = None,
) -> UpstreamError:
    """Return the error for a provider's HTTP status; its message has ``content_type`` beside the status."""
    return _error_of(
        status,
        f"{status}, {content_type}" if content_type else str(status),
        ProviderError(message, code=code, param=param, retry_after_s=retry_after),
    )


def error_from_response(status: int, headers: Mapping[str, str], body: bytes | str) -> UpstreamError:
    """Return the error for a provider's response whose status is not one of success.

    The message has the provider's words, in whatever shape the body has them, with status and content type. ``headers``
    has lower-case names, or ignores their case.
    """
    text = body if isinstance(body, str) else body.decode(json.detect_encoding(body), errors="replace")
    content_type = headers.get("content-type", "")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        error = None
        words = words_of_text(text)
    else:
        error = find_error(document)
        words = words_of(document)
    place = f"{status}, {content_type or 'no content type'}"
    return _error_of(
        status,
        place,
        ProviderError(
            message=(error.message if error is not None else words) or "no words in the response",
            code=error.code if error is not None else None,
            param=error.param if error is not None else None,
            retry_after_s=wait_of(status, headers),
        ),
    )


def error_from_document(document: Any, *, content_type: str = "", retry_after: float | None = None) -> UpstreamError:
    """Return the error for a JSON document that reports one, in a stream or in a response with status 200."""
    error = find_error(document) or ProviderError(words_of(document))
    message = error.message or "no words in the error"
    place = content_type or "no content type"
    status = error.status
    if status is None:
        return UpstreamError(f"the provider responded with an error (200, {place}): {message}", retry_after=retry_after)
    error = ProviderError(message, code=error.code, param=error.param, retry_after_s=retry_after)
    return _error_of(status, f"{status} in a response with status 200, {place}", error)


def error_from_text(body: bytes | str, content_type: str = "") -> UpstreamError:
    """Return the error for a response with status 200 that is a text or a page."""
    words = words_of_text(body if isinstance(body, str) else body.decode(errors="replace"))
    place = content_type or "no content type"
    return UpstreamError(f"the provider responded with an error or a page (200, {place}): {words or 'no words'}")


def _error_of(status: int, place: str, error: ProviderError) -> UpstreamError:
    """Return the error for a status; ``place`` is what the message has in brackets."""
    message, param, retry_after = error.message, error.param, error.retry_after_s
    if error.code in REFUSALS:
        return ContentRefused(f"the provider refused the content ({place}): {message}", param=param)
    if status == 401:
        # Without the provider's text: some repeat a part of the key in it.
        return UpstreamAuth(f"the provider refused the handler's key ({place}); check the handler's secret")
    if status == 403:
        words = _without_keys(message)
        return UpstreamAuth(f"the provider refused the handler's key ({place}): {words}; check the handler's secret")
    if status == 408:
        return UpstreamTimeout(f"the provider timed out ({place}): {message}")
    if status == 429:
        return UpstreamRateLimited(f"the provider limits the rate ({place}): {message}", retry_after=retry_after)
    if status in (503, 529):
        return UpstreamOverloaded(f"the provider is overloaded ({place}): {message}", retry_after=retry_after)
    if status >= 500:
        return UpstreamError(f"the provider failed ({place}): {message}", retry_after=retry_after)
    if status < 400:
        return UpstreamError(f"the provider redirects, or is not a provider ({place}): {message}; check its address")
    kind = ContextLengthExceeded if is_too_long(error.code, message) else UpstreamBadRequest
    return kind(f"the provider refused the request ({place}): {message}", param=param)


def _without_keys(text: str) -> str:
    """Return the text without words that may be a key or a part of one."""
    return " ".join(
        "***" if "*" in word or (len(word) >= 8 and any(letter in "-_0123456789" for letter in word)) else word
        for word in text.split()
    )


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of ``retry-after-ms`` or ``retry-after`` (RFC 9110: seconds, or a date), or None.

    The result is between 0 and one day: a date in the past is 0, a longer wait one day. ``headers`` has lower-case
    names, or ignores their case.
    """
    milliseconds = _parse_wait(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return bound_seconds(milliseconds / 1000)
    seconds = _parse_wait(headers.get("retry-after", ""))
    return None if seconds is None else bound_seconds(seconds)


def _parse_wait(value: str) -> float | None:
    """Return a number of 0 or more, or the seconds until a date; None for any other text."""
    value = value.strip()
    try:
        if value[:1] in "+-.0123456789":
            number = float(value)
            return number if number >= 0 else None
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError, IndexError, TypeError):
        return None


def wait_of(status: int, headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a provider's error asks for: its ``Retry-After``, else the reset of its rate limits."""
    seconds = parse_retry_after(headers)
    if seconds is None and status == 429:
        return seconds_until_reset(headers)
    return seconds


def refuse_fields(request: Any, provider: str, *names: str) -> None:
    """Raise ``InvalidInput`` for the first of the fields ``names`` that is set: no field is dropped silently."""
    for name in names:
        if getattr(request, name) not in (None, [], {}):
            raise InvalidInput(f"{name}: not supported by {provider}; leave it out", param=name)


def timeout_error(seconds: float) -> UpstreamTimeout:
    """Return the error for a provider that has sent nothing for ``seconds``."""
    return UpstreamTimeout(f"no response from the provider within {seconds:g} s")


def unreachable_error(error: BaseException) -> UpstreamUnreachable:
    """Return the error for a failed connection to the provider.

    It has the system's reason (``connection refused``) or else the type of ``error``, but not its text, which may
    contain the address.
    """
    return UpstreamUnreachable(
        f"the connection to the provider failed: {_system_reason(error) or type(error).__name__}"
    )


def _system_reason(error: BaseException) -> str | None:
    """Return why the system could not connect, from the first such error that ``error`` or one of its causes is."""
    cause: BaseException | None = error
    for _ in range(MAX_CAUSES):
        if cause is None:
            break
        if isinstance(cause, socket.gaierror):
            return "unknown host name"
        # Not all subclasses of OSError: the numbers of TLS errors are not the system's.
        if (type(cause) is OSError or isinstance(cause, ConnectionError)) and cause.errno:
            return os.strerror(cause.errno).lower()
        cause = cause.__cause__ or cause.__context__
    return None


def from_httpx(error: BaseException, timeout: float) -> UpstreamError | None:
    """Return the error for an exception of httpx or httpx2, or None for any other.

    SDKs do not translate these exceptions in the middle of a stream. ``timeout`` is the setting in seconds.
    """
    if not type(error).__module__.startswith("httpx"):
        return None
    cause = error.__cause__
    if cause is not None and type(cause).__module__.startswith("aiohttp"):
        # httpx-aiohttp 0.2 makes a ConnectTimeout of each connection that fails: refused, reset, closed by the server.
        return timeout_error(timeout) if isinstance(cause, TimeoutError) else unreachable_error(cause)
    return timeout_error(timeout) if "Timeout" in type(error).__name__ else unreachable_error(error)
