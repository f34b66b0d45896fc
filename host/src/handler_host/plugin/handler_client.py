"""How a handler asks other handlers: the methods of its context."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol

import msgspec

from handler_host.plugin.errors import HandlerFault


class DispatchTransport(Protocol):
    """The way to other handlers, through the host."""

    loop: asyncio.AbstractEventLoop

    async def ask(self, handler: str, operation: str, body: bytes, timeout: float | None) -> bytes:
        """Return the whole answer."""

    def stream(self, handler: str, operation: str, body: bytes, timeout: float | None) -> AsyncGenerator[bytes, None]:
        """Yield the pieces of the answer."""


class DispatchMixin:
    """What a context has for it."""

    _others: DispatchTransport | None

    async def dispatch(
        self,
        handler: str,
        operation: str,
        request: object = None,
        *,
        response_type: Any = Any,
        timeout: float | None = None,
    ) -> Any:
        """Let another handler run an operation, and return its answer.

        The host activates the handler if need be. ``request`` is anything that is JSON to
        msgspec; the answer is checked against the type ``response_type``. Within an operation
        the request's number, its deadline and its end go along: ``timeout``, in
        seconds, can only shorten it. What is not answered when the operation ends, is cancelled.

        Raises the :class:`handler_host.plugin.errors.HostError` that the other handler or the host
        answers with, its message begun with the handler's name; ``DispatchCycle`` for the handler itself
        and for those that wait for it; ``HandlerFault`` in ``activate`` and after the unload has begun.
        """
        body = msgspec.json.encode({} if request is None else request)
        return _decoded(handler, operation, await self._way().ask(handler, operation, body, timeout), response_type)

    async def dispatch_stream(
        self,
        handler: str,
        operation: str,
        request: object = None,
        *,
        chunk_type: Any = Any,
        timeout: float | None = None,
    ) -> AsyncGenerator[Any, None]:
        """Do the same for a stream, and yield its pieces, each of the type ``chunk_type``.

        ``timeout`` bounds the time to the first one. Close the iterator (:func:`contextlib.aclosing`) to
        leave before the end; the operation's own end does so, too.
        """
        body = msgspec.json.encode({} if request is None else request)
        async with aclosing(self._way().stream(handler, operation, body, timeout)) as chunks:
            async for data in chunks:
                yield _decoded(handler, operation, data, chunk_type)

    def dispatch_from_thread(
        self,
        handler: str,
        operation: str,
        request: object = None,
        *,
        response_type: Any = Any,
        timeout: float | None = None,
    ) -> Any:
        """Do the same as :meth:`dispatch` in an operation that is a plain function; blocks its thread."""
        loop = self._way().loop
        if asyncio._get_running_loop() is loop:
            raise RuntimeError("dispatch_from_thread() would block the event loop for ever; await dispatch()")
        work = self.dispatch(handler, operation, request, response_type=response_type, timeout=timeout)
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    def _way(self) -> DispatchTransport:
        if self._others is None:
            raise HandlerFault("there is no host here that could dispatch to other handlers")
        return self._others


def _decoded(handler: str, operation: str, data: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise HandlerFault(f"{handler} answered {operation} with what was not expected: {error}") from None
