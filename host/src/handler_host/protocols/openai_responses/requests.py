"""Requests of OpenAI's Responses API, validated and translated to ``handler_host.chat.types``. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from handler_host.chat import types as chat
from handler_host.plugin.errors import InvalidInput
from handler_host.protocols.body_decoder import BodyDecoder
from handler_host.protocols.openai_responses.input import Item, RequestModel, conversation
from handler_host.protocols.translated_request import TranslatedRequest

IGNORED = frozenset(
    {
        "metadata",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
    }
)
"""Fields that are accepted and have no effect: the host stores nothing, and responds with ``"store": false``."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "background": (False,),
    "context_management": ([],),
    "conversation": (),
    "include": ([],),
    "max_tool_calls": (),
    "moderation": (),
    "previous_response_id": (),
    "prompt": (),
    "reasoning": ({}, {"effort": None}, {"effort": None, "summary": None}),
    "top_logprobs": (0,),
    "truncation": ("disabled",),
}
"""Unsupported fields, each with the values, apart from null, that request nothing."""

REMEDIES = {
    "background": "wait for the response, or stream it",
    "conversation": "the host stores nothing; send the whole conversation as input",
    "previous_response_id": "the host stores nothing; send the whole conversation as input",
    "prompt": "the host stores nothing; send instructions and input",
}

NAMES = {
    "max_tokens": "max_output_tokens",
    "messages": "input",
    "response_format": "text.format",
    "response_format.json_schema": "text.format",
    "tool_choice.function": "tool_choice",
    "tools.function": "tools",
}
"""The client's path of each field of a chat request."""

CHOICES = {
    "input[].type": "message, function_call or function_call_output",
    "input[].role": "user, assistant, system or developer",
    "input[].content[].type": "input_text, input_image, output_text or refusal",
    "input[].content[].detail": "auto, low or high",
    "input[].output[].type": "input_text",
    "text.format.type": "text, json_object or json_schema",
    "tool_choice": "none, auto, required or a function",
    "tool_choice.type": "function; built-in tools are unsupported",
    "tools[].type": "function; built-in tools are unsupported",
}
"""The valid words of each field that takes one of a few, for error messages."""


class FunctionTool(RequestModel, tag_field="type", tag="function"):
    """A function that the model may call."""

    name: str
    parameters: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class FunctionChoice(RequestModel, tag_field="type", tag="function"):
    """A function that the model must call."""

    name: str


class JsonSchemaFormat(RequestModel, tag_field="type", tag="json_schema"):
    """A response that is a JSON document and fits a schema."""

    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class Text(RequestModel):
    """Options of the text of a response."""

    format: chat.TextFormat | chat.JsonObjectFormat | JsonSchemaFormat | None = None
    verbosity: Literal["medium"] | None = None
    """Only the default."""


class StreamOptions(RequestModel):
    """Options of a stream."""

    include_obfuscation: bool | None = None
    """Padding against observers of the network; the host adds none."""


class ResponseRequest(RequestModel):
    """The body of ``POST /v1/responses``."""

    model: Annotated[str, Meta(min_length=1)]
    input: str | list[Item]
    instructions: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    text: Text | None = None
    user: str | None = None

    def to_chat(self) -> TranslatedRequest:
        """Return the translated request; raises ``InvalidInput`` with the path to the field."""
        messages: list[chat.Message]
        if isinstance(self.input, str):
            messages, places = [chat.UserMessage(content=self.input)], ["input"]
        else:
            messages, places = conversation(self.input)
        if self.instructions:
            messages.insert(0, chat.SystemMessage(content=self.instructions))
            places.insert(0, "instructions")
        request = chat.ChatRequest(
            messages=messages,
            model=self.model.partition("/")[2] or None,
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_output_tokens,
            tools=[_to_tool(tool) for tool in self.tools or ()] or None,
            tool_choice=self._tool_choice(),
            parallel_tool_calls=self.parallel_tool_calls,
            response_format=self._format(),
            user=self.user,
        )
        tools = [f"tools[{number}]" for number in range(len(self.tools or ()))]
        return TranslatedRequest(request, places, tools, NAMES)

    def _tool_choice(self) -> Literal["none", "auto", "required"] | chat.NamedToolChoice | None:
        if isinstance(self.tool_choice, FunctionChoice):
            return chat.NamedToolChoice(function=chat.NamedFunction(name=self.tool_choice.name))
        return self.tool_choice

    def _format(self) -> chat.TextFormat | chat.JsonObjectFormat | chat.JsonSchemaFormat | None:
        form = self.text.format if self.text is not None else None
        if isinstance(form, JsonSchemaFormat):
            return chat.JsonSchemaFormat(
                json_schema=chat.JsonSchema(
                    name=form.name, schema=form.schema, description=form.description, strict=form.strict
                )
            )
        return None if isinstance(form, chat.TextFormat) else form  # text is the default of every handler


def _to_tool(tool: FunctionTool) -> chat.Tool:
    return chat.Tool(
        function=chat.FunctionSpec(
            name=tool.name, description=tool.description, parameters=tool.parameters, strict=tool.strict
        )
    )


_decoder = BodyDecoder(ResponseRequest, ignored=IGNORED, neutral=NEUTRAL, remedies=REMEDIES, choices=CHOICES)


def decode_request(body: bytes) -> ResponseRequest:
    """Return the request in ``body``; raises ``InvalidInput`` with the path to the field."""
    request = _decoder.decode(body)
    if not request.input:
        raise InvalidInput("input: must have at least one item, or text", param="input")
    if request.stream_options is not None and not request.stream:
        raise InvalidInput("stream_options: valid with stream: true only", param="stream_options")
    if not request.model.partition("/")[0] or request.model.endswith("/"):
        raise InvalidInput(f"model: {request.model!r} must be HANDLER or HANDLER/MODEL", param="model")
    return request


def decode_chat(body: bytes) -> tuple[ResponseRequest, TranslatedRequest]:
    """Return the request in ``body``, and its translation; raises ``InvalidInput`` with the path to the field."""
    request = decode_request(body)
    return request, request.to_chat()
