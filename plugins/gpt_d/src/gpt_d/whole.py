"""LiteLLM's plain answers as one piece, and what the provider itself has said in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from gpt_d.chunks import FINISH_REASONS, ended_by_gemini, usage_of
from handler_host.chat import (
    ChatChunk,
    FinishChunk,
    ModelChunk,
    RefusalChunk,
    TextChunk,
    ToolCallChunk,
    UsageChunk,
    raise_truncated,
)
from handler_host.plugin import HostError, UpstreamBadRequest, UpstreamError


class Heard:
    """The provider's own answer to a plain call, as LiteLLM shows it to a ``logger_fn``.

    LiteLLM gives an answer without a finish reason the reason "stop", hides a refusal
    in words, and calls an answer that it cannot read a bad request. It shows what
    it was sent before it does so, of each deployment behind a Router, too.
    """

    def __init__(self) -> None:
        self._response: Any = None

    def listener(self) -> Callable[[dict[str, Any]], None]:
        """Return what LiteLLM is given: a function, as a Router copies all else that a call has."""

        def listen(details: dict[str, Any]) -> None:
            # Each deployment that is asked begins with "pre_api_call".
            answered = details.get("log_event_type") == "post_api_call"
            self._response = details.get("original_response") if answered else None

        return listen

    def document(self) -> dict[str, Any]:
        """Return the JSON of the response; empty if it is invalid or LiteLLM did not pass it on."""
        try:
            found = json.loads(self._response) if isinstance(self._response, str) else self._response
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def told(self, error: HostError) -> HostError:
        """Return the error for a call on which LiteLLM has failed: if an answer had come, it could not read that."""
        document = self.document()
        if not document or type(error) not in (UpstreamError, UpstreamBadRequest):
            return error
        said = document.get("error")
        if not said:
            return UpstreamError("the provider sent an answer that has not the shape of one")
        message = str(said.get("message") if isinstance(said, dict) else said)
        # The status of a refusal that LiteLLM has read is the provider's, else one that it has made up.
        return error if message in error.message else UpstreamError(f"the provider answered with an error: {message}")


def chunks_of(response: Any, document: dict[str, Any]) -> list[ChatChunk]:
    """Return a whole response as chunks; ``document`` is the provider's own JSON, or empty if it is unknown.

    Raises ``UpstreamError`` for a response that was cut off.
    """
    if not response.choices or not _is_whole(document):
        raise_truncated()
    (choice, *_) = response.choices
    message, own = choice.message, _message(document)
    # The provider's own text, if it is at hand: of plain answers only, LiteLLM takes what stands in <think>.
    text = own.get("content")
    text = text if isinstance(text, str) and text else message.content or _filtered(document)
    model = document.get("model") or document.get("modelVersion")
    usage = usage_of(response)
    chunks: list[ChatChunk | None] = [
        ModelChunk(model=model) if model else None,
        TextChunk(text=text) if text else None,
        RefusalChunk(text=own["refusal"]) if own.get("refusal") else None,
        *(
            ToolCallChunk(index=index, id=call.id, name=call.function.name, arguments=call.function.arguments or "")
            for index, call in enumerate(message.tool_calls or ())
        ),
        FinishChunk(reason=FINISH_REASONS.get(choice.finish_reason, "stop")),
        UsageChunk(usage=usage) if usage is not None else None,
    ]
    return [chunk for chunk in chunks if chunk is not None]


def _is_whole(document: dict[str, Any]) -> bool:
    """Return whether the provider gave a finish reason; of an unknown protocol LiteLLM's view counts."""
    choices = document.get("choices")
    if isinstance(choices, list):
        return any(choice.get("finish_reason") or choice.get("finish_details") for choice in choices)
    if "stop_reason" in document:
        return bool(document["stop_reason"])
    return not {"candidates", "promptFeedback"} & document.keys() or ended_by_gemini(document)


def _message(document: dict[str, Any]) -> dict[str, Any]:
    """Return the first message of an answer in OpenAI's protocol."""
    choices = document.get("choices")
    found = choices[0].get("message") if isinstance(choices, list) and choices else None
    return found if isinstance(found, dict) else {}


def _filtered(document: dict[str, Any]) -> str:
    """Return the text that Gemini had written before its filter ended it: LiteLLM drops it."""
    parts = [
        part
        for candidate in (document.get("candidates") or ())[:1]
        for part in (candidate.get("content") or {}).get("parts") or ()
    ]
    return "".join(part.get("text") or "" for part in parts if not part.get("thought"))
