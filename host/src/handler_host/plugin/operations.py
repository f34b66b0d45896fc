"""Operations of a handler: the methods that a dispatch calls."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

Method = TypeVar("Method", bound=Callable[..., Any])
OPERATION_ATTRIBUTE = "__handler_operation__"


@dataclass(frozen=True)
class CallInfo:
    """What an operation may ask to know of its dispatch, by a parameter named ``call``."""

    request_id: str
    operation: str
    streamed: bool
    """Whether the client takes the pieces one by one."""
    deadline: float | None
    """On the clock of :func:`time.monotonic`; None if there is none."""
    log: logging.LoggerAdapter[logging.Logger]
    traceparent: str | None = None
    """The trace that the dispatch is a part of (W3C Trace Context), for what it asks of others; see
    ``handler_host.plugin.provider_errors``."""

    def remaining(self) -> float | None:
        """Return the seconds that are left (0 if none are), or None without a deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


@dataclass(frozen=True)
class OperationMark:
    """What :func:`operation` notes on a method."""

    name: str
    summary: str
    collect: Callable[[list[Any]], Any] | None


@overload
def operation(name: Method, /) -> Method: ...


@overload
def operation(
    name: str | None = None, /, *, summary: str = "", collect: Callable[[list[Any]], Any] | None = None
) -> Callable[[Method], Method]: ...


def operation(name: Any = None, /, *, summary: str = "", collect: Callable[[list[Any]], Any] | None = None) -> Any:
    """Mark a method as an operation, by default under the method's own name.

    The method takes the request as its only argument, and ``call`` if it names
    it (:class:`CallInfo`). The types that it is annotated with (builtins,
    dataclasses, ``msgspec.Struct``) are checked, and shown as JSON Schema. It may be a
    function, which is then run in a thread, a coroutine function, or an async
    generator, which streams. ``collect`` makes one answer of a stream's pieces
    for a client that asked for no stream; the default is a list of them.
    """

    def mark(method: Method) -> Method:
        doc = (method.__doc__ or "").strip().partition("\n")[0]
        title = name if isinstance(name, str) else method.__name__
        setattr(method, OPERATION_ATTRIBUTE, OperationMark(title, summary or doc, collect))
        return method

    return mark(name) if callable(name) else mark
