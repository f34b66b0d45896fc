"""Translation of a chat request to the body of Anthropic's messages."""

from __future__ import annotations

import base64
from typing import Any

from handler_host.chat import (
    AssistantMessage,
    ChatRequest,
    ImagePart,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    NamedToolChoice,
    SystemMessage,
    TextPart,
    Tool,
    ToolMessage,
    arguments_of,
    content_text,
    image_of,
)
from handler_host.plugin import InvalidInput, refuse_fields

SAMPLING_VERSION = "2023-06-01"
"""API version that accepts ``temperature`` and ``top_p``: the next one, 2026-10-21, refuses them for all models."""
MEDIA_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
MAX_TEMPERATURE = 1.0

Json = dict[str, Any]


def headers_for(request: ChatRequest) -> dict[str, str]:
    """Return the headers that this request needs in addition to the client's."""
    sampling = request.temperature is not None or request.top_p is not None
    return {"anthropic-version": SAMPLING_VERSION} if sampling else {}


def message_body(request: ChatRequest, model: str, max_tokens: int) -> Json:
    """Return the body of a request; raises ``InvalidInput`` with a field that Anthropic lacks."""
    body = prompt_body(request, model)
    refuse_fields(request, "Anthropic", "seed", "presence_penalty", "frequency_penalty")
    if request.temperature is not None and not 0 <= request.temperature <= MAX_TEMPERATURE:
        raise InvalidInput(
            f"temperature: Anthropic takes 0 to {MAX_TEMPERATURE:g}, not {request.temperature:g}",
            param="temperature",
        )
    body["max_tokens"] = max_tokens if request.max_tokens is None else request.max_tokens
    optional = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop_sequences": request.stop or None,
        "metadata": {"user_id": request.user} if request.user else None,
    }
    return body | {name: value for name, value in optional.items() if value is not None}


def prompt_body(request: ChatRequest, model: str) -> Json:
    """Return the part of the body that token counts take, too."""
    body: Json = {"model": request.model or model, "messages": _messages(request.messages)}
    if not body["messages"]:
        raise InvalidInput("messages: Anthropic needs a message beside the instructions", param="messages")
    system = [block for message in request.messages for block in _system_blocks(message)]
    if system:
        body["system"] = system
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    choice = _tool_choice(request)
    if choice is not None:
        body["tool_choice"] = choice
    output = _output_format(request)
    if output is not None:
        body["output_config"] = {"format": output}
    return body


def _system_blocks(message: Message) -> list[Json]:
    """Return the instructions of a message: they go to the top of the request, where all models accept them."""
    if not isinstance(message, SystemMessage):
        return []
    texts = [message.content] if isinstance(message.content, str) else [part.text for part in message.content]
    return [_text(text) for text in texts if text]


def _messages(messages: list[Message]) -> list[Json]:
    translated: list[Json] = []
    results: list[Json] | None = None
    for number, message in enumerate(messages):
        if isinstance(message, SystemMessage):
            continue
        if isinstance(message, ToolMessage):
            # Anthropic wants the results of concurrent calls in one user message.
            if results is None:
                results = []
                translated.append({"role": "user", "content": results})
            results.append(_tool_result(message))
            continue
        results = None
        place = f"messages[{number}]"
        if isinstance(message, AssistantMessage):
            translated.append({"role": "assistant", "content": _assistant_content(message, place)})
        elif isinstance(message.content, str):
            translated.append({"role": "user", "content": message.content})
        else:
            blocks = [_part(part, f"{place}.content[{index}]") for index, part in enumerate(message.content)]
            translated.append({"role": "user", "content": blocks})
    return translated


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


def _part(part: TextPart | ImagePart, place: str) -> Json:
    return _text(part.text) if isinstance(part, TextPart) else _image(part.image_url.url, f"{place}.image_url.url")


def _image(url: str, place: str) -> Json:
    if not url.startswith("data:"):
        return {"type": "image", "source": {"type": "url", "url": url}}
    kind, data = image_of(url, place)
    if kind not in MEDIA_TYPES:
        raise InvalidInput(f"{place}: Anthropic takes images of {', '.join(MEDIA_TYPES)}, not {kind}", param=place)
    encoded = base64.b64encode(data).decode()
    return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": encoded}}


def _assistant_content(message: AssistantMessage, place: str) -> str | list[Json]:
    # Anthropic has no field for a refusal: its words become the text.
    text = content_text(message.content) or message.refusal or ""
    if not message.tool_calls:
        return text
    blocks = [_text(text)] if text else []
    for number, call in enumerate(message.tool_calls):
        arguments = arguments_of(call, f"{place}.tool_calls[{number}]")
        blocks.append({"type": "tool_use", "id": call.id, "name": call.function.name, "input": arguments})
    return blocks


def _tool_result(message: ToolMessage) -> Json:
    content = message.content if isinstance(message.content, str) else [_text(part.text) for part in message.content]
    return {"type": "tool_result", "tool_use_id": message.tool_call_id, "content": content}


def _tool(tool: Tool) -> Json:
    function = tool.function
    translated: Json = {"name": function.name, "input_schema": {"type": "object", **(function.parameters or {})}}
    if function.description is not None:
        translated["description"] = function.description
    if function.strict is not None:
        translated["strict"] = function.strict
    return translated


def _tool_choice(request: ChatRequest) -> Json | None:
    choice = request.tool_choice
    if isinstance(choice, NamedToolChoice):
        translated: Json = {"type": "tool", "name": choice.function.name}
    elif choice is not None:
        translated = {"type": {"none": "none", "auto": "auto", "required": "any"}[choice]}
    elif request.tools and request.parallel_tool_calls is False:
        translated = {"type": "auto"}
    else:
        return None
    if request.parallel_tool_calls is False and translated["type"] != "none":
        translated["disable_parallel_tool_use"] = True
    return translated


def _output_format(request: ChatRequest) -> Json | None:
    form = request.response_format
    if isinstance(form, JsonObjectFormat):
        raise InvalidInput(
            "response_format: Anthropic gives JSON by a schema only; use the type json_schema", param="response_format"
        )
    if not isinstance(form, JsonSchemaFormat):
        return None
    from anthropic import transform_schema

    try:
        # The SDK's own conversion: Anthropic accepts a part of JSON Schema only.
        schema = transform_schema(form.json_schema.schema)
    except Exception as error:  # noqa: BLE001 - any failure has its cause in the client's schema
        field = "response_format.json_schema.schema"
        reason = str(error) or type(error).__name__
        raise InvalidInput(f"{field}: Anthropic does not accept this schema: {reason}", param=field) from None
    return {"type": "json_schema", "schema": schema}
