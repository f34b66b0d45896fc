"""Find the provider's own words in an error, whatever its shape. Pure."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_CHARS = 500
"""Longest text of a provider in a message, in characters."""
STATUSES = {
    "invalid_request_error": 400,
    "invalid_argument": 400,
    "failed_precondition": 400,
    "bad_request": 400,
    "badrequesterror": 400,
    "context_length_exceeded": 400,
    "authentication_error": 401,
    "unauthenticated": 401,
    "permission_error": 403,
    "permission_denied": 403,
    "not_found_error": 404,
    "not_found": 404,
    "timeout_error": 408,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "resource_exhausted": 429,
    "too_many_requests": 429,
    "overloaded_error": 529,
    "unavailable": 503,
    "deadline_exceeded": 504,
}
"""HTTP status of the error types and codes of providers, in lower case."""
WRONG_KEY = "API_KEY_INVALID"
"""Google answers a wrong key with 400, and this reason among its details."""

_WORDS = (
    *("message", "detail", "details", "msg", "error_description", "error_message", "error_msg", "errmsg"),
    *("errorMessage", "status_msg", "faultstring", "description", "reason", "title", "Message"),
)
"""Fields of an error with its text, the most frequent one first."""
_NESTED = ("error", "errors", "fault", "exception")
_TITLES = ("title", "h1", "h2")
_UNSEEN = re.compile(r"<(script|style|head)\b.*?(?:</\1\s*>|\Z)|<!--.*?(?:-->|\Z)|<[^<>]*>", re.IGNORECASE | re.DOTALL)
"""Parts of a page that a browser does not show; each branch is linear in the length of the page."""
_PAGE_CHARS = 16 * 1024


@dataclass(frozen=True, slots=True)
class ProviderError:
    """An error as a provider describes it; ``status`` is the one that the document names, if it names one."""

    message: str
    status: int | None = None
    code: str | None = None
    param: str | None = None
    retry_after_s: float | None = None
    refuses_key: bool = False
    """Whether the details say that the handler's key is wrong."""


def find_error(document: Any) -> ProviderError | None:
    """Return the error that a JSON document reports, or None for one that reports none."""
    if isinstance(document, list):
        return next((error for item in document[:10] if (error := find_error(item)) is not None), None)
    if not isinstance(document, Mapping):
        return None
    for name in _NESTED:
        content = document.get(name)
        if content:
            return _describe(content, document)
    outcome = document.get("base_resp")
    if isinstance(outcome, Mapping) and outcome.get("status_code"):  # MiniMax's, with 0 in each success
        return _describe(outcome, document)
    kind = document.get("object") or document.get("type")
    has_content = any(document.get(name) is not None for name in ("choices", "candidates", "content", "delta"))
    if kind == "error" or (not has_content and any(_is_text(document.get(name)) for name in _WORDS)):
        return _describe(document, document)
    return None


def words_of(content: Any) -> str:
    """Return the text in the JSON of an error, or the JSON itself if its shape is unknown; empty for empty content."""
    words = _words(content, depth=0)
    if not words and content:
        words = json.dumps(content, ensure_ascii=False)
    # Some servers wrap the page of another one in JSON.
    return words_of_text(words) if words.lstrip().startswith("<") else _shorten(words)


def words_of_text(text: str) -> str:
    """Return the words of a body that is not JSON: of a page its title or heading, else its text."""
    start = text.lstrip("\ufeff \t\r\n")[:_PAGE_CHARS]
    if not start.startswith("<"):
        return _shorten(start)
    titles = (_element(start, name) for name in _TITLES)
    return _shorten(next(filter(None, titles), "") or _plain(start))


def _describe(content: Any, document: Mapping[str, Any]) -> ProviderError:
    fields = content if isinstance(content, Mapping) else {}
    codes = [source.get(name) for source in (fields, document) for name in ("code", "status", "status_code", "type")]
    if isinstance(content, int):  # a flag, or a status
        codes.insert(0, content)
        content = document
    status = next((status for code in codes if (status := _status_of(code)) is not None), None)
    param = fields.get("param")
    return ProviderError(
        message=words_of(content) or words_of(document),
        status=status,
        code=next((code for code in (fields.get("code"), fields.get("type")) if isinstance(code, str)), None),
        param=param if isinstance(param, str) and param else None,
        refuses_key=_refuses_key(fields.get("details")),
    )


def _refuses_key(details: Any) -> bool:
    return isinstance(details, list) and any(
        isinstance(detail, Mapping) and detail.get("reason") == WRONG_KEY for detail in details
    )


def _status_of(code: Any) -> int | None:
    if isinstance(code, str):
        named = STATUSES.get(code.lower())
        if named is not None:
            return named
        code = int(code) if len(code) == 3 and code.isascii() and code.isdigit() else None
    return code if isinstance(code, int) and 400 <= code <= 599 else None


def _words(content: Any, depth: int) -> str:
    if isinstance(content, str):
        return content
    if depth > 4:
        return ""
    if isinstance(content, list):
        return "; ".join(filter(None, (_words(item, depth + 1) for item in content[:5])))
    if not isinstance(content, Mapping):
        return ""
    for name in (*_WORDS, *_NESTED):
        words = _words(content.get(name), depth + 1)
        if words:
            # FastAPI names the field beside its message.
            place = content.get("loc")
            path = ".".join(str(step) for step in place) if isinstance(place, list) else ""
            return f"{path}: {words}" if path else words
    code = content.get("code") or content.get("type")
    return code if isinstance(code, str) and code != "error" else ""


def _is_text(value: Any) -> bool:
    return bool(value) and isinstance(value, str | list)


def _element(page: str, name: str) -> str:
    """Return the text of the first element of this name, or an empty string."""
    match = re.search(rf"<{name}\b[^<>]*>", page, re.IGNORECASE)
    if match is None:
        return ""
    end = page.lower().find(f"</{name}", match.end())
    return _plain(page[match.end() : end]) if end >= 0 else ""


def _plain(text: str) -> str:
    return " ".join(html.unescape(_UNSEEN.sub(" ", text)).split())


def _shorten(text: str) -> str:
    text = " ".join(text[: MAX_CHARS * 4].encode(errors="replace").decode().split())
    return text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}…"
