"""Embedding service: runs the typed operation ``embed`` of a handler, for all protocols.

A handler that speaks the client's protocol natively never gets here.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from handler_host.chat.embeddings import EmbedRequest, EmbedResponse
from handler_host.dispatch.request import Request
from handler_host.http import request_context
from handler_host.plugin.errors import HandlerFault, InvalidInput, UnknownHandler, UnknownOperation
from handler_host.protocols.chat_service import MAX_MODEL, ChatService
from handler_host.protocols.fields import IgnoredFields

EMBED = "embed"
"""Operation that computes embeddings; optional."""
_decode = msgspec.json.Decoder(EmbedResponse).decode


def texts_of(value: str | Sequence[object], field: str = "input") -> list[str]:
    """Return the texts of a field; raises ``InvalidInput`` for tokens, an empty list and an empty text."""
    texts: Sequence[object] = [value] if isinstance(value, str) else value
    for number, text in enumerate(texts):
        place = field if isinstance(value, str) else f"{field}[{number}]"
        if not isinstance(text, str):
            raise InvalidInput(f"{place}: tokens are not supported; send texts", param=place)
        if not text:
            raise InvalidInput(f"{place}: an empty text has no embedding; leave it out", param=place)
    if not texts:
        raise InvalidInput(f"{field} is empty; send at least one text", param=field)
    return [text for text in texts if isinstance(text, str)]


def check_handler(chats: ChatService, model: str) -> None:
    """Raise ``ModelNotFound`` if the handler of a model is known to compute no embeddings, whatever the body has."""
    listed = chats.find(model)
    if not listed.has_operation(EMBED):
        error = UnknownOperation(f"handler {listed.handler.name!r} has no operation {EMBED}")
        raise chats.not_found(model, chats.dispatcher.models.resolve(model), error)


async def embed(chats: ChatService, model: str, request: EmbedRequest, ignored: IgnoredFields) -> EmbedResponse:
    """Return the embeddings of a model's handler; raises ``ModelNotFound`` for a handler that computes none."""
    context = request_context.current.get()
    context.model = model[:MAX_MODEL]
    context.ignored_fields = ignored.names
    dispatcher = chats.dispatcher
    target = dispatcher.models.resolve(model)
    request.model = target.model
    dispatch = Request(
        handler=target.handler,
        operation=EMBED,
        body=msgspec.json.encode(request),
        caller=context.caller(),
        deadline=chats.deadline(),
        fallback=False,  # vectors of another model cannot be compared with its own
    )
    try:
        data = await dispatcher.run(dispatch)
    except (UnknownHandler, UnknownOperation) as error:
        raise chats.not_found(model, target, error) from None
    try:
        response = _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise HandlerFault(f"the handler's response is invalid: {error}") from None
    if len(response.embeddings) != len(request.input):
        raise HandlerFault(f"{len(response.embeddings)} embeddings for {len(request.input)} texts")
    if response.input_tokens and context.handler is not None:
        tokens = {"input": response.input_tokens}
        dispatcher.count_tokens(context.caller(), context.handler, response.model, tokens)
    return response
