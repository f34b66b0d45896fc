"""LiteLLM's plain answers as one piece, and what the provider itself has said in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from gpt_d.chunks import add_annotations, finish_of, gemini_reason
from handler_host.chat import ChatChunk, CompletionDecoder, FinishChunk, raise_truncated
from handler_host.plugin import HostError, UpstreamBadRequest, UpstreamError, error_from_document, find_error


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
            document = json.loads(self._response) if isinstance(self._response, str) else self._response
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}

    def error_of(self, error: HostError) -> HostError:
        """Return the error for a call on which LiteLLM failed: if a response had come, LiteLLM could not read it."""
        document = self.document()
        if not document or type(error) not in (UpstreamError, UpstreamBadRequest):
            return error
        # LiteLLM shows the fields that it expected and did not find, too.
        own = find_error({name: value for name, value in document.items() if value is not None})
        if own is None:
            start = json.dumps(document, default=str)[:200]
            return UpstreamError(f"the provider sent a response of another shape: {start}")
        # The status of a refusal that LiteLLM has read is the provider's; any other is made up.
        if error.message.endswith(own.message):
            return error
        return error_from_document(document, content_type="application/json")


def decode_document(document: dict[str, Any], body: Mapping[str, Any]) -> list[ChatChunk] | None:
    """Return the provider's own response as chunks if it is in OpenAI's form and not an error, else None.

    ``body`` is that of the request.

    Raises ``UpstreamError`` for a response that was cut off.
    """
    if not isinstance(document.get("choices"), list) or not document["choices"] or document.get("error"):
        return None
    chunks = _decode(document, body)
    if any(isinstance(chunk, FinishChunk) for chunk in chunks):
        return chunks
    if not _is_whole(document):
        raise_truncated()
    return [*chunks, FinishChunk(reason="stop")]


def chunks_of(response: Any, document: dict[str, Any], body: Mapping[str, Any]) -> list[ChatChunk]:
    """Return a whole response as chunks; ``document`` is the provider's own JSON, or empty if it is unknown.

    ``body`` is that of the request.

    Raises ``UpstreamError`` for a response that was cut off.
    """
    # The provider's own JSON, if it is at hand: LiteLLM removes what stands in <think>, and lacks refusals.
    chunks = decode_document(document, body)
    if chunks is not None:
        return chunks
    if not response.choices or not _is_whole(document):
        raise_truncated()
    whole = response.model_dump(exclude_none=True)
    whole["model"] = document.get("model") or document.get("modelVersion")
    first = whole["choices"][0]
    first["message"]["content"] = first["message"].get("content") or _filtered(document)
    for choice in whole["choices"]:
        add_annotations(choice["message"])
    for choice, reason in zip(whole["choices"], _finish_reasons(document), strict=False):
        choice["finish_reason"] = finish_of(reason, choice.get("finish_reason"))
    # Anthropic's own field, which LiteLLM drops, as the field of vLLM.
    first["stop_reason"] = document.get("stop_sequence")
    return _decode(whole, body)


def _decode(document: dict[str, Any], body: Mapping[str, Any]) -> list[ChatChunk]:
    decoder = CompletionDecoder(stop=body.get("stop") or (), choices=body.get("n"))
    return [*decoder.chunks(document), *decoder.last()]


def _finish_reasons(document: dict[str, Any]) -> list[Any]:
    """Return the finish reasons of Anthropic or Gemini: LiteLLM calls each one "stop" that it does not know."""
    if "stop_reason" in document:
        return [document["stop_reason"]]
    return [candidate.get("finishReason") for candidate in document.get("candidates") or ()]


def _is_whole(document: dict[str, Any]) -> bool:
    """Return whether the provider gave a finish reason; of an unknown protocol LiteLLM's view counts."""
    choices = document.get("choices")
    if isinstance(choices, list):
        return any(choice.get("finish_reason") or choice.get("finish_details") for choice in choices)
    if "stop_reason" in document:
        return bool(document["stop_reason"])
    return not {"candidates", "promptFeedback"} & document.keys() or gemini_reason(document) is not None


def _filtered(document: dict[str, Any]) -> str:
    """Return the text that Gemini had written before its filter ended it: LiteLLM drops it."""
    parts = [
        part
        for candidate in (document.get("candidates") or ())[:1]
        for part in (candidate.get("content") or {}).get("parts") or ()
    ]
    return "".join(part.get("text") or "" for part in parts if not part.get("thought"))
