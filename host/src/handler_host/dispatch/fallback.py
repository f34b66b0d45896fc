"""Whom a dispatch turns to when the handler that was asked fails before its answer has begun.

``[handlers.NAME] fallback`` lists others, which are asked one after the other, each
at most once. Only the list of the handler that was asked counts: two handlers
may name each other, and a dispatch comes to an end.
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

WITH_A_MODEL = frozenset({"chat", "count_tokens"})
"""The operations whose requests name a model, which is the asked handler's and no other's."""

OF_THE_HANDLER = (
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
"""What is wrong with one handler and need not be with another. A deadline counts while the dispatch has time left."""
OF_THE_REQUEST = (UpstreamBadRequest, ContentRefused)
"""Of these, what is wrong with the request: another provider is not to be talked into it."""
OF_THE_HOST = (Draining, OutOfResources)
"""What no handler can do anything about."""


class Fallbacks:
    """The lists of all handlers; ``config`` returns the configuration in force, which may change."""

    def __init__(self, config: Callable[[], Config]) -> None:
        self._config = config

    def of(self, name: str) -> list[str]:
        """Return the handlers to turn to, in their order; none is meant by its own name in the defaults."""
        config = self._config()
        others = config.handlers.get(name, {}).get("fallback", config.defaults.fallback)
        return [other for other in dict.fromkeys(others) if other != name]


def should_fall_back(error: HostError) -> bool:
    """Tell whether another handler is asked after this error of the first one."""
    return isinstance(error, OF_THE_HANDLER) and not isinstance(error, OF_THE_REQUEST)


def should_try_next(error: HostError) -> bool:
    """Tell whether the next one is asked after this error of a fallback: also if that cannot take the request."""
    return not isinstance(error, OF_THE_HOST)


def request_for_fallback(operation: str, body: bytes) -> bytes:
    """Return the request as it goes to a fallback: a chat without its model, which would be that of the first one."""
    if operation not in WITH_A_MODEL:
        return body
    try:
        request = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return body
    if not isinstance(request, dict) or "model" not in request:
        return body
    del request["model"]
    return msgspec.json.encode(request)


def with_fallback_errors(error: HostError, failures: dict[str, HostError]) -> HostError:
    """Return the first handler's error, with what the others that were asked have failed with."""
    told = error.copy()
    causes = ", ".join(f"{name}: {other.code}" for name, other in failures.items())
    told.message = f"{error.message} (and so did its fallbacks: {causes})"
    told.args = (told.message,)
    told.details = {**(error.details or {}), "fallbacks": {name: other.code for name, other in failures.items()}}
    return told


def unknown_fallbacks(config: Config, known: Collection[str]) -> Iterator[str]:
    """Yield a sentence for each name in a list that is no handler's."""
    places = {"[defaults]": config.defaults.fallback}
    places |= {f"[handlers.{name}]": keys["fallback"] for name, keys in config.handlers.items() if "fallback" in keys}
    for place, names in places.items():
        for name in names:
            if name not in known:
                yield f"{place} fallback: there is no handler {name!r}{did_you_mean(name, known)}"
