"""OpenAI's embeddings, translated to and from ``handler_host.chat.embeddings``. Pure."""

from __future__ import annotations

import base64
import sys
from array import array
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from handler_host.chat.embeddings import EmbedRequest, EmbedResponse
from handler_host.protocols.body_decoder import BodyDecoder
from handler_host.protocols.embeddings import texts_of
from handler_host.protocols.fields import IgnoredFields


class EmbeddingsRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/embeddings``."""

    model: Annotated[str, Meta(min_length=1)]
    input: str | list[str | int | list[int]]
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None

    def to_embed(self) -> EmbedRequest:
        """Return the request for handlers."""
        return EmbedRequest(input=texts_of(self.input), dimensions=self.dimensions, user=self.user)


class Embedding(msgspec.Struct, kw_only=True):
    """One vector, as numbers or as base64 of 32-bit floats."""

    object: str = "embedding"
    index: int
    embedding: list[float] | str


class Usage(msgspec.Struct):
    """Token counts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(msgspec.Struct, kw_only=True):
    """A whole response; ``usage`` is left out if the provider counts none."""

    object: str = "list"
    data: list[Embedding]
    model: str
    usage: Usage | UnsetType = UNSET


def decode_embeddings(body: bytes, ignored: IgnoredFields | None = None) -> EmbeddingsRequest:
    """Return the request in ``body``; raises ``InvalidInput`` with the path to the field."""
    return _decoder.decode(body, ignored)


def embedding_list(request: EmbeddingsRequest, response: EmbedResponse) -> EmbeddingList:
    """Return the response in OpenAI's form."""
    encode = _base64 if request.encoding_format == "base64" else list
    tokens = response.input_tokens
    return EmbeddingList(
        data=[Embedding(index=index, embedding=encode(vector)) for index, vector in enumerate(response.embeddings)],
        model=request.model,
        usage=UNSET if tokens is None else Usage(tokens, tokens),
    )


def _base64(vector: list[float]) -> str:
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()


_decoder = BodyDecoder(EmbeddingsRequest)
