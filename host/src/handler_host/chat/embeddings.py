"""Types of the optional operation ``embed``: texts to vectors."""

from __future__ import annotations

from typing import Any

import msgspec

from handler_host.chat.parts import Model as _Model
from handler_host.plugin.errors import UpstreamError


class EmbedRequest(_Model):
    """The request of the operation ``embed``."""

    input: list[str]
    """Texts, at least one."""
    model: str | None = None
    dimensions: int | None = None
    """Length of each vector, for models with several; None: the model's own."""
    user: str | None = None


class EmbedResponse(_Model, omit_defaults=False):
    """The response of the operation ``embed``."""

    embeddings: list[list[float]]
    """One vector for each text, in the same order."""
    model: str | None = None
    input_tokens: int | None = None
    """Tokens of all texts, as the provider has counted them; None: it counts none."""


class _Vector(msgspec.Struct):
    embedding: list[float]
    index: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None


class _EmbeddingList(msgspec.Struct):
    data: list[_Vector]
    model: str | None = None
    usage: _Usage | None = None


def embedding_body(request: EmbedRequest, default_model: str) -> dict[str, Any]:
    """Return the body of a request for embeddings in OpenAI's protocol."""
    body = {
        "model": request.model or default_model,
        "input": request.input,
        "encoding_format": "float",
        "dimensions": request.dimensions,
        "user": request.user,
    }
    return {name: value for name, value in body.items() if value is not None}


def embed_response(document: Any) -> EmbedResponse:
    """Return the embeddings in a response of OpenAI's protocol, decoded from JSON; raises ``UpstreamError``."""
    try:
        response = msgspec.convert(document, _EmbeddingList)
    except msgspec.ValidationError as error:
        raise UpstreamError(f"the provider's embeddings are invalid: {error}") from error
    return EmbedResponse(
        embeddings=[vector.embedding for vector in sorted(response.data, key=lambda vector: vector.index)],
        model=response.model,
        input_tokens=response.usage.prompt_tokens if response.usage is not None else None,
    )
