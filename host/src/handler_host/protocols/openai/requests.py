"""Requests of OpenAI's chat completions, validated and translated to ``handler_host.chat.types``. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from handler_host.chat import types as chat
from handler_host.plugin.errors import InvalidInput
from handler_host.protocols.body_decoder import BodyDecoder

IGNORED = frozenset(
    {
        "metadata",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
    }
)
"""Fields that are accepted and have no effect: bookkeeping between a client and OpenAI."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "function_call": (),
    "functions": (),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "prediction": (),
    "reasoning_effort": (),
    "top_logprobs": (0,),
    "verbosity": (),
    "web_search_options": (),
}
"""Unsupported fields, each with the values, apart from null, that request nothing."""

REMEDIES = {
    "function_call": "use tool_choice instead",
    "functions": "use tools instead",
    "n": "send one request for each choice",
}

CHOICES = {
    "messages[].role": "system, developer, user, assistant or tool",
    "messages[].content[].type": "text or image_url",
    "messages[].content[].image_url.detail": "auto, low or high",
    "messages[].tool_calls[].type": "function",
    "response_format.type": "text, json_object or json_schema",
    "tool_choice": "none, auto, required or a function",
    "tool_choice.type": "function",
    "tools[].type": "function",
}
"""The valid words of each field that takes one of a few, for error messages."""


class _Request(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of requests and their parts."""


class DeveloperMessage(chat.SystemMessage, tag_field="role", tag="developer", kw_only=True):
    """Instructions, under the newer role."""


class EchoedMessage(_Request, tag_field="role", tag="assistant", kw_only=True):
    """A response that the client sends back with the whole history, in the form of its SDK."""

    content: str | list[chat.TextPart] | None = None
    refusal: str | None = None
    tool_calls: list[chat.ToolCall] | None = None
    name: str | None = None
    annotations: Any = None
    audio: None = None
    function_call: None = None


Message = chat.SystemMessage | DeveloperMessage | chat.UserMessage | EchoedMessage | chat.ToolMessage


class StreamOptions(_Request):
    """Options of a stream."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    """Padding against observers of the network; the host adds none."""


class CompletionRequest(_Request):
    """The body of ``POST /v1/chat/completions``."""

    model: Annotated[str, Meta(min_length=1)]
    messages: Annotated[list[Message], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    tools: list[chat.Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | chat.NamedToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: chat.TextFormat | chat.JsonObjectFormat | chat.JsonSchemaFormat | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    user: str | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream must end with a chunk of usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def to_chat(self) -> chat.ChatRequest:
        """Return the request for handlers."""
        return chat.ChatRequest(
            messages=[_to_chat_message(message) for message in self.messages],
            model=self.model.partition("/")[2] or None,
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_completion_tokens if self.max_tokens is None else self.max_tokens,
            stop=[self.stop] if isinstance(self.stop, str) else self.stop,
            seed=self.seed,
            tools=self.tools,
            tool_choice=self.tool_choice,
            parallel_tool_calls=self.parallel_tool_calls,
            response_format=self.response_format,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            user=self.user,
        )


def _to_chat_message(message: Message) -> chat.Message:
    if isinstance(message, DeveloperMessage):
        return chat.SystemMessage(content=message.content, name=message.name)
    if isinstance(message, EchoedMessage):
        return chat.AssistantMessage(
            content=message.content, refusal=message.refusal, tool_calls=message.tool_calls or None, name=message.name
        )
    return message


_decoder = BodyDecoder(CompletionRequest, ignored=IGNORED, neutral=NEUTRAL, remedies=REMEDIES, choices=CHOICES)


def decode_request(body: bytes) -> CompletionRequest:
    """Return the request in ``body``; raises ``InvalidInput`` with the path to the field."""
    request = _decoder.decode(body)
    if request.stream_options is not None and not request.stream:
        raise InvalidInput("stream_options: valid with stream: true only", param="stream_options")
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        raise InvalidInput(
            "max_completion_tokens: also set as max_tokens, its older name; set one of them",
            param="max_completion_tokens",
        )
    if not request.model.partition("/")[0] or request.model.endswith("/"):
        raise InvalidInput(f"model: {request.model!r} must be HANDLER or HANDLER/MODEL", param="model")
    return request


def decode_chat(body: bytes) -> tuple[CompletionRequest, chat.ChatRequest]:
    """Return the request in ``body``, and its translation; raises ``InvalidInput`` with the path to the field."""
    request = decode_request(body)
    return request, request.to_chat()
