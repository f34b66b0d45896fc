"""What LiteLLM raises, as the errors of the host.

LiteLLM wraps a failure once or twice, and on the way loses what matters: of
``anthropic/`` a 529 becomes a 500, of ``gemini/`` a rate limit in a stream loses its
``Retry-After``, a proxy's page becomes a connection error. The exception of the
provider's own code is still in the chain, and is believed first.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from handler_host.plugin import (
    HostError,
    InvalidInput,
    UpstreamError,
    UpstreamRateLimited,
    error_from_response,
    find_error,
    from_status,
    parse_retry_after,
    timeout_error,
    unreachable_error,
)

TRANSPORTS = ("httpx", "httpcore", "aiohttp")
"""Packages whose errors mean that the connection failed; none of them is imported here."""
ANSWERS = frozenset({"HTTPStatusError", "ClientResponseError"})
"""Errors of theirs that are no failed connections, but statuses."""

_NAMED = re.compile(r"does not support parameters: \[(.*?)\]")


_EVENT_STREAM = re.compile(
    r"invalid response from LLM endpoint\. Received: ['\"](?:\\ufeff)?\W*(?:data|event|id|retry|:)"
)
_EVENT = re.compile(r"\ufeff?\s*(?:data|event|id|retry)?:")


def is_event_stream(error: Exception) -> bool:
    """Return whether a plain call failed because the server responded with an event stream."""
    documents = [link.doc for link in _chain(error) if isinstance(link, json.JSONDecodeError)]
    return any(map(_EVENT.match, documents)) or _EVENT_STREAM.search(str(error)[:400]) is not None


def translate(error: Exception, timeout: float) -> HostError:
    """Return the host's error for what a call of LiteLLM or the reading of its stream has raised."""
    chain = list(_chain(error))
    return _of_litellm(chain) or _of_connection(chain, timeout) or _of_provider(chain, error)


def _of_litellm(chain: list[BaseException]) -> HostError | None:
    """Return the error for what no provider has said."""
    import litellm
    from litellm.types.router import RouterRateLimitError

    for link in chain:
        if isinstance(link, HostError):
            return link
        if isinstance(link, litellm.UnsupportedParamsError):
            return _unsupported(link)
        if isinstance(link, RouterRateLimitError):
            return UpstreamRateLimited(
                f"all deployments of {link.model!r} have failed a moment ago and are left out for a while",
                retry_after=link.cooldown_time,
            )
    return None


def _of_connection(chain: list[BaseException], timeout: float) -> HostError | None:
    """Return the error for an answer that did not come, or not whole."""
    if any("Timeout" in type(link).__name__ for link in chain):
        if _response(chain) is not None or any(
            getattr(link, "status_code", None) == 408 for link in chain if _is_of_provider(link)
        ):
            return None  # the provider's own time-out, or a proxy's before it
        return timeout_error(timeout)
    for link in chain:
        if type(link).__module__.partition(".")[0] in TRANSPORTS and type(link).__name__ not in ANSWERS:
            return unreachable_error(link)
    if any(isinstance(link, json.JSONDecodeError) for link in chain):
        return UpstreamError("the provider sent a chunk that is not JSON")
    return None


def _of_provider(chain: list[BaseException], error: Exception) -> HostError:
    """Return the error for what the provider has said, by the status that it has given."""
    import litellm

    mapped = getattr(error, "original_exception", None) or error
    source = next((link for link in chain if _is_of_provider(link)), mapped)
    status = getattr(source, "status_code", None)
    if not isinstance(status, int):
        return UpstreamError(f"LiteLLM could not read the provider's answer: {type(mapped).__name__}")
    response = _response(chain)
    if 300 <= status < 400:
        return from_status(status, "no words in the response")  # the rest is LiteLLM's
    if response is not None and status >= 400:
        own = error_from_response(status, response.headers, response.content)
        if not isinstance(mapped, litellm.ContentPolicyViolationError):
            return own if own.retry_after is not None else own.copy(retry_after=_retry_after(chain))
    words = _words(getattr(source, "message", None) or str(mapped))
    if not words.get("message"):
        bodies = (getattr(link, "body", None) for link in chain)
        words = next((_fields({"error": body}) for body in bodies if isinstance(body, dict)), words)
    message = words.get("message") or "no words in the response"
    if status < 400:
        return UpstreamError(f"the provider ended the stream with an error: {message}")
    code = "content_policy_violation" if isinstance(mapped, litellm.ContentPolicyViolationError) else words.get("code")
    return from_status(status, message, retry_after=_retry_after(chain), param=words.get("param"), code=code)


def _is_of_provider(link: BaseException) -> bool:
    from litellm.llms.base_llm.chat.transformation import BaseLLMException

    return isinstance(link, BaseLLMException)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the exception, what it wraps, and what was being handled when it was raised."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        link = waiting.pop(0)
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        waiting += [getattr(link, "original_exception", None), link.__cause__, link.__context__]


def _unsupported(error: Any) -> InvalidInput:
    match = _NAMED.search(error.message)
    if match is None:
        return InvalidInput(f"the model's provider refuses a part of the request: {error.message.partition(': ')[2]}")
    name = match[1].split(",")[0].strip("'\" ")
    return InvalidInput(f"{name}: the model's provider has nothing of the kind; leave it out", param=name)


def _words(message: str | bytes) -> dict[str, str]:
    """Return message, code and param of a provider's error: as bytes, as text, or as bytes written out in Python."""
    if isinstance(message, str) and message.startswith(("b'", 'b"')):
        try:
            message = ast.literal_eval(message)
        except (ValueError, SyntaxError):
            return {}
    text = message.decode(errors="replace") if isinstance(message, bytes) else str(message)
    # To failures of its own, LiteLLM adds their traceback.
    text = text.partition("\nTraceback")[0]
    start = text.find("{")
    try:
        body = json.loads(text[start : text.rfind("}") + 1]) if start >= 0 else None
    except (ValueError, RecursionError):
        body = None
    if isinstance(body, dict):
        return _fields(body if find_error(body) is not None else {"error": body})
    page = text.find("<")
    return _fields({"error": text[page:] if page >= 0 else text})


def _fields(document: Any) -> dict[str, str]:
    error = find_error(document)
    if error is None:
        return {}
    fields = {"message": error.message, "code": error.code, "param": error.param}
    return {name: value for name, value in fields.items() if value}


def _response(chain: list[BaseException]) -> Any:
    """Return the provider's HTTP response, if an exception has it with its body; LiteLLM also makes up empty ones."""
    for link in chain:
        response = getattr(link, "response", None)
        try:
            if getattr(response, "content", b"") and getattr(response, "status_code", 0) >= 400:
                return response
        except Exception:  # noqa: BLE001, S112 - a body that was not read raises an error of one of two libraries
            continue
    return None


def _retry_after(chain: list[BaseException]) -> float | None:
    for link in chain:
        for headers in (getattr(link, "litellm_response_headers", None), getattr(link, "headers", None)):
            if isinstance(headers, Mapping):
                retry_after = parse_retry_after({name.lower(): value for name, value in headers.items()})
                if retry_after is not None:
                    return retry_after
    return None
