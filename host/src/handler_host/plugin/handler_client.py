"""Handler client: the methods of a context that dispatch to other handlers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol

import msgspec

from handler_host.plugin.errors import HandlerFault


class DispatchTransport(Protocol):
    """Connection to other handlers, through the host."""

    loop: asyncio.AbstractEventLoop

    async def run(self, handler: str, operation: str, body: bytes, timeout: float | None, fallback: bool) -> bytes:
        """Return the whole response as JSON."""

    def stream(
        self, handler: str, operation: str, body: bytes, timeout: float | None, fallback: bool
    ) -> AsyncGenerator[bytes, None]:
        """Yield the chunks of the response, each as JSON."""


class DispatchMixin:
    """Dispatch methods of a context."""

    _transport: DispatchTransport | None

    async def dispatch(
        self,
        handler: str,
        operation: str,
        request: object = None,
        *,
        response_type: Any = Any,
        timeout: float | None = None,
        fallback: bool = True,
    ) -> Any:
        """Run an operation of another handler and return its response.

        The host treats it like a client's request: it activates the handler, retries after a crash where the manifest
        allows that, and counts it in the metrics.

        Args:
            handler: Name of the handler.
            operation: Name of its operation.
            request: Anything that msgspec encodes as JSON; None is ``{}``.
            response_type: Type that the response is checked against and converted to.
            timeout: Seconds. Within an operation it can only shorten the time that the operation has left.
            fallback: Whether the operator's fallbacks of ``handler`` are tried if it fails. They are by default, so
                that a handler's name means the same for clients and handlers; pass False if the response must come
                from ``handler`` itself.

        Within an operation the request ID and the trace go along, and the dispatch is cancelled when the operation
        ends.

        Raises:
            HostError: The error of the other handler or of the host; its message starts with the handler's name.
            DispatchCycle: ``handler`` is this handler, or waits for it.
            HandlerFault: In ``activate``, and after the unload has started.
        """
        body = msgspec.json.encode({} if request is None else request)
        response = await self._connected().run(handler, operation, body, timeout, fallback)
        return _decode(handler, operation, response, response_type)

    async def dispatch_stream(
        self,
        handler: str,
        operation: str,
        request: object = None,
        *,
        chunk_type: Any = Any,
        timeout: float | None = None,
        fallback: bool = True,
    ) -> AsyncGenerator[Any, None]:
        """Run an operation of another handler and yield the chunks of its response, each of the type ``chunk_type``.

        As :meth:`dispatch`; ``timeout`` limits the time to the first chunk, and fallbacks are tried only before it.
        Close the iterator (:func:`contextlib.aclosing`) to stop early; the end of the operation does so, too.
        """
        body = msgspec.json.encode({} if request is None else request)
        async with aclosing(self._connected().stream(handler, operation, body, timeout, fallback)) as chunks:
            async for data in chunks:
                yield _decode(handler, operation, data, chunk_type)

    def dispatch_from_thread(
        self,
        handler: str,
        operation: str,
        request: object = None,
        *,
        response_type: Any = Any,
        timeout: float | None = None,
        fallback: bool = True,
    ) -> Any:
        """Do the same as :meth:`dispatch` in an operation that is a plain function; blocks its thread."""
        loop = self._connected().loop
        if asyncio._get_running_loop() is loop:
            raise RuntimeError("dispatch_from_thread() would block the event loop; await dispatch() instead")
        work = self.dispatch(
            handler, operation, request, response_type=response_type, timeout=timeout, fallback=fallback
        )
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    def _connected(self) -> DispatchTransport:
        if self._transport is None:
            raise HandlerFault("cannot dispatch to other handlers: this context has no host")
        return self._transport


def _decode(handler: str, operation: str, data: bytes, expected_type: Any) -> Any:
    try:
        return msgspec.json.decode(data, type=expected_type)
    except msgspec.ValidationError as error:
        raise HandlerFault(f"{handler}: the response of {operation} has an unexpected type: {error}") from None
