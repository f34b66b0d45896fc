"""Streams of native operations, written to the client as they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aiohttp import hdrs, web

from handler_host.channel.native_messages import ResponseHead
from handler_host.dispatch.dispatcher import ResponseStream
from handler_host.http.request_context import RequestContext
from handler_host.http.sse import KEEP_ALIVE, SseResponse
from handler_host.plugin.errors import HostError
from handler_host.protocols.native_events import EventRelay
from handler_host.protocols.native_usage import TailCounter


class NativeStream(SseResponse):
    """Provider's stream to one client."""

    def __init__(
        self,
        request: web.Request,
        context: RequestContext,
        head: ResponseHead,
        headers: Mapping[str, str],
        relay: EventRelay | None,
        comment: bytes = KEEP_ALIVE,
    ) -> None:
        super().__init__(request, context)
        self.comment = comment
        self.content_type = headers.get(hdrs.CONTENT_TYPE, "application/octet-stream")
        self._response.headers.update(headers)
        self._response.set_status(head.status)
        self._relay = relay

    async def write(self, data: bytes) -> None:
        """Write bytes; returns and raises as :meth:`SseResponse.send` does."""
        if data:
            await self._write(data)

    def may_comment(self) -> bool:
        """Return whether a comment may be sent now: between two events, and in no other form of a stream."""
        return self._relay is not None and self._relay.is_between_events()


async def relay_events(
    request: web.Request,
    context: RequestContext,
    stream: ResponseStream,
    head: ResponseHead,
    headers: Mapping[str, str],
    relay: EventRelay,
    failed: Callable[[Exception], list[bytes]],
    keep_alive: bytes,
) -> web.StreamResponse:
    """Write the events behind the head of ``stream``; return the response.

    ``failed`` returns the events for an error after the status was sent; ``keep_alive`` is the comment for a silence.
    """
    async with NativeStream(request, context, head, headers, relay, keep_alive) as response:
        try:
            chunks = stream.chunks[1:]
            while True:
                if chunks:
                    await response.write(relay.feed(b"".join(chunks)))
                chunks = await stream.read_chunks()
                if not chunks:
                    break
            await response.write(relay.last())
        except ConnectionError:
            raise  # the client has gone
        except Exception as error:  # noqa: BLE001 - the status is sent: any error becomes an event
            await response.write(relay.drop_incomplete())
            for event in failed(error):
                await response.send_events([event])
    return response.response


async def relay_bytes(
    request: web.Request,
    context: RequestContext,
    stream: ResponseStream,
    head: ResponseHead,
    headers: Mapping[str, str],
    tokens: TailCounter,
) -> web.StreamResponse:
    """Write a response that is not an event stream; an error cuts it off, as it would without the host.

    ``tokens`` reads all bytes.
    """
    async with NativeStream(request, context, head, headers, None) as response:
        try:
            chunks = stream.chunks[1:]
            while True:
                data = b"".join(chunks)
                tokens.feed(data)
                await response.write(data)
                chunks = await stream.read_chunks()
                if not chunks:
                    break
        except HostError as error:
            context.fail(error)  # else the log would have it as the client's disconnect
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError(f"the response was cut off: {error.code}") from None
    return response.response
