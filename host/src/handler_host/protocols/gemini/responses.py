"""Types of the responses for clients of Gemini's API; :mod:`encoder` makes those of a chat. Pure."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from handler_host.config.model_info import ModelInfo
from handler_host.lifecycle.reports import HandlerStatus


class _Response(msgspec.Struct, kw_only=True, rename="camel"):
    """Base of responses: JSON leaves UNSET out."""


class FunctionCall(_Response, kw_only=True):
    """A whole call: Gemini does not send calls in parts."""

    id: str | UnsetType = UNSET
    name: str
    args: dict[str, Any]


class Part(_Response, kw_only=True):
    """A text, a thought or a call."""

    text: str | UnsetType = UNSET
    function_call: FunctionCall | UnsetType = UNSET
    thought: bool | UnsetType = UNSET
    thought_signature: str | UnsetType = UNSET


class Content(_Response, kw_only=True):
    """The parts of a response."""

    parts: list[Part]
    role: str = "model"


class LogprobsCandidate(_Response, kw_only=True):
    """A token and the logarithm of its probability."""

    token: str
    log_probability: float


class TopCandidates(_Response, kw_only=True):
    """The most probable tokens of one place."""

    candidates: list[LogprobsCandidate]


class LogprobsResult(_Response, kw_only=True):
    """Log probabilities of the tokens that were written, and of the most probable ones at their places."""

    chosen_candidates: list[LogprobsCandidate]
    top_candidates: list[TopCandidates]


class Web(_Response, kw_only=True):
    """A page."""

    uri: str
    title: str | UnsetType = UNSET


class RetrievedContext(_Response, kw_only=True):
    """A document."""

    title: str | UnsetType = UNSET
    text: str | UnsetType = UNSET


class GroundingChunk(_Response, kw_only=True):
    """A source of the text."""

    web: Web | UnsetType = UNSET
    retrieved_context: RetrievedContext | UnsetType = UNSET


class Segment(_Response, kw_only=True):
    """A place in the text, in bytes of UTF-8, with the text there unless it is long; the end is exclusive."""

    start_index: int
    end_index: int
    text: str | UnsetType = UNSET


class GroundingSupport(_Response, kw_only=True):
    """The sources of one segment, by their index."""

    segment: Segment
    grounding_chunk_indices: list[int]


class GroundingMetadata(_Response, kw_only=True):
    """The sources of the text."""

    grounding_chunks: list[GroundingChunk]
    grounding_supports: list[GroundingSupport]


class Candidate(_Response, kw_only=True):
    """A response of the model, or a part of it."""

    content: Content
    avg_logprobs: float | UnsetType = UNSET
    logprobs_result: LogprobsResult | UnsetType = UNSET
    grounding_metadata: GroundingMetadata | UnsetType = UNSET
    finish_reason: str | UnsetType = UNSET
    index: int = 0


class UsageMetadata(_Response, kw_only=True):
    """Token counts; those of the candidates are without the thoughts, those of the prompt with the cached ones."""

    prompt_token_count: int
    candidates_token_count: int
    total_token_count: int
    cached_content_token_count: int | UnsetType = UNSET
    thoughts_token_count: int | UnsetType = UNSET
    service_tier: str | UnsetType = UNSET


class GenerateContentResponse(_Response, kw_only=True):
    """A whole response, or a chunk of a stream."""

    candidates: list[Candidate]
    usage_metadata: UsageMetadata | UnsetType = UNSET
    model_version: str
    response_id: str


class CountTokensResponse(_Response, kw_only=True):
    """The token count of a request."""

    total_tokens: int


class Model(_Response, kw_only=True):
    """A handler, as a client of Gemini sees it."""

    name: str
    version: str
    display_name: str
    description: str
    supported_generation_methods: list[str]
    input_token_limit: int | UnsetType = UNSET
    output_token_limit: int | UnsetType = UNSET
    thinking: bool | UnsetType = UNSET


class ModelList(_Response, kw_only=True):
    """All models, on one page."""

    models: list[Model]


def model(status: HandlerStatus, name: str, title: str, methods: list[str], info: ModelInfo | None) -> Model:
    """Return a handler as a model, under the requested name."""
    info = info or ModelInfo()
    return Model(
        name=f"models/{name}",
        version=status.version,
        display_name=title,
        description=status.description,
        supported_generation_methods=methods,
        input_token_limit=UNSET if info.context_length is None else info.context_length,
        output_token_limit=UNSET if info.max_output_tokens is None else info.max_output_tokens,
        thinking="reasoning" in info.capabilities if info.capabilities else UNSET,
    )
