"""Gemini's embeddings, translated to and from ``handler_host.chat.embeddings``. Pure."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from handler_host.chat.embeddings import EmbedRequest, EmbedResponse
from handler_host.plugin.errors import InvalidInput
from handler_host.protocols.body_decoder import BodyDecoder
from handler_host.protocols.embeddings import texts_of
from handler_host.protocols.fields import ECHO, Field, IgnoredFields, hint
from handler_host.protocols.gemini.requests import with_camel_names

_FIELDS: dict[str, Field] = {"taskType": hint("TASK_TYPE_UNSPECIFIED"), "title": hint(), "autoTruncate": hint(True)}


class _Request(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Base of all parts of a request."""


class TextPart(_Request):
    """A part of a content; only texts have embeddings here."""

    text: str


class TextContent(_Request):
    """Parts that make one text."""

    parts: list[TextPart]


class EmbedContentRequest(_Request):
    """The body of ``:embedContent``, and each of the requests of a batch."""

    content: TextContent
    output_dimensionality: Annotated[int, Meta(ge=1)] | None = None


class BatchRequest(_Request):
    """The body of ``:batchEmbedContents``."""

    requests: list[EmbedContentRequest]


class Values(msgspec.Struct):
    """One vector."""

    values: list[float]


class EmbeddingResponse(msgspec.Struct, kw_only=True):
    """A whole response: one vector, or those of a batch."""

    embedding: Values | UnsetType = UNSET
    embeddings: list[Values] | UnsetType = UNSET


def decode_embedding(body: bytes, ignored: IgnoredFields | None = None) -> EmbedRequest:
    """Return the request for handlers in a body of ``:embedContent``; raises ``InvalidInput``."""
    request = _decoder.decode(body, ignored)
    return EmbedRequest(input=texts_of(_text(request), "content"), dimensions=request.output_dimensionality)


def decode_batch(body: bytes, ignored: IgnoredFields | None = None) -> EmbedRequest:
    """Return the request for handlers in a body of ``:batchEmbedContents``; raises ``InvalidInput``."""
    requests = _batch_decoder.decode(body, ignored).requests
    dimensions = {request.output_dimensionality for request in requests}
    if len(dimensions) > 1:
        place = "requests[].outputDimensionality"
        raise InvalidInput(f"{place} must be the same for all requests of a batch", param=place)
    texts = texts_of([_text(request) for request in requests], "requests")
    return EmbedRequest(input=texts, dimensions=next(iter(dimensions), None))


def embedding_response(response: EmbedResponse, *, is_batch: bool) -> EmbeddingResponse:
    """Return the response in Gemini's form."""
    vectors = [Values(vector) for vector in response.embeddings]
    return EmbeddingResponse(embeddings=vectors) if is_batch else EmbeddingResponse(embedding=vectors[0])


def _text(request: EmbedContentRequest) -> str:
    return "".join(part.text for part in request.content.parts)


_single = {"model": ECHO, "content.role": ECHO, **_FIELDS}
_decoder = BodyDecoder(EmbedContentRequest, fields=_single, rename=with_camel_names)
_batch_decoder = BodyDecoder(
    BatchRequest,
    fields={"model": ECHO, **{f"requests[].{name}": field for name, field in _single.items()}},
    rename=with_camel_names,
)
