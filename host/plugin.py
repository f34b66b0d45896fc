"""What plugin authors see: hooks, operations, context, call.

A handler is a class. Its *operations* are the methods marked with
:func:`operation`; a dispatch is a plain call of one of them. Its *hooks*
(pluggy, marked with :data:`hookimpl`) run when the worker starts and stops::

    from host.plugin import Context, hookimpl, operation

    class Clock:
        @hookimpl
        def activate(self, context: Context) -> None:
            self.zone = context.config.get("zone", "UTC")

        @operation("now")
        async def now(self, request: dict) -> dict:
            return {"zone": self.zone}

All of this runs in the worker; the host reads metadata only.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, overload

import pluggy

from host import pending
from host.errors import ConfigError
from host.others import Dispatching, Others

PROJECT = "handler_host"
"""The name under which pluggy knows this project's hooks."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a method of a handler as one of the hooks of :class:`HandlerHooks`."""

traceparent: contextvars.ContextVar[str | None] = contextvars.ContextVar("traceparent", default=None)
"""That of the dispatch which is being served."""

Method = TypeVar("Method", bound=Callable[..., Any])
OPERATION_ATTRIBUTE = "__handler_operation__"


class Secret:
    """A string that does not show itself in a ``repr``, a log or a traceback."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value. Hand it to the SDK, and to nothing that prints."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__


class _MadeOnDemand:
    """``Context.data_dir``: the path that the host has given, made a directory when it is first asked for."""

    def __get__(self, context: Context | None, owner: type | None = None) -> Path | None:
        if context is None:
            raise AttributeError("no default: the field is required")
        path: Path | None = context.__dict__["data_dir"]
        if path is not None:
            try:
                path.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                raise ConfigError(
                    f"data_dir: {str(path)!r} cannot be made: {error.strerror}; "
                    "choose a directory that the host may write to"
                ) from error
        return path

    def __set__(self, context: Context, path: Path | None) -> None:
        context.__dict__["data_dir"] = path


@dataclass(frozen=True, repr=False, eq=False)
class Context(Dispatching):
    """What a handler is given when it is activated."""

    handler: str
    generation: int
    config: Mapping[str, Any]
    """The handler's own keys of ``[handlers.NAME]``, with the manifest's defaults."""
    secrets: Mapping[str, Secret]
    """The declared secrets that are set; an optional one may be absent."""
    log: logging.Logger
    data_dir: _MadeOnDemand = _MadeOnDemand()
    """A directory of the handler's own (a ``Path``) that outlives workers, made when it is first asked for; None if
    the host has none. Raises ``ConfigError`` if it cannot be made."""
    _closers: list[Callable[[], object]] = field(default_factory=list)
    _others: Others | None = None

    def __repr__(self) -> str:
        return f"Context(handler={self.handler!r}, generation={self.generation})"

    def on_close(self, callback: Callable[[], Awaitable[object] | object]) -> None:
        """Run ``callback`` (a function or coroutine function) at deactivation, last one first."""
        self._closers.append(callback)

    def pending(self, count: int, *, wake_after: float = 60.0) -> None:
        """Tell the host how many things the handler has taken and not delivered yet.

        The host shows it in ``/health/ready``, and if there is no worker after
        ``wake_after`` seconds, it activates the handler again, as soon as there is
        memory for it without unloading another. The note is a small file in
        :attr:`data_dir`: it outlives the worker and the host, and may be written from
        any thread. 0 takes it back. Does nothing without a data directory.
        """
        if self.data_dir is not None:
            pending.write(self.data_dir, count, wake_after)

    async def close(self) -> None:
        """Run the callbacks of :meth:`on_close`; one that fails is logged and keeps none of the others back."""
        while self._closers:
            callback = self._closers.pop()
            try:
                result = callback()
                if inspect.isawaitable(result):
                    await result
            except BaseException as error:
                task = asyncio.current_task()
                if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                    raise  # its time is over
                self.log.exception("closing failed in %s", getattr(callback, "__qualname__", callback))


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
    ``host.upstream``."""

    def remaining(self) -> float | None:
        """Return the seconds that are left (0 if none are), or None without a deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


class HandlerHooks:
    """The hooks of a handler. Each is optional, may be a coroutine function, and takes only the arguments it names."""

    @hookspec
    def activate(self, context: Context) -> None:
        """Run once in a new worker, before the first dispatch: import the SDK, open the client."""

    @hookspec
    def deactivate(self, context: Context) -> None:
        """Run when the handler is unloaded, after the last dispatch: flush and close."""

    @hookspec
    def health(self, context: Context) -> None:
        """Raise if the handler cannot do its work."""


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
