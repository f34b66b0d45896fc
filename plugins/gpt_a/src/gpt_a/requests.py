"""The route and the body of a request, by the rules of OpenAI's models. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from gpt_a.native import COMPLETIONS, RESPONSES
from gpt_a.responses_body import is_own_reasoning, response_body
from handler_host.chat import (
    TOOL_MEDIA,
    AssistantMessage,
    AudioPart,
    ChatRequest,
    FilePart,
    ReasoningOptions,
    ReasoningPart,
    UserMessage,
    completion_body,
    fit_call_ids,
    flatten_tool_schemas,
)
from handler_host.plugin import InvalidInput, UpstreamBadRequest

SUMMARY = "reasoning.summary"
REASONING = "messages[].reasoning"
REASONING_FIELDS = ("reasoning_content", "reasoning_details", "reasoning")
"""Fields in which compatible servers have the reasoning of a message."""
RESPONSES_SUPPORTS = frozenset({TOOL_MEDIA})
"""Fields that OpenAI takes in its Responses API only."""
_NOT_IN_RESPONSES = ("stop", "logit_bias", "logprobs", "top_logprobs", "presence_penalty", "frequency_penalty")
RESPONSES_LACKS = frozenset(
    {
        *_NOT_IN_RESPONSES,
        *("n", "messages[].content[].input_audio"),
        *("messages[].name", "messages[].tool_calls[].signature", "seed"),
    }
)
"""Fields that OpenAI takes in its chat completions only."""
_REASONS = re.compile(r"(?:.*/)?+(?:gpt-(?:[5-9]|\d\d)|o\d)(?!.*-chat)")
"""Models of OpenAI that reason: they take ``max_completion_tokens`` only, and no sampling options."""
_REASONS_OPTIONALLY = re.compile(r"(?:.*/)?+gpt-(?:5\.[1-9]|[6-9]|\d\d)")
"""Models of OpenAI that take the effort ``none``."""
_NO_REASONING_WITH_TOOLS = re.compile(r"(?:.*/)?+gpt-(?:5\.(?:[4-9]|\d\d)|[6-9]|1\d)(?!.*-chat)")
"""Models to which OpenAI's chat completions give functions at the effort ``none`` only, and some reason by default.

Its Responses API gives them functions at any effort.

"Function tools with reasoning_effort are not supported for gpt-5.4 in /v1/chat/completions": openai/openai-openapi#541.
"""
_RESPONSES_ONLY = re.compile(r"(?:.*/)?+(?:codex-|(?:gpt-(?:[5-9]|\d\d)|o\d).*-(?:codex|pro)(?![a-z]))")
"""Models that OpenAI has in its Responses API only."""
_NEVER_REASONS = re.compile(r"(?:.*/)?+(?:chatgpt-|gpt-[34])")
CALL_ID = re.compile(".{1,40}", re.DOTALL)
"""ID of a tool call in OpenAI's chat completions; its Responses API takes longer ones."""
MIN_OUTPUT_TOKENS = 16
"""Least limit of a response that OpenAI takes in its Responses API."""
_EFFORTS = {"max": "xhigh"}
"""Words of other providers for an effort."""


class Body(NamedTuple):
    """The route and the body of a request, and the fields of the chat that it leaves out."""

    path: str
    content: dict[str, Any]
    ignored: list[str]

    def leave_out_summary(self) -> bool:
        """Remove the option for summaries of the reasoning; return whether the body has had it."""
        if self.content.get("reasoning", {}).pop("summary", None) is None:
            return False
        self.ignored.append(SUMMARY)
        return True

    def leave_out_refused(self, refusal: UpstreamBadRequest) -> str | None:
        """Remove the hint that the provider refuses, if it is one; return its name."""
        if refusal.param == SUMMARY:
            return SUMMARY if self.leave_out_summary() else None
        # Groq, of its models that do not reason: "property 'reasoning' is unsupported".
        fields = [name for name in REASONING_FIELDS if re.search(rf"\b{name}\b", refusal.message)]
        messages = self.content.get("messages", ())
        removed = [message.pop(name) for message in messages for name in fields if name in message]
        return REASONING if removed else None


def route_of(request: ChatRequest, model: str, *, is_openai: bool) -> str:
    """Return the path for a request: chat completions, except where OpenAI has the model, or tools, in another API.

    A request that reasons beside tools and has a field of chat completions only stays there, without reasoning.
    """
    if is_openai and _RESPONSES_ONLY.match(model):
        return RESPONSES
    options = request.reasoning
    reasons = options is not None and not options.is_off and options != ReasoningOptions()
    if not (reasons and _has_tools_without_reasoning(request, model, is_openai=is_openai)):
        return COMPLETIONS
    has_demand = (request.n or 1) > 1 or any(getattr(request, name) for name in _NOT_IN_RESPONSES)
    has_recording = any(isinstance(part, AudioPart) for _, part in _user_parts(request))
    return COMPLETIONS if has_demand or has_recording else RESPONSES


def request_body(request: ChatRequest, model: str, *, is_openai: bool, source: str | None = None) -> Body:
    """Return the body for ``model``; ``is_openai``: the server is OpenAI's own, not a compatible one.

    ``source`` is the format of a compatible server's reasoning.
    """
    path = route_of(request, model, is_openai=is_openai)
    ignored = _adapt_reasoning(request, model, path, is_openai=is_openai)
    if is_openai:
        ignored += flatten_tool_schemas(request)
        fit_call_ids(request, CALL_ID)
    messages = [message for message in request.messages if isinstance(message, AssistantMessage)]
    if not all(_goes_back(part, path, source) for message in messages for part in message.reasoning or ()):
        ignored.append(REASONING)
    if path == RESPONSES or _REASONS.match(model):
        for name in ("temperature", "top_p"):
            if getattr(request, name) not in (None, 1):
                ignored.append(name)
            setattr(request, name, None)
    if path == RESPONSES:
        if request.max_tokens is not None and request.max_tokens < MIN_OUTPUT_TOKENS:
            request.max_tokens = MIN_OUTPUT_TOKENS
            ignored.append("max_tokens")
        return Body(path, response_body(request, model), ignored)
    _check_files(request)
    if request.max_tokens is not None and (is_openai or _REASONS.match(model)):
        request.max_completion_tokens = request.max_tokens
    body = {**completion_body(request, source=source), "model": model}
    if is_openai:
        # Gemini's signatures, after a fallback or a change of the model.
        calls = [call for message in body["messages"] for call in message.get("tool_calls") or ()]
        signatures = [call.pop("extra_content", None) for call in calls]
        if any(signatures):
            ignored.append("messages[].tool_calls[].signature")
    return Body(path, body, ignored)


def _goes_back(part: ReasoningPart, path: str, source: str | None) -> bool:
    """Return whether the server gets a reasoning of an earlier response: it has made it."""
    return is_own_reasoning(part) if path == RESPONSES else source is not None and part.format == source


def _has_tools_without_reasoning(request: ChatRequest, model: str, *, is_openai: bool) -> bool:
    return is_openai and bool(request.tools) and _NO_REASONING_WITH_TOOLS.match(model) is not None


def _adapt_reasoning(request: ChatRequest, model: str, path: str, *, is_openai: bool) -> list[str]:
    """Set the effort that the model takes; return the names of the fields that it does not take."""
    options = request.reasoning
    if path == COMPLETIONS and _has_tools_without_reasoning(request, model, is_openai=is_openai):
        request.reasoning = ReasoningOptions(effort="none")
        return [] if options is None or options.is_off or options == ReasoningOptions() else ["reasoning"]
    if options is None:
        return []
    request.reasoning = None
    if _NEVER_REASONS.match(model):
        return [] if options.is_off else ["reasoning"]
    if options.effort == "minimal" and _REASONS_OPTIONALLY.match(model):
        options.effort = "low"  # they take "none" in its place
    if options.is_off:
        effort = "minimal" if _REASONS.match(model) else options.effort
        options.effort = "none" if _REASONS_OPTIONALLY.match(model) else effort
    elif options.effort is None:
        if not _REASONS.match(model):
            return ["reasoning"] if options.budget_tokens is not None else []
        if options.is_unmeasured and _REASONS_OPTIONALLY.match(model):
            options.effort = "medium"  # such models do not reason unasked, as the client's own model does
        options.effort = options.effort_or_budget
    if options.effort is not None:
        options.effort = _EFFORTS.get(options.effort, options.effort)
        request.reasoning = options
    # OpenAI's chat completions never show the reasoning; compatible servers do so unasked.
    hides_summary = is_openai and path == COMPLETIONS and options.summary is not None and not options.is_off
    return [SUMMARY] if hides_summary else []


def _check_files(request: ChatRequest) -> None:
    """Raise ``InvalidInput`` for documents by URL: chat completions take data only."""
    for place, part in _user_parts(request):
        if isinstance(part, FilePart) and not part.file.url.startswith("data:"):
            field = f"{place}.file.url"
            raise InvalidInput(
                f"{field}: OpenAI's chat completions fetch no documents; send the document as a data: URL",
                param=field,
            )


def _user_parts(request: ChatRequest) -> Iterator[tuple[str, Any]]:
    """Yield the path and each part of the user's messages."""
    for number, message in enumerate(request.messages):
        if isinstance(message, UserMessage) and not isinstance(message.content, str):
            for index, part in enumerate(message.content):
                yield f"messages[{number}].content[{index}]", part
