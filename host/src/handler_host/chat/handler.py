"""The base of chat handlers: one request type, one piece type, one method to write.

A GPT variant is a class with one method::

    from handler_host.chat import ChatHandler, ChatRequest

    class Parrot(ChatHandler):
        async def stream(self, request: ChatRequest):
            for word in request.last_text().split():
                yield word + " "

What the method yields is a ``str`` (text) or a :class:`ChatChunk` (anything
else). The base class makes the ``chat`` operation of it: it counts what is
missing, keeps the finish reason right, and joins the pieces for a client that
asked for no stream.

A handler that can count the tokens of a request before it is answered adds the
operation ``count_tokens``, from a :class:`ChatRequest` to a :class:`TokenCount`.

The types are those of ``handler_host.chat.types``, and can be imported from here.
"""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

from handler_host._internal.source_location import in_brackets, place_of
from handler_host.chat.types import (
    ChatChunk,
    ChatRequest,
    FinishReason,
    accumulate,
)
from handler_host.chat.validation import validate_request
from handler_host.plugin.context import Context
from handler_host.plugin.errors import UpstreamError
from handler_host.plugin.hooks import hookimpl
from handler_host.plugin.operations import CallInfo, operation

_NOTHING = ChatChunk()


class ChatHandler:
    """Base of a chat handler: write :meth:`stream`, and :meth:`open` if there is a client to make.

    ``self.context`` is set before :meth:`open` runs.
    """

    context: Context

    @hookimpl
    async def activate(self, context: Context) -> None:
        """Keep the context and open the client (the pluggy hook; override :meth:`open` instead)."""
        self.context = context
        if type(self).stream is ChatHandler.stream:
            place = in_brackets(place_of(type(self)))
            raise TypeError(f"{type(self).__name__}{place} has no stream: write `async def stream(self, request)`")
        if inspect.iscoroutinefunction(self.stream) or inspect.isgeneratorfunction(self.stream):
            raise TypeError(
                f"stream{in_brackets(place_of(self.stream))} has to be `async def`, and to yield its pieces"
            )
        self._stream_takes_call = "call" in inspect.signature(self.stream).parameters
        await self.open()

    async def open(self) -> None:
        """Import the SDK and make the client; register what has to be closed with ``self.context.on_close``."""

    def stream(self, request: ChatRequest) -> AsyncIterator[ChatChunk | str]:
        """Yield the answer's pieces. Add a parameter ``call`` to be given the dispatch's :class:`CallInfo`."""
        raise NotImplementedError(f"{type(self).__name__} has to define stream(self, request)")

    @operation("chat", summary="Answer a chat, at once or as a stream.", collect=accumulate)
    async def chat(self, request: ChatRequest, call: CallInfo) -> AsyncIterator[ChatChunk]:
        """Run :meth:`stream` and see to it that the stream ends as a whole one does."""
        validate_request(request)
        method: Callable[..., AsyncIterator[object]] = self.stream
        source = method(request, call=call) if self._stream_takes_call else method(request)
        finished = False
        async with aclosing(source) as chunks:  # type: ignore[type-var]
            async for item in chunks:
                chunk = ChatChunk(text=item) if isinstance(item, str) else item
                if not isinstance(chunk, ChatChunk):
                    place = in_brackets(place_of(self.stream))
                    raise TypeError(f"stream{place} has yielded {reprlib.repr(item)}: yield a str or a ChatPiece")
                finished = finished or chunk.finish_reason is not None
                if chunk != _NOTHING:
                    yield chunk
        if not finished:
            yield ChatChunk(finish_reason=self.on_missing_finish_reason())

    def on_missing_finish_reason(self) -> FinishReason:
        """Say how a stream ended that gave no finish reason.

        Here: it simply ended, which is what a dozen-line handler does. A handler
        on a provider's SDK overrides this with :func:`cut_off`, for there a
        stream without a finish reason is one that was cut off on its way.
        """
        return "stop"


def raise_truncated() -> FinishReason:
    """Raise the error for a provider's answer that ended without a finish reason."""
    raise UpstreamError("the provider's answer ended without a finish reason: it was cut off on its way")
