"""Requests of OpenAI's Responses API, validated and translated to ``handler_host.chat.types``. Pure."""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal

from msgspec import Meta

from handler_host.chat import types as chat
from handler_host.plugin.errors import InvalidInput
from handler_host.protocols.body_decoder import BodyDecoder
from handler_host.protocols.fields import ECHO, Field, IgnoredFields, demand, hint
from handler_host.protocols.openai_responses.input import Conversation, Item, RequestModel, skipped_item
from handler_host.protocols.openai_responses.tools import Tool, ToolTable, skipped_tool
from handler_host.protocols.pruning import Skip
from handler_host.protocols.translated_request import TranslatedRequest, check_model

FIELDS: dict[str, Field] = {
    "background": demand(False, remedy="wait for the response, or stream it"),
    "client_metadata": hint(),
    "context_management": hint(),
    "conversation": demand(remedy="the host stores nothing; send the whole conversation as input"),
    "include": hint(),
    "input[].content[].file_id": demand(remedy="the host stores no files; send image_url, file_data or file_url"),
    "input[].output[].file_id": demand(remedy="the host stores no files; send image_url, file_data or file_url"),
    "input[].item_reference": demand(remedy="the host stores nothing; send the item itself"),
    "max_tool_calls": hint(),
    "metadata": hint(),
    "moderation": hint(),
    "previous_response_id": demand(remedy="the host stores nothing; send the whole conversation as input"),
    "prompt": demand(remedy="the host stores nothing; send instructions and input"),
    "prompt_cache_options": hint(),
    "prompt_cache_retention": hint("in_memory"),
    "reasoning.context": hint(),
    "reasoning.generate_summary": hint(),
    "safety_identifier": hint(),
    "store": hint(False, True),
    "truncation": hint("disabled"),
    "input[].async_": ECHO,
    "input[].created_by": ECHO,
    "input[].content[].async_": ECHO,
    "input[].output[].annotations": ECHO,
    "input[].response_id": ECHO,
    "tools[].async_": ECHO,
}
"""Fields that a chat request has no place for."""
LOGPROBS = "message.output_text.logprobs"
INCLUDED = frozenset({"reasoning.encrypted_content", LOGPROBS})
"""Values of ``include`` that have an effect here."""

NAMES = {
    "max_tokens": "max_output_tokens",
    "messages[].reasoning": "input[].reasoning",
    "messages[].content[].file": "input[].content[].input_file",
    "messages[].content[].input_audio": "input[].content[].input_audio",
    "messages[].content[].file.filename": "input[].content[].filename",
    "messages[].content[].image_url.detail": "input[].content[].detail",
    "verbosity": "text.verbosity",
    "logprobs": "include",
    "messages": "input",
    "response_format": "text.format",
    "response_format.json_schema": "text.format",
    "tool_choice.function": "tool_choice",
    "tools.function": "tools",
}
"""The client's path of each field of a chat request."""

CHOICES = {
    "input[].type": "message, reasoning, function_call, function_call_output, custom_tool_call, "
    "custom_tool_call_output or additional_tools",
    "input[].role": "user, assistant, system or developer",
    "input[].content[].type": "input_text, input_image, input_file, input_audio, output_text or refusal",
    "input[].content[].detail": "auto, low, high or original",
    "input[].output[].type": "input_text, input_image or input_file",
    "text.format.type": "text, json_object or json_schema",
    "tool_choice": "none, auto, required or a tool",
    "tool_choice.type": "function, custom or allowed_tools; built-in tools are unsupported",
    "tools[].type": "function, custom or namespace",
}
"""The valid words of each field that takes one of a few, for error messages."""


class FunctionChoice(RequestModel, tag_field="type", tag="function"):
    """A function that the model must call."""

    name: str


class CustomChoice(RequestModel, tag_field="type", tag="custom"):
    """A tool with free text that the model must call."""

    name: str


class AllowedTool(RequestModel):
    """A tool that the model may call."""

    type: str
    name: str | None = None


class AllowedTools(RequestModel, tag_field="type", tag="allowed_tools"):
    """The tools that the model may call in this response."""

    mode: Literal["auto", "required"]
    tools: list[AllowedTool]


class JsonSchemaFormat(RequestModel, tag_field="type", tag="json_schema"):
    """A response that is a JSON document and fits a schema."""

    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class Text(RequestModel):
    """Options of the text of a response."""

    format: chat.TextFormat | chat.JsonObjectFormat | JsonSchemaFormat | None = None
    verbosity: str | None = None


class Reasoning(RequestModel):
    """Options of the reasoning."""

    effort: str | None = None
    summary: str | None = None


class StreamOptions(RequestModel):
    """Options of a stream."""

    include_obfuscation: bool | None = None
    """Padding against observers of the network; the host adds none."""


class ResponseRequest(RequestModel, dict=True):
    """The body of ``POST /v1/responses``."""

    model: Annotated[str, Meta(min_length=1)]
    input: str | list[Item | None]
    """Null stands for an item that is left out."""
    instructions: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    tools: list[Tool | None] | None = None
    """Null stands for a tool that runs at the provider, which is left out."""
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | CustomChoice | AllowedTools | None = None
    parallel_tool_calls: bool | None = None
    include: list[str] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    text: Text | None = None
    reasoning: Reasoning | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None
    user: str | None = None

    @functools.cached_property
    def tool_table(self) -> ToolTable:
        """The tools of the request and of its input."""
        tools = [(f"tools[{number}]", tool) for number, tool in enumerate(self.tools or ())]
        if not isinstance(self.input, str):
            tools += [
                (f"input[{index}].tools[{number}]", tool)
                for index, item in enumerate(self.input)
                if item is not None and item.tools
                for number, tool in enumerate(item.tools)
            ]
        return ToolTable((place, tool) for place, tool in tools if tool is not None)

    def to_chat(self, ignored: IgnoredFields | None = None) -> TranslatedRequest:
        """Return the translated request; raises ``InvalidInput`` with the path to the field."""
        conversation = Conversation(self.tool_table)
        if self.instructions:
            conversation.messages.append(chat.SystemMessage(content=self.instructions))
            conversation.places.append("instructions")
        if isinstance(self.input, str):
            conversation.messages.append(chat.UserMessage(content=self.input))
            conversation.places.append("input")
        else:
            for number, item in enumerate(self.input):
                if item is not None:
                    conversation.add(item, f"input[{number}]")
        conversation.finish()
        tools, choice = self._tools()
        reasoning = self.reasoning
        request = chat.ChatRequest(
            messages=conversation.messages,
            model=self.model.partition("/")[2] or None,
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_output_tokens,
            max_completion_tokens=self.max_output_tokens,
            tools=tools or None,
            tool_choice=choice,
            parallel_tool_calls=self.parallel_tool_calls,
            response_format=self._format(),
            reasoning=chat.ReasoningOptions(effort=reasoning.effort, summary=reasoning.summary) if reasoning else None,
            logprobs=LOGPROBS in (self.include or ()) or bool(self.top_logprobs) or None,
            top_logprobs=self.top_logprobs,
            verbosity=self.text.verbosity if self.text is not None else None,
            prompt_cache_key=self.prompt_cache_key,
            service_tier=self.service_tier,
            user=self.user,
        )
        return TranslatedRequest(
            request, conversation.places, self.tool_table.places, NAMES, ignored or IgnoredFields()
        )

    def _tools(self) -> tuple[list[chat.Tool], Any]:
        """Return the functions that the model may call, and the tool choice."""
        table, choice = self.tool_table, self.tool_choice
        functions = list(table.functions.values())
        if isinstance(choice, FunctionChoice | CustomChoice):
            name = table.function_name(None, choice.name)
            return functions, chat.NamedToolChoice(function=chat.NamedFunction(name=name))
        if isinstance(choice, AllowedTools):
            allowed = {table.function_name(None, tool.name) for tool in choice.tools if tool.name is not None}
            return [tool for tool in functions if tool.function.name in allowed], choice.mode
        return functions, choice if functions or choice == "required" else None

    def _format(self) -> chat.TextFormat | chat.JsonObjectFormat | chat.JsonSchemaFormat | None:
        form = self.text.format if self.text is not None else None
        if isinstance(form, JsonSchemaFormat):
            return chat.JsonSchemaFormat(
                json_schema=chat.JsonSchema(
                    name=form.name, schema=form.schema, description=form.description, strict=form.strict
                )
            )
        return None if isinstance(form, chat.TextFormat) else form  # text is the default of every handler


_SKIPS: dict[str, Skip] = {
    "input[]": skipped_item,
    "tools[]": skipped_tool,
    "tools[].tools[]": skipped_tool,
    "input[].tools[]": skipped_tool,
    "input[].tools[].tools[]": skipped_tool,
}
_decoder = BodyDecoder(ResponseRequest, fields=FIELDS, skips=_SKIPS, choices=CHOICES)


def decode_request(body: bytes, ignored: IgnoredFields | None = None) -> ResponseRequest:
    """Return the request in ``body``; raises ``InvalidInput`` with the path to the field."""
    ignored = ignored or IgnoredFields()
    request = _decoder.decode(body, ignored)
    if not INCLUDED.issuperset(request.include or ()):
        ignored.leave_out(FIELDS["include"], "include", "include")
    if not request.input:
        raise InvalidInput("input: must have at least one item, or text", param="input")
    if request.stream_options is not None and not request.stream:
        raise InvalidInput("stream_options: valid with stream: true only", param="stream_options")
    check_model(request.model)
    return request


def decode_chat(body: bytes, ignored: IgnoredFields) -> tuple[ResponseRequest, TranslatedRequest]:
    """Return the request in ``body``, and its translation; raises ``InvalidInput`` with the path to the field."""
    request = decode_request(body, ignored)
    return request, request.to_chat(ignored)
