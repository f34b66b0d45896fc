"""Rules of fallback: the handlers to try when the first one fails before its first byte.

:class:`handler_host.dispatch.dispatcher.Dispatcher` applies them.

``[handlers.NAME] fallback`` lists them; they are tried in this order, each at most once. Only the list of the
requested handler counts, so a dispatch ends even if two handlers name each other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import msgspec

from handler_host._internal.suggestions import did_you_mean
from handler_host.config import Config
from handler_host.plugin.errors import (
    ActivationFailed,
    CircuitOpen,
    ContentRefused,
    DeadlineExceeded,
    Draining,
    HandlerCrashed,
    HandlerFault,
    HandlerUnavailable,
    HandlerUnloaded,
    HostError,
    MemoryBudget,
    OutOfResources,
    QueueFull,
    UpstreamBadRequest,
    UpstreamError,
)

OPERATIONS_WITH_MODEL = frozenset({"chat", "count_tokens", "embed"})
"""Operations whose request names a model of the requested handler."""

HANDLER_ERRORS = (
    UpstreamError,
    ActivationFailed,
    HandlerCrashed,
    HandlerFault,
    HandlerUnavailable,
    HandlerUnloaded,
    CircuitOpen,
    MemoryBudget,
    QueueFull,
    DeadlineExceeded,
)
"""Errors of one handler, which another one may not have. A deadline is one as long as the dispatch has time left."""
REQUEST_ERRORS = (UpstreamBadRequest, ContentRefused)
"""Subclasses of :data:`HANDLER_ERRORS` that are errors of the request: no other provider is tried with it."""
HOST_ERRORS = (Draining, OutOfResources)
"""Errors that every handler would have."""


class Fallbacks:
    """Fallback lists of all handlers; ``config`` returns the current configuration."""

    def __init__(self, config: Callable[[], Config]) -> None:
        self._config = config

    def of(self, name: str) -> list[str]:
        """Return the fallbacks of a handler in their order, without the handler itself."""
        fallbacks = self._config().policy(name).fallback
        return [fallback for fallback in dict.fromkeys(fallbacks) if fallback != name]


def should_fall_back(error: HostError) -> bool:
    """Return whether the fallbacks are tried after this error of the requested handler."""
    return isinstance(error, HANDLER_ERRORS) and not isinstance(error, REQUEST_ERRORS)


def should_try_next(error: HostError) -> bool:
    """Return whether the next fallback is tried after this error of a fallback; also if that refuses the request."""
    return not isinstance(error, HOST_ERRORS)


def request_for_fallback(operation: str, body: bytes) -> bytes:
    """Return the body for a fallback: that of a chat without the model, which is one of the requested handler."""
    if operation not in OPERATIONS_WITH_MODEL:
        return body
    try:
        request = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        return body
    if "model" not in request:
        return body
    del request["model"]
    return msgspec.json.encode(request)


def with_fallback_errors(error: HostError, failures: dict[str, HostError]) -> HostError:
    """Return the error of the requested handler, with the errors of its fallbacks."""
    combined = error.copy()
    causes = ", ".join(f"{name}: {failure.code}" for name, failure in failures.items())
    combined.message = f"{error.message} (its fallbacks failed, too: {causes})"
    combined.args = (combined.message,)
    codes = {name: failure.code for name, failure in failures.items()}
    combined.details = {**(error.details or {}), "fallbacks": codes}
    return combined


def unknown_fallbacks(config: Config, handlers: Collection[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the table of each fallback that is not one of the handlers, with a sentence."""
    lists: dict[tuple[str, ...], tuple[str, ...]] = {("defaults",): config.defaults.fallback}
    lists |= {("handlers", name): keys["fallback"] for name, keys in config.handlers.items() if "fallback" in keys}
    for table, names in lists.items():
        for name in names:
            if name not in handlers:
                yield table, f"[{'.'.join(table)}] fallback: unknown handler {name!r}{did_you_mean(name, handlers)}"
