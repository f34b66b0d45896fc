"""Context of a handler: its configuration, secrets, log and data directory, and its way to other handlers."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handler_host.plugin import pending
from handler_host.plugin.errors import ConfigError
from handler_host.plugin.handler_client import DispatchMixin, DispatchTransport


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
class Context(DispatchMixin):
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
    _others: DispatchTransport | None = None

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
