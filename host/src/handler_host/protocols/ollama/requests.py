"""Requests of Ollama's API, validated and translated to ``handler_host.chat.types``. Pure."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from handler_host._internal.units import parse_duration
from handler_host.chat import types as chat
from handler_host.plugin.errors import InvalidInput
from handler_host.protocols.body_decoder import BodyDecoder
from handler_host.protocols.fields import ECHO, Field, IgnoredFields, demand, hint
from handler_host.protocols.translated_request import TranslatedRequest
from handler_host.protocols.unanswered_calls import OpenCalls

FIELDS: dict[str, Field] = {
    "context": hint(),
    "raw": hint(False),
    "shift": hint(True),
    "suffix": demand(),
    "template": hint(),
    "truncate": hint(True),
    "options.num_ctx": hint(),
    "options.num_keep": hint(),
    "options.min_p": hint(0),
    "options.repeat_last_n": hint(),
    "options.repeat_penalty": hint(1),
    "options.typical_p": hint(1),
    "messages[].tool_calls[].function.index": ECHO,
    "messages[].tool_calls[].type": ECHO,
}
"""Fields that a chat request has no place for; the other options of Ollama, most for its own engine, are hints, too."""

_NAMES = {
    "temperature": "options.temperature",
    "top_p": "options.top_p",
    "top_k": "options.top_k",
    "max_tokens": "options.num_predict",
    "seed": "options.seed",
    "stop": "options.stop",
    "presence_penalty": "options.presence_penalty",
    "frequency_penalty": "options.frequency_penalty",
    "response_format": "format",
    "reasoning": "think",
    "reasoning.summary": "",
    "messages[].reasoning": "messages[].thinking",
}
"""Ollama's names of the fields of a chat."""
LATEST = ":latest"
"""Tag that clients add to a name without one."""
_IMAGE_STARTS = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
}


class _Request(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of requests and their parts."""


class CalledFunction(_Request):
    """Function of an earlier tool call."""

    name: str
    arguments: dict[str, Any] | str = {}


class EchoedCall(_Request):
    """Tool call of an earlier response."""

    function: CalledFunction
    id: str | None = None


class Message(_Request):
    """Message of a chat."""

    role: str
    content: str | None = None
    images: list[str] | None = None
    """Base64, or data URLs."""
    tool_calls: list[EchoedCall] | None = None
    thinking: str | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class Options(_Request):
    """Sampling options that the chat contract has."""

    temperature: float | None = None
    top_p: float | None = None
    num_predict: int | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None


class ModelRequest(msgspec.Struct, kw_only=True):
    """Body that names a model; ``name`` is its older field. Unknown fields are ignored."""

    model: str = ""
    name: str = ""

    @property
    def requested(self) -> str:
        """The model's name."""
        return self.model or self.name


KeepAlive = str | float | None
"""Idle time as clients write it: a duration, or seconds."""


def keep_alive_seconds(value: KeepAlive) -> float | None:
    """Return the seconds without a dispatch after which to unload a handler; negative: never; None: by configuration.

    Raises ``InvalidInput`` for an invalid value.
    """
    if value is None:
        return None
    try:
        return -1.0 if str(value).lstrip().startswith("-") else parse_duration(value)
    except ValueError as error:
        raise InvalidInput(f"keep_alive: {error}", param="keep_alive") from None


class _Prompt(_Request):
    model: Annotated[str, Meta(min_length=1)]
    stream: bool | None = None
    format: str | dict[str, Any] | None = None
    options: Options | None = None
    keep_alive: KeepAlive = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None

    @property
    def is_stream(self) -> bool:
        """Whether the response is a stream, as it is by default."""
        return self.stream is not False

    @property
    def keep_alive_s(self) -> float | None:
        """Seconds without a dispatch after which to unload the handler, as of :func:`keep_alive_seconds`."""
        return keep_alive_seconds(self.keep_alive)

    @property
    def _reasoning(self) -> chat.ReasoningOptions | None:
        if self.think is None:
            return None
        if self.think is False:
            return chat.ReasoningOptions(effort="none")
        return chat.ReasoningOptions(effort="medium" if self.think is True else self.think, summary="auto")

    def _to_chat(
        self,
        messages: list[chat.Message],
        places: list[str],
        ignored: IgnoredFields | None,
        tools: list[chat.Tool] | None = None,
    ) -> TranslatedRequest:
        options = self.options or Options()
        limit = options.num_predict
        request = chat.ChatRequest(
            messages=messages,
            temperature=options.temperature,
            top_p=options.top_p,
            max_tokens=limit if limit is not None and limit > 0 else None,  # -1 and -2: no limit
            seed=options.seed,
            stop=[options.stop] if isinstance(options.stop, str) else options.stop or None,
            presence_penalty=options.presence_penalty or None,
            frequency_penalty=options.frequency_penalty or None,
            tools=tools or None,
            response_format=_format(self.format),
            reasoning=self._reasoning,
            top_k=options.top_k,
            logprobs=self.logprobs,
            top_logprobs=self.top_logprobs,
        )
        numbers = [f"tools[{number}]" for number in range(len(tools or ()))]
        return TranslatedRequest(request, places, numbers, _NAMES, ignored or IgnoredFields())


class ChatBody(_Prompt):
    """The body of ``POST /api/chat``."""

    messages: list[Message] = []
    tools: list[dict[str, Any]] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it only loads or unloads the model."""
        return not self.messages

    def to_chat(self, ignored: IgnoredFields | None = None) -> TranslatedRequest:
        """Return the request for handlers."""
        places = [f"messages[{number}]" for number in range(len(self.messages))]
        tools = [_tool(tool) for tool in self.tools or ()]
        return self._to_chat(_Messages(self.messages).translated(), places, ignored, tools)


class GenerateBody(_Prompt):
    """The body of ``POST /api/generate``."""

    prompt: str = ""
    system: str | None = None
    images: list[str] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it only loads or unloads the model."""
        return not self.prompt and not self.images

    def to_chat(self, ignored: IgnoredFields | None = None) -> TranslatedRequest:
        """Return the request for handlers, as a chat of one turn."""
        user = chat.UserMessage(content=_content(self.prompt, self.images, "images"))
        if not self.system:
            return self._to_chat([user], ["prompt"], ignored)
        return self._to_chat([chat.SystemMessage(content=self.system), user], ["system", "prompt"], ignored)


class _Messages:
    """Translation of a history: Ollama's tool calls have no IDs, so their results are matched by name and order."""

    def __init__(self, messages: list[Message]) -> None:
        self._messages = messages
        self._calls = OpenCalls()

    def translated(self) -> list[chat.Message]:
        return [self._message(message, f"messages[{number}]") for number, message in enumerate(self._messages)]

    def _message(self, message: Message, place: str) -> chat.Message:
        text = message.content or ""
        match message.role:
            case "system":
                return chat.SystemMessage(content=text)
            case "user":
                return chat.UserMessage(content=_content(text, message.images, f"{place}.images"))
            case "assistant":
                calls = [self._call(call) for call in message.tool_calls or ()]
                return chat.AssistantMessage(
                    content=text or (None if calls else ""),
                    tool_calls=calls or None,
                    reasoning=[chat.ReasoningPart(text=message.thinking)] if message.thinking else None,
                )
            case "tool":
                return chat.ToolMessage(content=text, tool_call_id=self._answered_call(message, place))
        path = f"{place}.role"
        raise InvalidInput(f"{path}: {message.role!r} must be system, user, assistant or tool", param=path)

    def _call(self, call: EchoedCall) -> chat.ToolCall:
        call_id = self._calls.add(call.id, call.function.name)
        arguments = call.function.arguments
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        return chat.ToolCall(id=call_id, function=chat.FunctionCall(name=call.function.name, arguments=text))

    def _answered_call(self, message: Message, place: str) -> str:
        call_id = self._calls.close(message.tool_call_id, message.tool_name) or message.tool_call_id
        if call_id is not None:
            return call_id
        raise InvalidInput(f"{place}: no tool call before it waits for this result", param=place)


def _content(text: str, images: list[str] | None, place: str) -> chat.Content:
    if not images:
        return text
    parts: list[chat.TextPart | chat.MediaPart] = [chat.TextPart(text=text)] if text else []
    parts += [
        chat.ImagePart(image_url=chat.ImageUrl(url=_image_url(image, f"{place}[{number}]")))
        for number, image in enumerate(images)
    ]
    return parts


def _image_url(image: str, place: str) -> str:
    if image.startswith("data:"):
        return image
    try:
        start = base64.b64decode(image[:64] + "=" * (-len(image[:64]) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(f"{place}: not base64", param=place) from None
    kind = next((kind for magic, kind in _IMAGE_STARTS.items() if start.startswith(magic)), None)
    if kind is None and start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        kind = "image/webp"
    if kind is None:
        raise InvalidInput(f"{place}: unknown kind of image; send PNG, JPEG, GIF or WebP", param=place)
    return f"data:{kind};base64,{image}"


def _tool(tool: dict[str, Any]) -> chat.Tool:
    try:
        function = tool["function"]
        return chat.Tool(
            function=chat.FunctionSpec(
                name=function["name"],
                description=function.get("description") or None,
                parameters=function.get("parameters") or None,
            )
        )
    except (KeyError, TypeError, AttributeError):
        raise InvalidInput("tools: each must be a function with a name", param="tools") from None


def _format(value: str | dict[str, Any] | None) -> chat.JsonObjectFormat | chat.JsonSchemaFormat | None:
    if not value:
        return None
    if isinstance(value, dict):
        return chat.JsonSchemaFormat(json_schema=chat.JsonSchema(name="response", schema=value))
    if value != "json":
        raise InvalidInput(f'format: {value!r} must be "json" or a JSON Schema', param="format")
    return chat.JsonObjectFormat()


def decode_chat(body: bytes, ignored: IgnoredFields | None = None) -> ChatBody:
    """Return the body of a chat; raises ``InvalidInput`` with the path to the field."""
    return _chat_decoder.decode(body, ignored)


def decode_generate(body: bytes, ignored: IgnoredFields | None = None) -> GenerateBody:
    """Return the body of a generation; raises ``InvalidInput`` with the path to the field."""
    return _generate_decoder.decode(body, ignored)


def decode_model(body: bytes) -> ModelRequest:
    """Return a body that names a model; raises ``InvalidInput``."""
    request = _model_decoder.decode(body)
    if not request.requested:
        raise InvalidInput("model is missing", param="model")
    return request


_chat_decoder = BodyDecoder(ChatBody, fields=FIELDS)
_generate_decoder = BodyDecoder(GenerateBody, fields=FIELDS)
_model_decoder = BodyDecoder(ModelRequest)
