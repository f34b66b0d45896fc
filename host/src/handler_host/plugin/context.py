"""Context of a handler: its configuration, secrets, log, data directory, and calls to other handlers."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from handler_host.plugin import pending
from handler_host.plugin.errors import ConfigError
from handler_host.plugin.handler_client import DispatchMixin, DispatchTransport

Value = TypeVar("Value")


class MissingDeclaration(ConfigError, KeyError):
    """A handler reads a secret or a setting that has no value; the message says what to declare."""

    def __str__(self) -> str:
        return self.message


class DeclaredValues(dict[str, Value]):
    """Values that the manifest declares; reading another one raises :class:`MissingDeclaration`."""

    def __init__(self, section: str, values: Mapping[str, Value]) -> None:
        super().__init__(values)
        self._section = section

    def __missing__(self, key: str) -> Value:
        kind, remedy = {
            "secrets": ("secret", "and set the environment variable"),
            "config": ("setting", "with a default, or set it"),
        }[self._section]
        raise MissingDeclaration(
            f"{kind} {key!r} has no value; declare [{self._section}.{key}] in handler.toml, {remedy}; "
            f"read an optional one with context.{self._section}.get({key!r})"
        )


class Secret:
    """A string that is hidden in a ``repr``, a log and a traceback."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value. Pass it to the SDK only, and never to a function that prints or logs."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__


@dataclass(frozen=True, repr=False, eq=False)
class Context(DispatchMixin):
    """Access of a handler to its settings and to the host; the hooks receive it."""

    handler: str
    generation: int
    config: Mapping[str, Any]
    """The handler's own keys of ``[handlers.NAME]``, with the manifest's defaults.

    A key without a value raises ``ConfigError`` with the declaration to add; ``get`` returns None.
    """
    secrets: Mapping[str, Secret]
    """The declared secrets that are set; an optional one may be missing.

    A missing one raises ``ConfigError`` with the declaration to add; ``get`` returns None.
    """
    log: logging.Logger
    _data_dir: Path | None = None
    _closers: list[Callable[[], object]] = field(default_factory=list)
    _transport: DispatchTransport | None = None

    def __post_init__(self) -> None:
        # The class is frozen.
        object.__setattr__(self, "config", DeclaredValues("config", self.config))
        object.__setattr__(self, "secrets", DeclaredValues("secrets", self.secrets))

    def __repr__(self) -> str:
        return f"Context(handler={self.handler!r}, generation={self.generation})"

    @property
    def data_dir(self) -> Path | None:
        """The handler's own directory, which outlives its workers; None if the host has no data directory.

        Same as :meth:`ensure_data_dir`: the directory exists after the first access.
        """
        return self.ensure_data_dir()

    def ensure_data_dir(self) -> Path | None:
        """Create the handler's own directory if it is missing, and return it; None if the host has no data directory.

        Raises ``ConfigError`` if it cannot be created.
        """
        path = self._data_dir
        if path is not None:
            try:
                path.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                raise ConfigError(
                    f"data_dir: {str(path)!r} cannot be created: {error.strerror}; "
                    "choose a directory that the host may write to"
                ) from error
        return path

    def on_close(self, callback: Callable[[], Awaitable[object] | object]) -> None:
        """Run ``callback`` (a function or coroutine function) at deactivation, in reverse order of registration."""
        self._closers.append(callback)

    def pending(self, count: int, *, wake_after: float = 60.0) -> None:
        """Report how many items the handler has accepted and not delivered yet; 0 withdraws the report.

        The host shows the count in ``/health/ready``. If the handler has no worker after ``wake_after`` seconds,
        the host activates it again, as soon as there is memory for it without unloading another handler.
        The report is a small file in :attr:`data_dir`: it outlives the worker, the host and a crash of the
        machine. The call waits until it is on disk, and may come from any thread. Has no effect without a
        data directory.
        """
        directory = self.ensure_data_dir()
        if directory is not None:
            pending.write(directory, count, wake_after)

    async def close(self) -> list[BaseException]:
        """Run the callbacks of :meth:`on_close`; one that fails is logged, and the others still run.

        Return the exceptions of those that failed.
        """
        failures: list[BaseException] = []
        while self._closers:
            callback = self._closers.pop()
            try:
                result = callback()
                if inspect.isawaitable(result):
                    await result
            except BaseException as error:
                task = asyncio.current_task()
                if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                    raise  # the time for deactivation is over
                self.log.exception("closing failed in %s", getattr(callback, "__qualname__", callback))
                failures.append(error)
        return failures
