"""Requests of OpenAI's chat completions, validated and translated to ``handler_host.chat.types``. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from handler_host.chat import types as chat
from handler_host.plugin.errors import InvalidInput
from handler_host.protocols.body_decoder import BodyDecoder
from handler_host.protocols.custom_tools import custom_function
from handler_host.protocols.fields import ECHO, PROVIDER_TOOL, Field, IgnoredFields, demand, hint
from handler_host.protocols.openai.messages import Message, RequestModel, to_chat_message
from handler_host.protocols.translated_request import TranslatedRequest, check_model, several

FIELDS: dict[str, Field] = {
    "audio": demand(),
    "function_call": demand(remedy="use tool_choice instead"),
    "functions": demand(remedy="use tools instead"),
    "metadata": hint(),
    "modalities": demand(["text"]),
    "moderation": hint(),
    "prediction": hint(),
    "prompt_cache_options": hint(),
    "prompt_cache_retention": hint("in_memory"),
    "response_format.schema": demand(),
    "safety_identifier": hint(),
    "store": hint(False),
    "web_search_options": PROVIDER_TOOL,
    "messages[].async_": ECHO,
    "messages[].id": ECHO,
    "messages[].name": ECHO,
    "messages[].parsed": ECHO,
    "messages[].provider_specific_fields": ECHO,
    "messages[].timestamp": ECHO,
    "messages[].tool_calls[].async_": ECHO,
    "messages[].tool_calls[].caller": ECHO,
    "messages[].tool_calls[].function.parsed_arguments": ECHO,
    "messages[].tool_calls[].index": ECHO,
    "messages[].tool_calls[].provider_specific_fields": ECHO,
    "messages[].audio": demand(remedy="the host stores no recordings; send the text of the response"),
    "messages[].function_call": demand(remedy="send tool_calls"),
    "messages[].content[].file.file_id": demand(remedy="the host stores no files; send file_data"),
    "messages[].content[].annotations": ECHO,
    "messages[].content[].image_url.format": ECHO,
    "messages[].content[].parsed": ECHO,
}
"""Fields that a chat request has no place for."""

NAMES = {
    "reasoning": "reasoning_effort",
    "reasoning.summary": "",
    "messages[].tool_calls[].signature": "messages[].tool_calls[].extra_content",
    "messages[].reasoning": "messages[].reasoning_content",
}
"""The client's names of fields of a chat request; empty: the client has no such field."""

CHOICES = {
    "messages[].role": "system, developer, user, assistant or tool",
    "messages[].content[].type": "text, image_url, file or input_audio",
    "messages[].content[].image_url.detail": "auto, low, high or original",
    "messages[].tool_calls[].type": "function or custom",
    "response_format.type": "text, json_object or json_schema",
    "tool_choice": "none, auto, required or a function",
    "tool_choice.type": "function, custom or allowed_tools",
    "tools[].type": "function or custom",
}
"""The valid words of each field that takes one of a few, for error messages."""

TOOL_TYPES = ("function", "custom")


class CustomTool(RequestModel):
    """A tool that takes free text."""

    name: str
    description: str | None = None
    format: dict[str, Any] | None = None


class Tool(RequestModel):
    """A tool that the client runs."""

    function: chat.FunctionSpec | None = None
    custom: CustomTool | None = None
    type: Literal["function", "custom"] = "function"
    cache_control: chat.CacheControl | None = None


class NamedTool(RequestModel):
    """The name of a tool."""

    name: str


class AllowedTool(RequestModel):
    """A tool that the model may call."""

    type: str
    function: NamedTool | None = None
    custom: NamedTool | None = None


class AllowedTools(RequestModel):
    """The tools that the model may call in this response."""

    mode: Literal["auto", "required"]
    tools: list[AllowedTool]


class ToolChoice(RequestModel):
    """A tool that the model must call, or the tools that it may call."""

    type: Literal["function", "custom", "allowed_tools"] = "function"
    function: NamedTool | None = None
    custom: NamedTool | None = None
    allowed_tools: AllowedTools | None = None


class StreamOptions(RequestModel):
    """Options of a stream."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    """Padding against observers of the network; the host adds none."""


class CompletionRequest(RequestModel):
    """The body of ``POST /v1/chat/completions``."""

    model: Annotated[str, Meta(min_length=1)]
    messages: Annotated[list[Message], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: int | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[Tool | None] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: chat.TextFormat | chat.JsonObjectFormat | chat.JsonSchemaFormat | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    cache_control: chat.CacheControl | None = None
    user: str | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream must end with a chunk of usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def custom_tools(self) -> frozenset[str]:
        """The names of the tools that take free text."""
        return frozenset(tool.custom.name for tool in self.tools or () if tool is not None and tool.custom is not None)

    def to_chat(self, ignored: IgnoredFields | None = None) -> TranslatedRequest:
        """Return the translated request; raises ``InvalidInput`` with the path to the field."""
        allowed = self._allowed_names()
        tools = [
            (f"tools[{number}]", tool)
            for number, tool in enumerate(self.tools or ())
            if tool is not None and (allowed is None or _name_of(tool) in allowed)
        ]
        places = [f"messages[{number}]" for number in range(len(self.messages))]
        effort = self.reasoning_effort
        request = chat.ChatRequest(
            messages=[to_chat_message(*pair) for pair in zip(self.messages, places, strict=True)],
            model=self.model.partition("/")[2] or None,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            max_tokens=self.max_completion_tokens if self.max_tokens is None else self.max_tokens,
            max_completion_tokens=self.max_completion_tokens,
            stop=[self.stop] if isinstance(self.stop, str) else self.stop,
            seed=self.seed,
            n=several(self.n),
            logit_bias=self.logit_bias,
            logprobs=self.logprobs,
            top_logprobs=self.top_logprobs,
            tools=[_tool(tool, place) for place, tool in tools] if self.tools is not None else None,
            tool_choice=self._tool_choice(),
            parallel_tool_calls=self.parallel_tool_calls,
            response_format=self.response_format,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            reasoning=chat.ReasoningOptions(effort=effort, summary="auto") if effort is not None else None,
            verbosity=self.verbosity,
            service_tier=self.service_tier,
            prompt_cache_key=self.prompt_cache_key,
            cache_control=self.cache_control,
            user=self.user,
        )
        return TranslatedRequest(request, [], [place for place, _ in tools], NAMES, ignored or IgnoredFields())

    def _allowed_names(self) -> set[str | None] | None:
        """Return the names of the tools that the model may call, or None for all."""
        choice = self.tool_choice
        if not isinstance(choice, ToolChoice) or choice.allowed_tools is None:
            return None
        return {_name_of(tool) for tool in choice.allowed_tools.tools} - {None}

    def _tool_choice(self) -> Literal["none", "auto", "required"] | chat.NamedToolChoice | None:
        choice = self.tool_choice
        if not isinstance(choice, ToolChoice):
            return choice
        if choice.allowed_tools is not None:
            return choice.allowed_tools.mode
        named = choice.function or choice.custom
        if named is None:
            raise InvalidInput(f"tool_choice.{choice.type} is missing", param=f"tool_choice.{choice.type}")
        return chat.NamedToolChoice(function=chat.NamedFunction(name=named.name))


def _name_of(tool: Tool | AllowedTool) -> str | None:
    named = tool.function or tool.custom
    return named.name if named is not None else None


def _tool(tool: Tool, place: str) -> chat.Tool:
    if tool.custom is not None:
        function = custom_function(tool.custom.name, tool.custom.description, tool.custom.format)
        return chat.Tool(function=function, cache_control=tool.cache_control)
    if tool.function is None:
        raise InvalidInput(f"{place}.function is missing", param=f"{place}.function")
    return chat.Tool(function=tool.function, cache_control=tool.cache_control)


def _skipped_tool(tool: dict[str, Any]) -> str | None:
    kind = tool.get("type", "function")
    return kind if isinstance(kind, str) and kind not in TOOL_TYPES else None


_decoder = BodyDecoder(CompletionRequest, fields=FIELDS, skips={"tools[]": _skipped_tool}, choices=CHOICES)


def decode_request(body: bytes, ignored: IgnoredFields | None = None) -> CompletionRequest:
    """Return the request in ``body``; raises ``InvalidInput`` with the path to the field."""
    request = _decoder.decode(body, ignored)
    if request.stream_options is not None and not request.stream:
        raise InvalidInput("stream_options: valid with stream: true only", param="stream_options")
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        raise InvalidInput(
            "max_completion_tokens: also set as max_tokens, its older name; set one of them",
            param="max_completion_tokens",
        )
    check_model(request.model)
    return request


def decode_chat(body: bytes, ignored: IgnoredFields) -> tuple[CompletionRequest, TranslatedRequest]:
    """Return the request in ``body``, and its translation; raises ``InvalidInput`` with the path to the field."""
    request = decode_request(body, ignored)
    return request, request.to_chat(ignored)
