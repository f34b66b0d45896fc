"""Native routes: list the handlers, show one, run an operation.

An operation responds with JSON, or with server-sent events if the client accepts ``text/event-stream``.
"""

from __future__ import annotations

from aiohttp import hdrs, web

from handler_host.dispatch.chat_tokens import CHAT, ChatTokens
from handler_host.dispatch.dispatcher import Dispatcher
from handler_host.dispatch.request import Request
from handler_host.http import request_context
from handler_host.http.body import BodyReader
from handler_host.http.errors import error_body, to_host_error
from handler_host.http.request_context import RequestContext
from handler_host.http.responses import JSON_HEADERS, json_response
from handler_host.http.sse import EVENT_STREAM, SseResponse, event

END = event(b"{}", "end")
"""Last event of a stream without an error."""


class NativeRoutes:
    """Routes of the host's own API."""

    def __init__(self, dispatcher: Dispatcher, bodies: BodyReader) -> None:
        self._dispatcher = dispatcher
        self._bodies = bodies

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            # The most frequent one first: aiohttp tries the routes of one prefix in this order.
            web.post("/v1/handlers/{name}/{operation}", self.dispatch),
            web.get("/v1/handlers", self.list_handlers),
            web.get("/v1/handlers/{name}", self.show_handler),
        ]

    async def list_handlers(self, request: web.Request) -> web.StreamResponse:
        """List all handlers that the key may use, active or not."""
        consumer = request_context.current.get().consumer
        return json_response({"handlers": self._dispatcher.directory.statuses(consumer)})

    async def show_handler(self, request: web.Request) -> web.StreamResponse:
        """Show one handler."""
        consumer = request_context.current.get().consumer
        return json_response(self._dispatcher.directory.status(request.match_info["name"], consumer))

    async def dispatch(self, request: web.Request) -> web.StreamResponse:
        """Run an operation: JSON in, JSON or a stream of events out."""
        context = request_context.current.get()
        body = await self._bodies.read_json(request)
        dispatch = Request(
            handler=request.match_info["name"],
            operation=request.match_info["operation"],
            body=body,
            caller=context.caller(),
            deadline=self._dispatcher.new_deadline(),
        )
        if EVENT_STREAM in request.headers.get(hdrs.ACCEPT, ""):
            return await self._stream(request, dispatch)
        response = await self._dispatcher.run(dispatch)
        if dispatch.operation == CHAT:
            tokens = ChatTokens()
            tokens.read(response)
            self._count(context, tokens)
        return web.Response(body=response, headers=JSON_HEADERS)

    async def _stream(self, request: web.Request, dispatch: Request) -> web.StreamResponse:
        context = request_context.current.get()
        async with self._dispatcher.stream(dispatch) as stream:
            tokens = ChatTokens() if dispatch.operation == CHAT else None
            async with SseResponse(request, context) as events:
                try:
                    chunks = stream.chunks
                    while chunks:
                        if tokens is not None:
                            for chunk in chunks:
                                tokens.read(chunk)
                        await events.send(chunks)
                        chunks = await stream.read_chunks()
                except ConnectionError:
                    raise  # the client has gone
                except Exception as error:  # noqa: BLE001 - the status is sent: any error becomes an event
                    body = error_body(context.fail(to_host_error(error, context)), context.request_id)
                    await events.send_events([event(body, "error")])
                else:
                    await events.send_events([END])
                finally:
                    if tokens is not None:
                        self._count(context, tokens)
            return events.response

    def _count(self, context: RequestContext, tokens: ChatTokens) -> None:
        """Count the tokens of a chat for the handler that has responded."""
        if tokens.tokens and context.handler is not None:
            self._dispatcher.count_tokens(context.caller(), context.handler, tokens.model, tokens.tokens)
