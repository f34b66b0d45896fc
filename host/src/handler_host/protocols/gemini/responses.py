"""What clients of Gemini's generateContent get, made of the types of ``handler_host.chat.types``. Pure."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from handler_host.chat import types as chat
from handler_host.lifecycle.reports import HandlerStatus
from handler_host.plugin.errors import HostError

STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""Google's word (google.rpc.Code) for a status; each other one is that of a wrong request."""
FINISHES = {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP", "content_filter": "SAFETY"}
NO_CALL = "MALFORMED_FUNCTION_CALL"
"""Google's reason for the end of an answer whose function call is none."""
_TYPE = "type.googleapis.com/google.rpc."


class _Answer(msgspec.Struct, kw_only=True, rename="camel"):
    """Base of what clients get: UNSET is left out."""


class FunctionCall(_Answer, kw_only=True):
    """A whole call: Gemini sends no parts of one."""

    id: str | UnsetType = UNSET
    name: str
    args: dict[str, Any]


class Part(_Answer, kw_only=True):
    """Text, or a call."""

    text: str | UnsetType = UNSET
    function_call: FunctionCall | UnsetType = UNSET


class Content(_Answer, kw_only=True):
    """What the model says."""

    parts: list[Part]
    role: str = "model"


class Candidate(_Answer, kw_only=True):
    """The one candidate."""

    content: Content
    finish_reason: str | UnsetType = UNSET
    index: int = 0


class UsageMetadata(_Answer, kw_only=True):
    """Tokens."""

    prompt_token_count: int
    candidates_token_count: int
    total_token_count: int


class GenerateContentResponse(_Answer, kw_only=True):
    """A whole answer, or a chunk of a stream."""

    candidates: list[Candidate]
    usage_metadata: UsageMetadata | UnsetType = UNSET
    model_version: str
    response_id: str


class CountTokensResponse(_Answer, kw_only=True):
    """The tokens of a request."""

    total_tokens: int


class Model(_Answer, kw_only=True):
    """A handler, as a client of Gemini sees it."""

    name: str
    version: str
    display_name: str
    description: str
    supported_generation_methods: list[str]


class ModelList(_Answer, kw_only=True):
    """All of them, on one page."""

    models: list[Model]


def model(status: HandlerStatus, name: str, methods: list[str]) -> Model:
    """Return a handler under the name that it was asked for."""
    return Model(
        name=f"models/{name}",
        version=status.version,
        display_name=status.title or status.name,
        description=status.description,
        supported_generation_methods=methods,
    )


def response(answer: chat.ChatResponse, *, number: str, model: str) -> GenerateContentResponse:
    """Return a whole answer. ``model`` is what was asked for, for a handler that does not say what answers."""
    maker = ChunkEncoder(number=number, model=model)
    maker.keep(answer.tool_calls or [])
    usage = answer.usage or UNSET
    last = maker.last_of(answer.finish_reason, usage if usage is not UNSET else None, answer.model)
    said = [Part(text=text) for text in (answer.text, answer.refusal) if text]
    last.candidates[0].content.parts[:0] = said
    return last


class ChunkEncoder:
    """Makes the chunks of one stream from the pieces of a handler."""

    def __init__(self, *, number: str, model: str) -> None:
        self._number = number
        self._model = model
        self._rest: list[chat.ChatChunk] = []
        self._calls: list[chat.ToolCall] = []

    def chunks(self, chunk: chat.ChatChunk) -> list[GenerateContentResponse]:
        """Return what to send for one piece: its text; all else comes at the end, where it is whole."""
        self._model = chunk.model or self._model
        text = (chunk.text or "") + (chunk.refusal or "")
        if chunk.tool_calls or chunk.finish_reason or chunk.usage:
            self._rest.append(
                chat.ChatChunk(tool_calls=chunk.tool_calls, finish_reason=chunk.finish_reason, usage=chunk.usage)
            )
        return [self._chunk([Part(text=text)])] if text else []

    def last(self) -> GenerateContentResponse:
        """Return what to send when the pieces have ended."""
        whole = chat.accumulate(self._rest)
        self.keep(whole.tool_calls or [])
        return self.last_of(whole.finish_reason, whole.usage, None)

    def keep(self, calls: list[chat.ToolCall]) -> None:
        """Keep calls for the last chunk."""
        self._calls = calls

    def last_of(self, reason: str, usage: chat.Usage | None, model: str | None) -> GenerateContentResponse:
        """Return the chunk that ends an answer for ``reason``."""
        self._model = model or self._model
        parts = [_called(call) for call in self._calls]
        made = self._chunk([part for part in parts if part is not None])
        made.candidates[0].finish_reason = FINISHES[reason] if None not in parts else NO_CALL
        if usage is not None:
            made.usage_metadata = UsageMetadata(
                prompt_token_count=usage.prompt_tokens,
                candidates_token_count=usage.completion_tokens,
                total_token_count=usage.total_tokens or usage.prompt_tokens + usage.completion_tokens,
            )
        return made

    def _chunk(self, parts: list[Part]) -> GenerateContentResponse:
        return GenerateContentResponse(
            candidates=[Candidate(content=Content(parts=parts))], model_version=self._model, response_id=self._number
        )


def _called(call: chat.ToolCall) -> Part | None:
    """Return a call as a part, or None if its arguments are no JSON object, as models' are now and then."""
    try:
        arguments = msgspec.json.decode(call.function.arguments or "{}", type=dict[str, Any])
    except msgspec.DecodeError:
        return None
    return Part(function_call=FunctionCall(id=call.id or UNSET, name=call.function.name, args=arguments))


def error_body(error: HostError, request_id: str) -> bytes:
    """Return the JSON of an error in Google's envelope, with its details in the types of google.rpc."""
    status = STATUSES.get(error.status) or ("INTERNAL" if error.status >= 500 else "INVALID_ARGUMENT")
    details: list[dict[str, Any]] = [
        {
            "@type": f"{_TYPE}ErrorInfo",
            "reason": error.code.upper(),
            "domain": "handler-host",
            "metadata": {"request_id": request_id},
        }
    ]
    if error.param is not None:
        violation = {"field": error.param, "description": error.message}
        details.append({"@type": f"{_TYPE}BadRequest", "fieldViolations": [violation]})
    if error.retry_after is not None:
        details.append({"@type": f"{_TYPE}RetryInfo", "retryDelay": f"{error.retry_after:.3f}s"})
    content = {"code": error.status, "message": error.message, "status": status, "details": details}
    return msgspec.json.encode({"error": content})
