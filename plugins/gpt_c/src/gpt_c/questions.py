"""A chat request in Google's terms. Pure."""

from __future__ import annotations

import base64
import json
from typing import Any

from gpt_c.backend import Question, version_of
from gpt_c.model_path import model_path
from handler_host.chat import (
    AssistantMessage,
    AudioPart,
    ChatRequest,
    Content,
    ImagePart,
    JsonObjectFormat,
    JsonSchemaFormat,
    MediaPart,
    NamedToolChoice,
    ReasoningOptions,
    SystemMessage,
    TextPart,
    ToolMessage,
    UserMessage,
    arguments_of,
    content_text,
    data_of,
    image_of,
)
from handler_host.plugin import InvalidInput

FIRST_THINKING = (2, 5)
"""First version of the models that reason."""
FIRST_WITH_LEVELS = (3, 0)
"""First version of the models that take a level in place of a budget."""
LEVELS = {"none": "minimal", "minimal": "minimal", "low": "low", "medium": "medium", "high": "high"}
BUDGETS = {"none": 0, "minimal": 512, "low": 1024, "medium": 8192, "high": 24576}
"""Tokens of reasoning for each effort."""
_MODES = {"none": "NONE", "auto": "AUTO", "required": "ANY"}
_NUMBERS = ("temperature", "top_p", "top_k", "seed", "presence_penalty", "frequency_penalty")


def question(request: ChatRequest, model: str) -> Question:
    """Return the request as a question to ``model``; raises ``InvalidInput`` for what cannot be asked."""
    contents = _contents(request)
    if not contents:
        raise InvalidInput("messages: Gemini wants a message beside the instructions", param="messages")
    config = {name: value for name in _NUMBERS if (value := getattr(request, name)) is not None}
    if request.max_tokens is not None:
        config["max_output_tokens"] = request.max_tokens
    if request.n is not None:
        config["candidate_count"] = request.n
    if request.logprobs:
        config["response_logprobs"] = True
        if request.top_logprobs:
            config["logprobs"] = request.top_logprobs
    if request.stop:
        config["stop_sequences"] = request.stop
    schema = None
    if isinstance(request.response_format, JsonObjectFormat | JsonSchemaFormat):
        config["response_mime_type"] = "application/json"
    if isinstance(request.response_format, JsonSchemaFormat):
        schema = request.response_format.json_schema.described_schema
    instructions = [content_text(message.content) for message in request.messages if isinstance(message, SystemMessage)]
    model = model_path(model)
    thinking, ignored = _thinking(request.reasoning, model)
    return Question(
        thinking=thinking,
        ignored=ignored,
        model=model,
        contents=contents,
        system="\n\n".join(instructions) if instructions else None,
        functions=[_function(tool.function) for tool in request.tools or ()],
        tool_config=_tool_config(request) if request.tools else None,
        config=config,
        schema=schema,
    )


def _thinking(options: ReasoningOptions | None, model: str) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """Return the options of the reasoning, and the fields that the model does not take."""
    if options is None:
        return None, ()
    version = version_of(model)
    if version < FIRST_THINKING:
        return None, () if options.is_off else ("reasoning",)
    thinking: dict[str, Any] = {"include_thoughts": True} if options.summary is not None else {}
    if options.budget_tokens is not None:
        thinking["thinking_budget"] = options.budget_tokens
    elif options.effort is not None and version >= FIRST_WITH_LEVELS:
        thinking["thinking_level"] = LEVELS.get(options.effort, "high").upper()
    elif options.effort is not None:
        thinking["thinking_budget"] = BUDGETS.get(options.effort, BUDGETS["high"])
    return thinking or None, ()


def _contents(request: ChatRequest) -> list[dict[str, Any]]:
    contents: list[dict[str, Any]] = []
    called: dict[str, str] = {}
    results: list[dict[str, Any]] | None = None
    for number, message in enumerate(request.messages):
        place = f"messages[{number}]"
        if isinstance(message, SystemMessage):
            continue
        if isinstance(message, ToolMessage):
            # The results of one turn's calls belong into one content.
            if results is None:
                results = []
                contents.append({"role": "user", "parts": results})
            results.append({"function_response": _result(message, called)})
            continue
        results = None
        if isinstance(message, UserMessage):
            contents.append({"role": "user", "parts": _parts(message.content, f"{place}.content")})
        else:
            called |= {call.id: call.function.name for call in message.tool_calls or ()}
            contents.append({"role": "model", "parts": _said(message)})
    return contents


def _parts(content: Content, place: str) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"text": content}]
    if not content:
        raise InvalidInput(f"{place}: is empty", param=place)
    return [_part(part, f"{place}[{number}]") for number, part in enumerate(content)]


def _part(part: TextPart | MediaPart, place: str) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"text": part.text}
    if isinstance(part, ImagePart):
        return {"inline_data": _image(part, place)}
    if isinstance(part, AudioPart):
        return {"inline_data": _recording(part, f"{place}.input_audio")}
    field = f"{place}.file.url"
    if not part.file.url.startswith("data:"):
        raise InvalidInput(
            f"{field}: Gemini does not fetch documents; send the document itself, as a data: URL", param=field
        )
    kind, data = data_of(part.file.url, field)
    return {"inline_data": {"mime_type": kind, "data": data}}


def _recording(part: AudioPart, place: str) -> dict[str, Any]:
    try:
        data = base64.b64decode(part.input_audio.data, validate=True)
    except ValueError as error:
        raise InvalidInput(f"{place}.data: invalid base64: {error}", param=f"{place}.data") from None
    return {"mime_type": f"audio/{part.input_audio.format}", "data": data}


def _image(part: ImagePart, place: str) -> dict[str, Any]:
    field = f"{place}.image_url.url"
    url = part.image_url.url
    if not url.startswith("data:"):
        raise InvalidInput(f"{field}: Gemini does not fetch images; send the image itself, as a data: URL", param=field)
    kind, data = image_of(url, field)
    return {"mime_type": kind, "data": data}


def _said(message: AssistantMessage) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"text": text} for text in (content_text(message.content), message.refusal) if text]
    for call in message.tool_calls or ():
        function = {"id": call.id, "name": call.function.name, "args": arguments_of(call.function.arguments)}
        part: dict[str, Any] = {"function_call": function}
        parts.append(part if call.signature is None else {**part, "thought_signature": call.signature})
    return parts or [{"text": ""}]


def _result(message: ToolMessage, called: dict[str, str]) -> dict[str, Any]:
    """Return a tool's result; Google accepts objects only, so other values become ``{"output": ...}``."""
    text = content_text(message.content)
    try:
        response = json.loads(text)
    except ValueError:
        response = None
    if not isinstance(response, dict):
        response = {"output": text}
    return {"id": message.tool_call_id, "name": called[message.tool_call_id], "response": response}


def _function(spec: Any) -> dict[str, Any]:
    declaration: dict[str, Any] = {"name": spec.name}
    if spec.description is not None:
        declaration["description"] = spec.description
    # Google refuses the schema of an object without properties; without one it takes no arguments either.
    if spec.parameters and spec.parameters.get("properties"):
        declaration["parameters"] = spec.parameters
    return declaration


def _tool_config(request: ChatRequest) -> dict[str, Any] | None:
    choice = request.tool_choice
    if choice is None:
        return None
    if isinstance(choice, NamedToolChoice):
        return {"function_calling_config": {"mode": "ANY", "allowed_function_names": [choice.function.name]}}
    return {"function_calling_config": {"mode": _MODES[choice]}}
