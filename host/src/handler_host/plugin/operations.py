"""Operations of a handler: the methods that dispatches call."""

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
    """Details of the current dispatch; an operation receives them in a parameter named ``call``."""

    request_id: str
    operation: str
    streamed: bool
    """Whether the client receives a stream of chunks."""
    deadline: float | None
    """Deadline on the clock of :func:`time.monotonic`; None if the dispatch has none."""
    log: logging.LoggerAdapter[logging.Logger]
    traceparent: str | None = None
    """Trace of the dispatch (W3C Trace Context); :func:`handler_host.plugin.trace_headers` passes it to providers."""

    def remaining(self) -> float | None:
        """Return the seconds until the deadline, at least 0, or None without a deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


@dataclass(frozen=True)
class OperationMark:
    """Mark that :func:`operation` sets on a method."""

    name: str
    summary: str
    collect: Callable[[list[Any]], Any] | None
    native: bool = False
    """Whether it speaks a client's own protocol, see :func:`handler_host.plugin.native`."""


@overload
def operation(name: Method, /) -> Method: ...


@overload
def operation(
    name: str | None = None, /, *, summary: str = "", collect: Callable[[list[Any]], Any] | None = None
) -> Callable[[Method], Method]: ...


def operation(name: Any = None, /, *, summary: str = "", collect: Callable[[list[Any]], Any] | None = None) -> Any:
    """Mark a method as an operation, by default under the method's own name.

    The method receives the request as its only argument, and a :class:`CallInfo` if it has a parameter ``call``.
    Its annotated types (builtins, dataclasses, ``msgspec.Struct``) are checked, and published as JSON Schema.
    It may be a coroutine function, an async generator (which streams), or a function or generator (which run in
    a thread). ``collect`` combines the chunks of a stream into one response for a client that takes no stream;
    the default is the list of chunks.
    """

    def mark(method: Method) -> Method:
        doc = (method.__doc__ or "").strip().partition("\n")[0]
        title = name if isinstance(name, str) else method.__name__
        setattr(method, OPERATION_ATTRIBUTE, OperationMark(title, summary or doc, collect))
        return method

    return mark(name) if callable(name) else mark
