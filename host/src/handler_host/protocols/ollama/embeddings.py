"""Ollama's embeddings, translated to and from ``handler_host.chat.embeddings``. Pure."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from handler_host.chat.embeddings import EmbedRequest, EmbedResponse
from handler_host.protocols.body_decoder import BodyDecoder
from handler_host.protocols.embeddings import texts_of
from handler_host.protocols.fields import Field, IgnoredFields, hint
from handler_host.protocols.ollama.requests import KeepAlive, keep_alive_seconds

_FIELDS: dict[str, Field] = {"truncate": hint(True), "options": hint()}


class EmbedBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /api/embed``."""

    model: Annotated[str, Meta(min_length=1)]
    input: str | list[str]
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    keep_alive: KeepAlive = None

    @property
    def keep_alive_s(self) -> float | None:
        """Seconds without a dispatch after which to unload the handler, as of :func:`keep_alive_seconds`."""
        return keep_alive_seconds(self.keep_alive)

    def to_embed(self) -> EmbedRequest:
        """Return the request for handlers."""
        return EmbedRequest(input=texts_of(self.input), dimensions=self.dimensions)


class Embeddings(msgspec.Struct, kw_only=True):
    """A whole response; durations are nanoseconds."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int | UnsetType = UNSET


def decode_embed(body: bytes, ignored: IgnoredFields | None = None) -> EmbedBody:
    """Return the body; raises ``InvalidInput`` with the path to the field."""
    return _decoder.decode(body, ignored)


def embeddings(model: str, response: EmbedResponse, *, total_s: float, load_s: float) -> Embeddings:
    """Return the response in Ollama's form."""
    tokens = response.input_tokens
    return Embeddings(
        model=model,
        embeddings=response.embeddings,
        total_duration=round(total_s * 1e9),
        load_duration=round(load_s * 1e9),
        prompt_eval_count=UNSET if tokens is None else tokens,
    )


_decoder = BodyDecoder(EmbedBody, fields=_FIELDS)
