"""Base class of chat handlers: one method to write."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import aclosing
from typing import ClassVar, NoReturn

from handler_host._internal.source_location import in_brackets, place_of
from handler_host.chat.call_ids import call_ids
from handler_host.chat.conversion import accumulate
from handler_host.chat.stream_repair import StreamRepair
from handler_host.chat.support import leave_out_unsupported
from handler_host.chat.types import ChatChunk, ChatRequest, FinishChunk, FinishReason, IgnoredChunk, TextChunk
from handler_host.chat.validation import tidy_schemas, validate_request
from handler_host.plugin.context import Context
from handler_host.plugin.errors import UpstreamError
from handler_host.plugin.hooks import hookimpl
from handler_host.plugin.operations import CallInfo, operation


class ChatHandler:
    """Base of a chat handler: write :meth:`stream`, and :meth:`open` if the handler has a client.

    The base class turns the chunks of :meth:`stream` into the operation ``chat``. It validates the request, adds the
    finish reason if none came, and accumulates the chunks for a client that takes no stream.

    A handler that can count the tokens of a request adds the operation ``count_tokens``, from a :class:`ChatRequest` to
    a :class:`TokenCount`.

    ``self.context`` is set before :meth:`open` runs.
    """

    supports: ClassVar[Collection[str]] = frozenset()
    """Optional fields that the handler uses, from :data:`handler_host.chat.support.OPTIONAL`; it gets no others."""
    lacks: ClassVar[Collection[str]] = frozenset()
    """Usual fields that the handler cannot use: hints of them are left out, others refused with the field's name."""
    provider: ClassVar[str] = "this handler"
    """Name of the provider in errors about such fields."""
    context: Context

    @hookimpl
    async def activate(self, context: Context) -> None:
        """Keep the context and open the client (the pluggy hook; override :meth:`open` instead)."""
        self.context = context
        if type(self).stream is ChatHandler.stream:
            place = in_brackets(place_of(type(self)))
            raise TypeError(f"{type(self).__name__}{place} has no stream; write `async def stream(self, request)`")
        if inspect.iscoroutinefunction(self.stream) or inspect.isgeneratorfunction(self.stream):
            raise TypeError(
                f"stream{in_brackets(place_of(self.stream))} is not an asynchronous generator; "
                "write `async def`, and `yield` its chunks"
            )
        self._stream_takes_call = "call" in inspect.signature(self.stream).parameters
        await self.open()

    async def open(self) -> None:
        """Import the SDK and make the client; register its ``close`` with ``self.context.on_close``."""

    def stream(self, request: ChatRequest) -> AsyncIterator[ChatChunk | str]:
        """Yield the response: a ``str`` is text, everything else a chunk.

        A parameter ``call`` receives the :class:`CallInfo` of the dispatch.
        """
        raise NotImplementedError(f"{type(self).__name__} must define stream(self, request)")

    @operation("chat", summary="Answer a chat, at once or as a stream.", collect=accumulate)
    async def chat(self, request: ChatRequest, call: CallInfo) -> AsyncIterator[ChatChunk]:
        """Run :meth:`stream`, and end it with a finish reason if it has none.

        Surrogate pairs that two chunks share are joined. A tool call without an ID, or with that of an earlier call,
        gets a new one.
        The fields that were left out come with the first chunk, not before it: until then the call can be retried,
        and go to a fallback.
        """
        tidy_schemas(request)
        validate_request(request)
        known_ids = call_ids(request)
        ignored = self.leave_out_unsupported(request)
        method: Callable[..., AsyncIterator[object]] = self.stream
        source = method(request, call=call) if self._stream_takes_call else method(request)
        repair = StreamRepair(known_ids)
        async with aclosing(source) as items:  # type: ignore[type-var]
            async for item in items:
                if isinstance(item, IgnoredChunk):
                    ignored += item.fields
                    continue
                if ignored:
                    yield IgnoredChunk(fields=list(dict.fromkeys(ignored)))
                    ignored = []
                if isinstance(item, str):
                    item = TextChunk(text=item)
                if isinstance(item, ChatChunk):
                    for chunk in repair.chunks(item):
                        yield chunk
                else:
                    place = in_brackets(place_of(self.stream))
                    raise TypeError(f"stream{place} yielded {reprlib.repr(item)}; yield a str or a chunk")
        for chunk in repair.last():
            yield chunk
        if ignored:
            yield IgnoredChunk(fields=list(dict.fromkeys(ignored)))
        for choice in repair.unfinished:
            yield FinishChunk(reason=self.on_missing_finish_reason(), choice=choice)

    def leave_out_unsupported(self, request: ChatRequest) -> list[str]:
        """Remove the fields that the handler lacks from ``request``, and return their names.

        Raises ``InvalidInput`` for a field that must be refused. A handler whose fields depend on the request's model
        overrides it.
        """
        return leave_out_unsupported(request, self.supports, self.lacks, provider=self.provider)

    def on_missing_finish_reason(self) -> FinishReason:
        """Return the finish reason of a stream that gave none: ``stop``.

        A handler on a provider's SDK overrides this with :func:`raise_truncated`: there a stream without a finish
        reason was cut off.
        """
        return "stop"


def raise_truncated() -> NoReturn:
    """Raise the error for a provider's response that ended without a finish reason."""
    raise UpstreamError("the provider's response was cut off: it ended without a finish reason")
