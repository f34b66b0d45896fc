"""From what clients of Anthropic's messages send to ``handler_host.chat.types``. Pure.

An :class:`TranslatedRequest` remembers where each of the chat's messages stood in the client's
request, so that a handler's complaint about one of them names the client's own field.
"""

from __future__ import annotations

from typing import Any

import msgspec

from handler_host.chat import types as chat
from handler_host.plugin.errors import InvalidInput
from handler_host.protocols.anthropic import messages as sent
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
"""Fields of a chat request that have another name here."""


class _Translation:
    """Collects the chat's messages."""

    def __init__(self) -> None:
        self.messages: list[chat.Message] = []
        self.places: list[str] = []
        self._called: set[str] = set()

    def add(self, message: chat.Message, place: str) -> None:
        self.messages.append(message)
        self.places.append(place)

    def add_system(self, content: str | list[sent.TextBlock] | None, place: str) -> None:
        if content:
            self.add(chat.SystemMessage(content=content if isinstance(content, str) else _texts(content)), place)

    def add_user(self, message: sent.UserMessage, place: str) -> None:
        """Add the results of tools first, as each is a message of its own, and then what is left."""
        if isinstance(message.content, str):
            self.add(chat.UserMessage(content=message.content), place)
            return
        parts: list[chat.TextPart | chat.ImagePart] = []
        for number, block in enumerate(message.content):
            if isinstance(block, sent.ToolResultBlock):
                field = f"{place}.content[{number}]"
                if block.tool_use_id not in self._called:
                    raise _invalid(f"{field}.tool_use_id", f"no earlier message has a tool_use {block.tool_use_id!r}")
                text = block.content if isinstance(block.content, str) else _texts(block.content)
                self.add(chat.ToolMessage(content=text, tool_call_id=block.tool_use_id), field)
            else:
                parts.append(_image(block) if isinstance(block, sent.ImageBlock) else chat.TextPart(text=block.text))
        if parts or not message.content:
            self.add(chat.UserMessage(content=parts), place)

    def add_assistant(self, message: sent.AssistantMessage, place: str) -> None:
        if isinstance(message.content, str):
            self.add(chat.AssistantMessage(content=message.content), place)
            return
        calls = [_call(block) for block in message.content if isinstance(block, sent.ToolUseBlock)]
        texts = _texts([block for block in message.content if isinstance(block, sent.TextBlock)])
        self._called.update(call.id for call in calls)
        content = (texts or None) if calls else texts
        self.add(chat.AssistantMessage(content=content, tool_calls=calls or None), place)


def _texts(blocks: list[sent.TextBlock]) -> list[chat.TextPart]:
    return [chat.TextPart(text=block.text) for block in blocks]


def _image(block: sent.ImageBlock) -> chat.ImagePart:
    source = block.source
    url = source.url if isinstance(source, sent.UrlSource) else f"data:{source.media_type};base64,{source.data}"
    return chat.ImagePart(image_url=chat.ImageUrl(url=url))


def _call(block: sent.ToolUseBlock) -> chat.ToolCall:
    arguments = msgspec.json.encode(block.input).decode()
    return chat.ToolCall(id=block.id, function=chat.FunctionCall(name=block.name, arguments=arguments))


def _tool(tool: sent.Tool) -> chat.Tool:
    return chat.Tool(
        function=chat.FunctionSpec(
            name=tool.name, description=tool.description, parameters=tool.input_schema, strict=tool.strict
        )
    )


def _invalid(field: str, text: str) -> InvalidInput:
    return InvalidInput(f"{field}: {text}", param=field)


def _to_chat(request: sent.Prompt) -> TranslatedRequest:
    translation = _Translation()
    translation.add_system(request.system, "system")
    for number, message in enumerate(request.messages):
        place = f"messages[{number}]"
        if isinstance(message, sent.UserMessage):
            translation.add_user(message, place)
        elif isinstance(message, sent.AssistantMessage):
            translation.add_assistant(message, place)
        else:
            translation.add_system(message.content, place)
    asked = chat.ChatRequest(
        messages=translation.messages,
        model=request.model.partition("/")[2] or None,
        tools=[_tool(tool) for tool in request.tools] if request.tools else None,
    )
    choice = request.tool_choice
    if choice is not None:
        if choice.type == "tool":
            if choice.name is None:
                raise InvalidInput("tool_choice.name is missing", param="tool_choice.name")
            asked.tool_choice = chat.NamedToolChoice(function=chat.NamedFunction(name=choice.name))
        else:
            asked.tool_choice = "required" if choice.type == "any" else choice.type
        if choice.disable_parallel_tool_use is not None:
            asked.parallel_tool_calls = not choice.disable_parallel_tool_use
    output = request.output_config.format if request.output_config is not None else None
    if output is not None:
        asked.response_format = chat.JsonSchemaFormat(json_schema=chat.JsonSchema(name="answer", schema=output.schema))
    tools = [f"tools[{number}]" for number in range(len(request.tools or ()))]
    return TranslatedRequest(asked, translation.places, tools, RENAMED)


_options: dict[str, Any] = {
    "ignored": sent.IGNORED,
    "neutral": sent.NEUTRAL,
    "remedies": sent.REMEDIES,
    "choices": sent.CHOICES,
}
_messages = BodyDecoder(sent.MessageRequest, **_options)
_counts = BodyDecoder(sent.CountRequest, **_options)


def decode_message(body: bytes) -> tuple[sent.MessageRequest, TranslatedRequest]:
    """Return the request in ``body``, and as handlers take it; raises ``InvalidInput`` with the path to the field."""
    request = _messages.decode(body)
    _check_model(request.model)
    asked = _to_chat(request)
    asked.chat.temperature = request.temperature
    asked.chat.top_p = request.top_p
    asked.chat.max_tokens = request.max_tokens
    asked.chat.stop = request.stop_sequences or None
    return request, asked


def decode_count(body: bytes) -> tuple[sent.CountRequest, TranslatedRequest]:
    """Do the same for a count of tokens."""
    request = _counts.decode(body)
    _check_model(request.model)
    return request, _to_chat(request)


def _check_model(model: str) -> None:
    if not model.partition("/")[0] or model.endswith("/"):
        raise InvalidInput(f"model {model!r} has to be HANDLER or HANDLER/MODEL", param="model")
