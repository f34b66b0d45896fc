"""Requests of Anthropic's messages, translated to ``handler_host.chat.types``. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from handler_host.chat import types as chat
from handler_host.plugin.errors import InvalidInput
from handler_host.protocols.anthropic import messages as anthropic
from handler_host.protocols.body_decoder import BodyDecoder
from handler_host.protocols.translated_request import TranslatedRequest

RENAMED = {
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
    "response_format": "output_config.format",
    "response_format.json_schema": "output_config.format",
    "stop": "stop_sequences",
    "tool_choice.function": "tool_choice",
    "tools.function": "tools",
    "tools.function.parameters": "tools.input_schema",
}
"""Fields of a chat request with another name here."""


class _MessageTranslator:
    """Collects the messages of the chat, each with its path in the client's request."""

    def __init__(self) -> None:
        self.messages: list[chat.Message] = []
        self.places: list[str] = []
        self._called: set[str] = set()

    def add(self, message: chat.Message, place: str) -> None:
        self.messages.append(message)
        self.places.append(place)

    def add_system(self, content: str | list[anthropic.TextBlock] | None, place: str) -> None:
        if content:
            self.add(chat.SystemMessage(content=content if isinstance(content, str) else _texts(content)), place)

    def add_user(self, message: anthropic.UserMessage, place: str) -> None:
        """Add the results of tools first, each as a message of its own, and then the other parts."""
        if isinstance(message.content, str):
            self.add(chat.UserMessage(content=message.content), place)
            return
        parts: list[chat.TextPart | chat.ImagePart] = []
        for number, block in enumerate(message.content):
            if isinstance(block, anthropic.ToolResultBlock):
                field = f"{place}.content[{number}]"
                if block.tool_use_id not in self._called:
                    raise _invalid(f"{field}.tool_use_id", f"no earlier message has the tool_use {block.tool_use_id!r}")
                text = block.content if isinstance(block.content, str) else _texts(block.content)
                self.add(chat.ToolMessage(content=text, tool_call_id=block.tool_use_id), field)
            else:
                parts.append(
                    _image(block) if isinstance(block, anthropic.ImageBlock) else chat.TextPart(text=block.text)
                )
        if parts or not message.content:
            self.add(chat.UserMessage(content=parts), place)

    def add_assistant(self, message: anthropic.AssistantMessage, place: str) -> None:
        if isinstance(message.content, str):
            self.add(chat.AssistantMessage(content=message.content), place)
            return
        calls = [_call(block) for block in message.content if isinstance(block, anthropic.ToolUseBlock)]
        texts = _texts([block for block in message.content if isinstance(block, anthropic.TextBlock)])
        self._called.update(call.id for call in calls)
        content = (texts or None) if calls else texts
        self.add(chat.AssistantMessage(content=content, tool_calls=calls or None), place)


def _texts(blocks: list[anthropic.TextBlock]) -> list[chat.TextPart]:
    return [chat.TextPart(text=block.text) for block in blocks]


def _image(block: anthropic.ImageBlock) -> chat.ImagePart:
    source = block.source
    url = source.url if isinstance(source, anthropic.UrlSource) else f"data:{source.media_type};base64,{source.data}"
    return chat.ImagePart(image_url=chat.ImageUrl(url=url))


def _call(block: anthropic.ToolUseBlock) -> chat.ToolCall:
    arguments = msgspec.json.encode(block.input).decode()
    return chat.ToolCall(id=block.id, function=chat.FunctionCall(name=block.name, arguments=arguments))


def _tool(tool: anthropic.Tool) -> chat.Tool:
    return chat.Tool(
        function=chat.FunctionSpec(
            name=tool.name, description=tool.description, parameters=tool.input_schema, strict=tool.strict
        )
    )


def _invalid(field: str, text: str) -> InvalidInput:
    return InvalidInput(f"{field}: {text}", param=field)


def _to_chat(request: anthropic.Prompt) -> TranslatedRequest:
    translator = _MessageTranslator()
    translator.add_system(request.system, "system")
    for number, message in enumerate(request.messages):
        place = f"messages[{number}]"
        if isinstance(message, anthropic.UserMessage):
            translator.add_user(message, place)
        elif isinstance(message, anthropic.AssistantMessage):
            translator.add_assistant(message, place)
        else:
            translator.add_system(message.content, place)
    chat_request = chat.ChatRequest(
        messages=translator.messages,
        model=request.model.partition("/")[2] or None,
        tools=[_tool(tool) for tool in request.tools] if request.tools else None,
    )
    choice = request.tool_choice
    if choice is not None:
        if choice.type == "tool":
            if choice.name is None:
                raise InvalidInput("tool_choice.name is missing", param="tool_choice.name")
            chat_request.tool_choice = chat.NamedToolChoice(function=chat.NamedFunction(name=choice.name))
        else:
            chat_request.tool_choice = "required" if choice.type == "any" else choice.type
        if choice.disable_parallel_tool_use is not None:
            chat_request.parallel_tool_calls = not choice.disable_parallel_tool_use
    output = request.output_config.format if request.output_config is not None else None
    if output is not None:
        json_schema = chat.JsonSchema(name="answer", schema=output.schema)
        chat_request.response_format = chat.JsonSchemaFormat(json_schema=json_schema)
    tools = [f"tools[{number}]" for number in range(len(request.tools or ()))]
    return TranslatedRequest(chat_request, translator.places, tools, RENAMED)


_options: dict[str, Any] = {
    "ignored": anthropic.IGNORED,
    "neutral": anthropic.NEUTRAL,
    "remedies": anthropic.REMEDIES,
    "choices": anthropic.CHOICES,
}
_messages = BodyDecoder(anthropic.MessageRequest, **_options)
_counts = BodyDecoder(anthropic.CountRequest, **_options)


def decode_message(body: bytes) -> tuple[anthropic.MessageRequest, TranslatedRequest]:
    """Return the request in ``body``, and its translation; raises ``InvalidInput`` with the path to the field."""
    request = _messages.decode(body)
    _check_model(request.model)
    translated = _to_chat(request)
    translated.chat.temperature = request.temperature
    translated.chat.top_p = request.top_p
    translated.chat.max_tokens = request.max_tokens
    translated.chat.stop = request.stop_sequences or None
    return request, translated


def decode_count(body: bytes) -> tuple[anthropic.CountRequest, TranslatedRequest]:
    """Return the request for a token count in ``body``, and its translation; raises ``InvalidInput``."""
    request = _counts.decode(body)
    _check_model(request.model)
    return request, _to_chat(request)


def _check_model(model: str) -> None:
    if not model.partition("/")[0] or model.endswith("/"):
        raise InvalidInput(f"model: {model!r} must be HANDLER or HANDLER/MODEL", param="model")
