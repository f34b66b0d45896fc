"""Fields of a chat request that a handler may lack: left out and named, or refused.

A handler names the optional fields that it uses in ``ChatHandler.supports``, and the usual fields that it cannot use
in ``ChatHandler.lacks``; the base class calls :func:`leave_out_unsupported` before ``stream``. Each field is a hint or
a demand: a hint changes the quality or the cost of a response, a demand changes what the response is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from handler_host.chat.types import (
    AssistantMessage,
    AudioPart,
    ChatRequest,
    FilePart,
    ImagePart,
    Message,
    ReasoningOptions,
    TextPart,
    ToolMessage,
    UserMessage,
)
from handler_host.plugin.errors import InvalidInput

HINTS: dict[str, str] = {
    "reasoning": "effort, budget and summary of the reasoning",
    "verbosity": "length of the response",
    "top_k": "sampling from the k most probable tokens",
    "seed": "the same response to the same request, as far as the provider can",
    "service_tier": "price and speed at the provider",
    "prompt_cache_key": "key of the provider's prompt cache",
    "cache_control": "markers of the provider's prompt cache, on the request, messages, parts and tools",
    "parallel_tool_calls": "at most one tool call",
    "user": "the end user, for the provider's detection of abuse",
    "messages[].reasoning": "reasoning of earlier responses",
    "messages[].name": "name of the participant in a message",
    "messages[].content[].file.filename": "name of a document",
    "messages[].content[].image_url.detail": "resolution in which the model sees an image",
    "messages[].tool_calls[].signature": "opaque data of earlier tool calls",
    "messages[].is_error": "whether a tool result is an error",
    "tools[].function.strict": "tool calls that fit their schema exactly",
}
"""Fields that are left out by default, and named in the response."""

DEMANDS: dict[str, str] = {
    "n": "several responses to one request",
    "logit_bias": "probabilities that the client changes",
    "logprobs": "log probabilities of the response's tokens",
    "top_logprobs": "log probabilities of other tokens",
    "messages[].content[].file": "documents",
    "messages[].content[].input_audio": "recordings",
}
"""Fields that are refused by default with 400; so are the usual fields that a handler lacks."""

TOOL_MEDIA = "messages[].content[].tool_media"
"""Support for images and documents inside of tool results; without it they move to the user message after them."""

_USUAL = frozenset(
    {
        *("messages[].content[].file.filename", "messages[].content[].image_url.detail", "messages[].name"),
        *("parallel_tool_calls", "seed", "tools[].function.strict", "user"),
    }
)
OPTIONAL = frozenset({*HINTS, *DEMANDS, TOOL_MEDIA, "max_completion_tokens"}) - _USUAL
"""Fields that only those handlers receive which support them."""

_NEUTRAL: dict[str, Callable[[Any], bool]] = {
    "n": lambda value: value == 1,
    "parallel_tool_calls": lambda value: value is True,
    "logprobs": lambda value: value is False,
    "top_logprobs": lambda value: value == 0,
    "presence_penalty": lambda value: value == 0,
    "frequency_penalty": lambda value: value == 0,
    "reasoning": lambda value: value.is_off or value == ReasoningOptions(),
    "service_tier": lambda value: value in ("auto", "default"),
    "tool_choice": lambda value: value in ("auto", "none"),
    "verbosity": lambda value: value == "medium",
}
"""Values, apart from None and empty ones, that ask for nothing."""


def leave_out_unsupported(
    request: ChatRequest, supports: Collection[str], lacks: Collection[str] = (), *, provider: str = "this handler"
) -> list[str]:
    """Remove the fields that a handler lacks from ``request``, and return the names of those that asked for something.

    ``provider`` is its name in errors.

    Raises ``InvalidInput``, with the path to the field, for a demand, or for any field if ``request.unsupported`` is
    ``refuse``.
    """
    return _Filter(request, (OPTIONAL - frozenset(supports)) | frozenset(lacks), provider).run()


class _Filter:
    """Removal of the fields ``missing`` from one request."""

    def __init__(self, request: ChatRequest, missing: frozenset[str], provider: str) -> None:
        self._request = request
        self._provider = provider
        self._missing = missing
        self._mode = request.unsupported or "ignore-hints"
        self._ignored: dict[str, None] = {}

    def run(self) -> list[str]:
        """Remove the fields; return the names of those that asked for something."""
        for name in sorted(self._missing):
            if "[" not in name and name != "cache_control":
                self._remove_option(name)
        if "cache_control" in self._missing:
            self._remove_cache_markers()
        if "tools[].function.strict" in self._missing:
            self._remove_strict()
        for number, message in enumerate(self._request.messages):
            self._filter_message(message, f"messages[{number}]")
        if TOOL_MEDIA in self._missing:
            self._request.messages = list(_with_media_after_results(self._request.messages))
        self._request.unsupported = None  # the handler may pass the request on
        return list(self._ignored)

    def _remove_option(self, name: str) -> None:
        value = getattr(self._request, name)
        if value is None:
            return
        setattr(self._request, name, None)
        if name == "parallel_tool_calls" and not self._may_call_several():
            return
        if name == "max_completion_tokens":
            return  # `max_tokens` has the value, too
        if value not in ([], {}) and not (name in _NEUTRAL and _NEUTRAL[name](value)):
            self._leave_out(name, name)

    def _may_call_several(self) -> bool:
        choice = self._request.tool_choice
        return len(self._request.tools or ()) > 1 and choice in (None, "auto", "required")

    def _remove_cache_markers(self) -> None:
        marked: list[Any] = [self._request, *self._request.messages, *(self._request.tools or ())]
        for message in self._request.messages:
            if not isinstance(message.content, str):
                marked += [part for part in message.content or () if hasattr(part, "cache_control")]
            if isinstance(message, AssistantMessage):
                marked += message.tool_calls or ()
        for item in marked:
            if item.cache_control is not None:
                item.cache_control = None
                self._leave_out("cache_control", "cache_control")

    def _remove_strict(self) -> None:
        for number, tool in enumerate(self._request.tools or ()):
            if tool.function.strict:
                self._leave_out("tools[].function.strict", f"tools[{number}].function.strict")
            tool.function.strict = None

    def _filter_message(self, message: Message, place: str) -> None:
        if not isinstance(message, ToolMessage) and "messages[].name" in self._missing:
            if message.name:
                self._leave_out("messages[].name", f"{place}.name")
            message.name = None
        if isinstance(message, AssistantMessage):
            if message.reasoning and "messages[].reasoning" in self._missing:
                message.reasoning = None
                self._leave_out("messages[].reasoning", f"{place}.reasoning")
            for number, call in enumerate(message.tool_calls or ()):
                if call.signature is not None and "messages[].tool_calls[].signature" in self._missing:
                    call.signature = None
                    self._leave_out("messages[].tool_calls[].signature", f"{place}.tool_calls[{number}].signature")
        elif isinstance(message, ToolMessage) and "messages[].is_error" in self._missing:
            if message.is_error:
                self._leave_out("messages[].is_error", f"{place}.is_error")
            message.is_error = None
        if isinstance(message, UserMessage | ToolMessage) and not isinstance(message.content, str):
            message.content = [
                part for number, part in enumerate(message.content) if self._keeps(part, f"{place}.content[{number}]")
            ]

    def _keeps(self, part: object, place: str) -> bool:
        for kind, name in ((FilePart, "file"), (AudioPart, "input_audio")):
            path = f"messages[].content[].{name}"
            if isinstance(part, kind) and path in self._missing:
                self._leave_out(path, place)
                return False
        if isinstance(part, FilePart) and "messages[].content[].file.filename" in self._missing:
            if part.file.filename:
                self._leave_out("messages[].content[].file.filename", f"{place}.file.filename")
            part.file.filename = None
        elif isinstance(part, ImagePart) and "messages[].content[].image_url.detail" in self._missing:
            if part.image_url.detail not in (None, "auto"):
                self._leave_out("messages[].content[].image_url.detail", f"{place}.image_url.detail")
            part.image_url.detail = None
        return True

    def _leave_out(self, name: str, place: str) -> None:
        """Note a field that is left out; raises ``InvalidInput`` if it must be refused."""
        if self._mode == "refuse" or (self._mode == "ignore-hints" and name not in HINTS):
            what = f" ({DEMANDS[name]})" if name in DEMANDS else ""
            raise InvalidInput(f"{place}: not supported by {self._provider}{what}; leave it out", param=place)
        self._ignored[name] = None


def _with_media_after_results(messages: list[Message]) -> list[Message]:
    """Return the messages with the images and documents of each run of tool results in a user message after it."""
    moved: list[Message] = []
    media: list[TextPart | ImagePart | FilePart | AudioPart] = []
    for message in messages:
        if isinstance(message, ToolMessage) and not isinstance(message.content, str):
            parts = [part for part in message.content if not isinstance(part, TextPart)]
            if parts:
                media.append(TextPart(text=f"Attached to the result of the tool call {message.tool_call_id}:"))
                media += parts
                texts = [part for part in message.content if isinstance(part, TextPart)]
                message.content = [*texts] or "(attached below)"
        elif media and not isinstance(message, ToolMessage):
            if isinstance(message, UserMessage):
                own = [TextPart(text=message.content)] if isinstance(message.content, str) else message.content
                message.content, media = [*media, *own], []
            else:
                moved.append(UserMessage(content=media))
                media = []
        moved.append(message)
    return [*moved, UserMessage(content=media)] if media else moved
