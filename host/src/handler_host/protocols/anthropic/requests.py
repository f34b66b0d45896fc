"""Requests of Anthropic's messages, translated to ``handler_host.chat.types``. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from handler_host.chat import types as chat
from handler_host.plugin.errors import InvalidInput
from handler_host.protocols.anthropic import FORMAT
from handler_host.protocols.anthropic import messages as anthropic
from handler_host.protocols.body_decoder import BodyDecoder
from handler_host.protocols.fields import IgnoredFields, hint
from handler_host.protocols.opaque import CALL_FORMAT, unseal
from handler_host.protocols.translated_request import TranslatedRequest, check_model

PROVIDER_BLOCKS = frozenset({"container_upload", "mcp_tool_use", "server_tool_use", "tool_reference"})
"""Blocks that only Anthropic can read."""
RENAMED = {
    "messages[].is_error": "messages[].content[].is_error",
    "messages[].reasoning": "messages[].content[].thinking",
    "reasoning.summary": "thinking.display",
    "messages[].tool_calls[].signature": "messages[].content[].redacted_thinking",
    "messages[].content[].file": "messages[].content[].document",
    "messages[].content[].file.filename": "messages[].content[].title",
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
    "response_format": "output_config.format",
    "reasoning": "thinking",
    "response_format.json_schema": "output_config.format",
    "stop": "stop_sequences",
    "user": "metadata.user_id",
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
        parts: list[chat.TextPart | chat.ImagePart | chat.FilePart | chat.AudioPart] = []
        for number, block in enumerate(message.content):
            if isinstance(block, anthropic.ToolResultBlock):
                self._add_result(block, f"{place}.content[{number}]")
            elif block is not None:
                parts += _parts(block)
        if parts or not message.content:
            self.add(chat.UserMessage(content=parts), place)

    def _add_result(self, block: anthropic.ToolResultBlock, place: str) -> None:
        if block.tool_use_id not in self._called:
            raise _invalid(f"{place}.tool_use_id", f"no earlier message has the tool_use {block.tool_use_id!r}")
        content: str | list[chat.TextPart | chat.ImagePart | chat.FilePart]
        if isinstance(block.content, str):
            content = block.content
        else:
            content = [part for inner in block.content if inner is not None for part in _parts(inner)]
        result = chat.ToolMessage(
            content=content,
            tool_call_id=block.tool_use_id,
            is_error=block.is_error or None,
            cache_control=block.cache_control,
        )
        self.add(result, place)

    def add_assistant(self, message: anthropic.AssistantMessage, place: str) -> None:
        if isinstance(message.content, str):
            self.add(chat.AssistantMessage(content=message.content), place)
            return
        calls, reasoning = _calls_and_reasoning(message.content)
        texts = _texts([block for block in message.content if isinstance(block, anthropic.TextBlock)])
        self._called.update(call.id for call in calls)
        content = (texts or None) if calls else texts
        self.add(chat.AssistantMessage(content=content, tool_calls=calls or None, reasoning=reasoning or None), place)


def _texts(blocks: list[anthropic.TextBlock]) -> list[chat.TextPart]:
    return [chat.TextPart(text=block.text, cache_control=block.cache_control) for block in blocks]


def _parts(
    block: anthropic.TextBlock | anthropic.ImageBlock | anthropic.DocumentBlock | anthropic.SearchResultBlock,
) -> list[chat.TextPart | chat.ImagePart | chat.FilePart]:
    """Return the parts of a block: several for a document of blocks, and for a search result."""
    if isinstance(block, anthropic.TextBlock):
        return [chat.TextPart(text=block.text, cache_control=block.cache_control)]
    if isinstance(block, anthropic.ImageBlock):
        return [_image(block)]
    if isinstance(block, anthropic.SearchResultBlock):
        heading = chat.TextPart(text=f"{block.title} ({block.source}):")
        return _marked([heading, *_texts(block.content)], block.cache_control)
    source = block.source
    title = [chat.TextPart(text=f"{block.title}:")] if block.title else []
    if isinstance(source, anthropic.TextSource):
        return [*title, chat.TextPart(text=source.data, cache_control=block.cache_control)]
    if isinstance(source, anthropic.ContentSource):
        if isinstance(source.content, str):
            return [*title, chat.TextPart(text=source.content, cache_control=block.cache_control)]
        return _marked([*title, *(part for inner in source.content for part in _parts(inner))], block.cache_control)
    file = chat.FileUrl(url=_url(source), filename=block.title)
    return [chat.FilePart(file=file, cache_control=block.cache_control)]


def _marked(
    parts: list[chat.TextPart | chat.ImagePart | chat.FilePart], cache_control: chat.CacheControl | None
) -> list[chat.TextPart | chat.ImagePart | chat.FilePart]:
    """Return the parts of a block, with its marker on the last one, unless that has its own."""
    if parts and parts[-1].cache_control is None:
        parts[-1].cache_control = cache_control
    return parts


def _calls_and_reasoning(blocks: Sequence[object]) -> tuple[list[chat.ToolCall], list[chat.ReasoningPart]]:
    """Return the calls and the reasoning of a response; a call's signature is in the block before it."""
    calls: list[chat.ToolCall] = []
    reasoning: list[chat.ReasoningPart] = []
    signature: str | None = None
    for block in blocks:
        if isinstance(block, anthropic.ToolUseBlock):
            call = _call(block)
            call.signature, signature = signature, None
            calls.append(call)
        elif isinstance(block, anthropic.ThinkingBlock | anthropic.RedactedBlock):
            part = _reasoning(block)
            if part.format == CALL_FORMAT:
                signature = part.encrypted
            else:
                reasoning.append(part)
    return calls, reasoning


def _reasoning(block: anthropic.ThinkingBlock | anthropic.RedactedBlock) -> chat.ReasoningPart:
    if isinstance(block, anthropic.RedactedBlock):
        return unseal("", block.data, FORMAT, "encrypted")
    return unseal(block.thinking, block.signature, FORMAT, "signature")


def _image(block: anthropic.ImageBlock) -> chat.ImagePart:
    return chat.ImagePart(image_url=chat.ImageUrl(url=_url(block.source)), cache_control=block.cache_control)


def _url(source: anthropic.UrlSource | anthropic.Base64Source | anthropic.DocumentData) -> str:
    """Return the URL of an image or a document; that of data is a ``data:`` URL."""
    return source.url if isinstance(source, anthropic.UrlSource) else f"data:{source.media_type};base64,{source.data}"


def _call(block: anthropic.ToolUseBlock) -> chat.ToolCall:
    arguments = msgspec.json.encode(block.input).decode()
    function = chat.FunctionCall(name=block.name, arguments=arguments)
    return chat.ToolCall(id=block.id, function=function, cache_control=block.cache_control)


def _tool(tool: anthropic.Tool) -> chat.Tool:
    return chat.Tool(
        function=chat.FunctionSpec(
            name=tool.name, description=tool.description, parameters=tool.input_schema, strict=tool.strict
        ),
        cache_control=tool.cache_control,
    )


def _invalid(field: str, text: str) -> InvalidInput:
    return InvalidInput(f"{field}: {text}", param=field)


def _reasoning_options(request: anthropic.Prompt) -> chat.ReasoningOptions | None:
    thinking, effort = request.thinking, request.output_config.effort if request.output_config is not None else None
    if thinking is None:
        return chat.ReasoningOptions(effort=effort) if effort is not None else None
    if thinking.type in ("disabled", "between_tools"):
        return chat.ReasoningOptions(effort=effort, budget_tokens=0)
    return chat.ReasoningOptions(
        effort=effort,
        budget_tokens=thinking.budget_tokens if thinking.type == "enabled" else -1,
        summary=None if thinking.display == "omitted" else "auto",
    )


def _to_chat(request: anthropic.Prompt, ignored: IgnoredFields | None) -> TranslatedRequest:
    ignored = ignored or IgnoredFields()
    if request.thinking is not None and request.thinking.type == "between_tools":
        ignored.leave_out(hint(), "thinking.type", "thinking.type")  # notes between calls, without any reasoning
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
    tools = [(f"tools[{number}]", tool) for number, tool in enumerate(request.tools or ()) if tool is not None]
    chat_request = chat.ChatRequest(
        messages=translator.messages,
        model=request.model.partition("/")[2] or None,
        tools=[_tool(tool) for _, tool in tools] or None,
        reasoning=_reasoning_options(request),
        cache_control=request.cache_control,
    )
    choice = request.tool_choice
    if choice is not None:
        if request.tools and not tools and choice.type != "tool":
            pass  # all tools were left out
        elif choice.type == "tool":
            if choice.name is None:
                raise InvalidInput("tool_choice.name is missing", param="tool_choice.name")
            chat_request.tool_choice = chat.NamedToolChoice(function=chat.NamedFunction(name=choice.name))
        else:
            chat_request.tool_choice = "required" if choice.type == "any" else choice.type
        if choice.disable_parallel_tool_use is not None:
            chat_request.parallel_tool_calls = not choice.disable_parallel_tool_use
    output = request.output_config.format if request.output_config is not None else None
    output = output or request.output_format
    if output is not None:
        json_schema = chat.JsonSchema(name="answer", schema=output.schema)
        chat_request.response_format = chat.JsonSchemaFormat(json_schema=json_schema)
    names = RENAMED if request.thinking is not None else {**RENAMED, "reasoning": "output_config.effort"}
    return TranslatedRequest(chat_request, translator.places, [place for place, _ in tools], names, ignored)


def _skipped_tool(tool: dict[str, Any]) -> str | None:
    kind = tool.get("type")
    return kind if isinstance(kind, str) and kind != "custom" else None


def _skipped_block(block: dict[str, Any]) -> str | None:
    """Return the type of a block of the provider's own tools: their calls, results and references."""
    kind = block.get("type")
    is_foreign = isinstance(kind, str) and (kind.endswith("_tool_result") or kind in PROVIDER_BLOCKS)
    return str(kind) if is_foreign else None


_options: dict[str, Any] = {
    "fields": anthropic.FIELDS,
    "skips": {
        "messages[].content[]": _skipped_block,
        "messages[].content[].content[]": _skipped_block,
        "tools[]": _skipped_tool,
    },
    "choices": anthropic.CHOICES,
}
_messages = BodyDecoder(anthropic.MessageRequest, **_options)
_counts = BodyDecoder(anthropic.CountRequest, **_options)


def decode_message(
    body: bytes, ignored: IgnoredFields | None = None
) -> tuple[anthropic.MessageRequest, TranslatedRequest]:
    """Return the request in ``body``, and its translation; raises ``InvalidInput`` with the path to the field."""
    request = _messages.decode(body, ignored)
    check_model(request.model)
    translated = _to_chat(request, ignored)
    translated.chat.temperature = request.temperature
    translated.chat.top_p = request.top_p
    translated.chat.top_k = request.top_k
    translated.chat.user = request.metadata.user_id if request.metadata is not None else None
    tier = request.service_tier
    translated.chat.service_tier = "default" if tier == "standard_only" else tier
    translated.chat.max_tokens = request.max_tokens
    translated.chat.stop = request.stop_sequences or None
    return request, translated


def decode_count(body: bytes, ignored: IgnoredFields | None = None) -> tuple[anthropic.CountRequest, TranslatedRequest]:
    """Return the request for a token count in ``body``, and its translation; raises ``InvalidInput``."""
    request = _counts.decode(body, ignored)
    check_model(request.model)
    return request, _to_chat(request, ignored)
