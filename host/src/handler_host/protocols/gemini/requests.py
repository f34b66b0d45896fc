"""Requests of Gemini's generateContent, validated and translated to ``handler_host.chat.types``. Pure.

As everywhere in Google's JSON, a field's name may be ``inlineData`` or ``inline_data``, and an enum's word its number.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from handler_host._internal.field_path import FieldPath
from handler_host.chat import types as chat
from handler_host.plugin.errors import InvalidInput
from handler_host.protocols.body_decoder import BodyDecoder
from handler_host.protocols.fields import ECHO, PROVIDER_TOOL, Field, IgnoredFields, demand, hint
from handler_host.protocols.gemini.contents import Content, messages, system_text
from handler_host.protocols.gemini.enum_format import enum_format
from handler_host.protocols.gemini.schemas import json_schema
from handler_host.protocols.translated_request import TranslatedRequest, several

FIELDS: dict[str, Field] = {
    "cachedContent": demand(remedy="the host stores nothing; send the contents themselves"),
    "continuationToken": demand(),
    "generationConfig.audioTimestamp": hint(False),
    "generationConfig.enableAffectiveDialog": hint(False),
    "generationConfig.enableEnhancedCivicAnswers": hint(False),
    "generationConfig.imageConfig": demand(),
    "generationConfig.mediaResolution": hint("MEDIA_RESOLUTION_UNSPECIFIED"),
    "generationConfig.modelSelectionConfig": hint(),
    "generationConfig.routingConfig": hint(),
    "generationConfig.speechConfig": demand(),
    "labels": hint(),
    "model": ECHO,
    "safetySettings": hint(),
    "store": hint(False),
    "systemInstruction.role": ECHO,
    "toolConfig.includeServerSideToolInvocations": hint(False),
    "toolConfig.retrievalConfig": hint(),
    "tools[].codeExecution": PROVIDER_TOOL,
    "tools[].googleSearch": PROVIDER_TOOL,
    "tools[].googleSearchRetrieval": PROVIDER_TOOL,
    "tools[].urlContext": PROVIDER_TOOL,
    "contents[].parts[].mediaResolution": hint(),
    "contents[].parts[].videoMetadata": hint(),
    "tools[].functionDeclarations[].behavior": hint("BLOCKING"),
    "tools[].functionDeclarations[].response": hint(),
    "tools[].functionDeclarations[].responseJsonSchema": hint(),
}
"""Fields that a chat request has no place for."""

CHOICES = {
    "contents[].role": "user, model or function",
    "generationConfig.responseMimeType": "text/plain, application/json or text/x.enum",
    "generationConfig.responseModalities[]": "TEXT",
    "toolConfig.functionCallingConfig.mode": "AUTO, ANY, NONE or VALIDATED",
}
"""The valid words of each field that takes one of a few, for error messages."""

OPAQUE = frozenset({"args", "response", "parameters", "parametersJsonSchema", "responseJsonSchema", "responseSchema"})
"""Fields whose content has the client's own names."""
MODES: dict[str | int, str] = {
    0: "auto",
    1: "auto",
    2: "any",
    3: "none",
    "MODE_UNSPECIFIED": "auto",
    "VALIDATED": "auto",  # calls fit their schema
}


PLACES = {
    "temperature": "generationConfig.temperature",
    "top_p": "generationConfig.topP",
    "top_k": "generationConfig.topK",
    "reasoning": "generationConfig.thinkingConfig",
    "service_tier": "serviceTier",
    "logprobs": "generationConfig.responseLogprobs",
    "top_logprobs": "generationConfig.logprobs",
    "reasoning.summary": "generationConfig.thinkingConfig.includeThoughts",
    "messages[].reasoning": "contents[].parts[].thoughtSignature",
    "messages[].tool_calls[].signature": "contents[].parts[].thoughtSignature",
    "messages[].content[].file": "contents[].parts[].inlineData",
    "messages[].content[].input_audio": "contents[].parts[].inlineData",
    "messages[].content[].file.filename": "contents[].parts[].inlineData.displayName",
    "max_tokens": "generationConfig.maxOutputTokens",
    "stop": "generationConfig.stopSequences",
    "seed": "generationConfig.seed",
    "n": "generationConfig.candidateCount",
    "presence_penalty": "generationConfig.presencePenalty",
    "frequency_penalty": "generationConfig.frequencyPenalty",
    "response_format": "generationConfig.responseMimeType",
    "response_format.json_schema.schema": "generationConfig.responseSchema",
    "tool_choice": "toolConfig.functionCallingConfig",
    "tools.function": "tools",
    "tools.function.parameters": "tools.parameters",
}
"""The client's path of each field of a chat request."""
JSON_SCHEMA = {"response_format.json_schema.schema": "generationConfig.responseJsonSchema"}
"""Paths that differ for a client that sends JSON Schema."""


class _Request(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Base of requests and their parts."""


class FunctionDeclaration(_Request):
    """A function that the model may call; the older field of its parameters is a Schema, the newer JSON Schema."""

    name: Annotated[str, Meta(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    parameters_json_schema: dict[str, Any] | None = None


class Tool(_Request):
    """Functions; Google's own tools (search, code execution, ...) are left out."""

    function_declarations: list[FunctionDeclaration] = []


class FunctionCallingConfig(_Request):
    """Which functions the model may or must call."""

    mode: Literal["MODE_UNSPECIFIED", "AUTO", "ANY", "NONE", "VALIDATED", 0, 1, 2, 3] | None = None
    allowed_function_names: list[str] | None = None


class ToolConfig(_Request):
    """Options of the tools."""

    function_calling_config: FunctionCallingConfig | None = None


class ThinkingConfig(_Request):
    """Options of the reasoning."""

    include_thoughts: bool | None = None
    thinking_budget: int | None = None
    thinking_level: str | None = None


class GenerationConfig(_Request):
    """Options of the response."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    stop_sequences: list[str] | None = None
    seed: int | None = None
    candidate_count: Annotated[int, Meta(ge=1, le=128)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    top_k: float | None = None
    response_logprobs: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_mime_type: Literal["", "text/plain", "application/json", "text/x.enum"] | None = None
    response_schema: dict[str, Any] | None = None
    response_json_schema: dict[str, Any] | None = None
    response_modalities: list[Literal["TEXT", 1]] | None = None
    thinking_config: ThinkingConfig | None = None


class GenerateContentRequest(_Request):
    """The body of ``:generateContent`` and ``:streamGenerateContent``."""

    contents: Annotated[list[Content], Meta(min_length=1)]
    system_instruction: Content | None = None
    tools: list[Tool] | None = None
    tool_config: ToolConfig | None = None
    generation_config: GenerationConfig | None = None
    service_tier: str | None = None

    def to_chat(self, model: str, ignored: IgnoredFields | None = None) -> TranslatedRequest:
        """Return the translated request; ``model`` is ``handler`` or ``handler/model``."""
        config = self.generation_config or GenerationConfig()
        tools, choice = self._tools()
        translated, places = messages(self.contents)
        if self.system_instruction is not None and (text := system_text(self.system_instruction)):
            translated.insert(0, chat.SystemMessage(content=text))
            places.insert(0, "systemInstruction")
        request = chat.ChatRequest(
            messages=translated,
            model=model.partition("/")[2] or None,
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=round(config.top_k) if config.top_k is not None else None,
            reasoning=_reasoning(config.thinking_config),
            service_tier=_service_tier(self.service_tier),
            logprobs=config.response_logprobs,
            top_logprobs=config.logprobs,
            max_tokens=config.max_output_tokens,
            stop=config.stop_sequences or None,
            seed=config.seed,
            n=several(config.candidate_count),
            tools=list(tools.values()) or None,
            tool_choice=choice,
            response_format=_format(config),
            presence_penalty=config.presence_penalty,
            frequency_penalty=config.frequency_penalty,
        )
        names = {**PLACES, **JSON_SCHEMA} if config.response_json_schema is not None else PLACES
        return TranslatedRequest(request, places, list(tools), names, ignored or IgnoredFields())

    def _tools(self) -> tuple[dict[str, chat.Tool], Any]:
        """Return the functions that the model may call, by their paths, and the tool choice."""
        tools = {
            f"tools[{number}].functionDeclarations[{index}]": function
            for number, tool in enumerate(self.tools or ())
            for index, function in enumerate(tool.function_declarations)
        }
        translated = {place: _tool(function, place) for place, function in tools.items()}
        config = (self.tool_config or ToolConfig()).function_calling_config or FunctionCallingConfig()
        mode = None if config.mode is None else MODES.get(config.mode, str(config.mode).lower())
        allowed = config.allowed_function_names
        field = "toolConfig.functionCallingConfig.allowedFunctionNames"
        if not allowed:
            return translated, "required" if mode == "any" else mode if translated else None
        if mode != "any" and config.mode != "VALIDATED":
            raise InvalidInput(f"{field}: valid with the modes ANY and VALIDATED only", param=field)
        known = {function.name for function in tools.values()}
        for name in allowed:
            if name not in known:
                raise InvalidInput(f"{field}: unknown function {name!r}", param=field)
        if len(allowed) == 1 and mode == "any":
            return translated, chat.NamedToolChoice(function=chat.NamedFunction(name=allowed[0]))
        names = frozenset(allowed)
        chosen = {place: tool for place, tool in translated.items() if tool.function.name in names}
        return chosen, "required" if mode == "any" else mode


def _service_tier(tier: str | None) -> str | None:
    """Return OpenAI's word for a tier; Google's SDKs write theirs in any case."""
    if tier is None:
        return None
    return {"standard": "default", "unspecified": "auto"}.get(tier.lower(), tier.lower())


def _reasoning(config: ThinkingConfig | None) -> chat.ReasoningOptions | None:
    if config is None:
        return None
    level = config.thinking_level.lower() if config.thinking_level else None
    return chat.ReasoningOptions(
        effort=None if level == "thinking_level_unspecified" else level,
        budget_tokens=config.thinking_budget,
        summary="auto" if config.include_thoughts else None,
    )


def _tool(function: FunctionDeclaration, place: str) -> chat.Tool:
    parameters = function.parameters_json_schema
    if function.parameters is not None:
        if parameters is not None:
            field = f"{place}.parametersJsonSchema"
            raise InvalidInput(f"{field}: parameters are also set; set one of them", param=field)
        parameters = json_schema(function.parameters, FieldPath(FieldPath(None, place), "parameters"))
    return chat.Tool(
        function=chat.FunctionSpec(name=function.name, description=function.description or None, parameters=parameters)
    )


def _format(config: GenerationConfig) -> chat.JsonObjectFormat | chat.JsonSchemaFormat | None:
    schema, field = config.response_json_schema, "generationConfig.responseJsonSchema"
    if config.response_schema is not None:
        field = "generationConfig.responseSchema"
        if schema is not None:
            raise InvalidInput(f"{field}: responseJsonSchema is also set; set one of them", param=field)
        schema = json_schema(config.response_schema, FieldPath(None, field))
    if config.response_mime_type == "text/x.enum":
        return enum_format(schema, field if schema is not None else "generationConfig.responseSchema")
    if config.response_mime_type != "application/json":
        if schema is None:
            return None
        raise InvalidInput(f"{field}: valid with responseMimeType application/json only", param=field)
    if schema is None:
        return chat.JsonObjectFormat()
    return chat.JsonSchemaFormat(json_schema=chat.JsonSchema(name="answer", schema=schema))


class CountTokensRequest(_Request):
    """The body of ``:countTokens``: contents, or a whole request."""

    contents: list[Content] | None = None
    generate_content_request: dict[str, Any] | None = None


def decode_request(body: bytes, ignored: IgnoredFields | None = None) -> GenerateContentRequest:
    """Return the request in ``body``; raises ``InvalidInput`` with the path to the field."""
    return _decoder.decode(body, ignored)


def decode_count(body: bytes, ignored: IgnoredFields | None = None) -> GenerateContentRequest:
    """Return the request whose tokens the client counts; raises ``InvalidInput``."""
    count = _count_decoder.decode(body, ignored)
    if count.generate_content_request is not None:
        return decode_request(msgspec.json.encode(count.generate_content_request), ignored)
    if not count.contents:
        raise InvalidInput("contents is missing", param="contents")
    return GenerateContentRequest(contents=count.contents)


def with_camel_names(value: Any) -> Any:
    """Return a body with its names in camel case: clients may write them with underscores."""
    if isinstance(value, list):
        return [with_camel_names(item) for item in value]
    if not isinstance(value, dict):
        return value
    names = {name: _camel(name) if "_" in name else name for name in value}
    return {names[name]: item if names[name] in OPAQUE else with_camel_names(item) for name, item in value.items()}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest) if first else name


_count_decoder = BodyDecoder(CountTokensRequest, rename=with_camel_names)
_decoder = BodyDecoder(GenerateContentRequest, fields=FIELDS, choices=CHOICES, rename=with_camel_names)
