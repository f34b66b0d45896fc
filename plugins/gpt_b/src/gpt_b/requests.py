"""Translation of a chat request to the body of Anthropic's messages."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from gpt_b.schemas import respell
from gpt_b.thinking import FIRST_WITH_SYSTEM_TURNS, FORMAT, thinking_for, version_of
from handler_host.chat import (
    AssistantMessage,
    ChatRequest,
    FilePart,
    ImagePart,
    JsonObjectFormat,
    JsonSchemaFormat,
    MediaPart,
    Message,
    NamedToolChoice,
    ReasoningPart,
    SystemMessage,
    TextPart,
    Tool,
    ToolMessage,
    UserMessage,
    arguments_of,
    content_text,
    data_of,
    fit_call_ids,
    flatten_tool_schemas,
    image_of,
)
from handler_host.plugin import InvalidInput

SAMPLING_VERSION = "2023-06-01"
"""API version that accepts ``temperature`` and ``top_p``: the next one, 2026-10-21, refuses them for all models."""
MEDIA_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
MAX_TEMPERATURE = 1.0
CALL_ID = re.compile(r"[a-zA-Z0-9_-]+")
SERVICE_TIERS = {"auto": "auto", "default": "standard_only"}
"""Anthropic's word for each tier of a request."""
JSON_ONLY = "Respond with one JSON object and nothing else: no Markdown, no text before or after it."
"""Instruction for a response in JSON without a schema: Anthropic itself has such responses by a schema only."""

Json = dict[str, Any]


def headers_for(request: ChatRequest) -> dict[str, str]:
    """Return the headers that this request needs in addition to the client's."""
    sampling = request.temperature is not None or request.top_p is not None
    return {"anthropic-version": SAMPLING_VERSION} if sampling else {}


class Body(NamedTuple):
    """The body of a request, and the fields of the chat that it leaves out."""

    content: Json
    ignored: list[str]


def message_body(request: ChatRequest, model: str, max_tokens: int) -> Body:
    """Return the body of a request; raises ``InvalidInput`` with a field that Anthropic lacks."""
    max_tokens = max_tokens if request.max_tokens is None else request.max_tokens
    body, ignored = prompt_body(request, model, max_tokens)
    temperature = request.temperature
    if temperature is not None and not 0 <= temperature <= MAX_TEMPERATURE:
        raise InvalidInput(
            f"temperature: Anthropic takes 0 to {MAX_TEMPERATURE:g}, not {temperature:g}", param="temperature"
        )
    tier = request.service_tier
    if tier is not None and tier not in SERVICE_TIERS:
        ignored = [*ignored, "service_tier"]
    body["max_tokens"] = max_tokens
    optional = {
        "temperature": temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "stop_sequences": request.stop or None,
        "service_tier": SERVICE_TIERS.get(tier or ""),
        "metadata": {"user_id": request.user} if request.user else None,
    }
    present = {name: value for name, value in optional.items() if value is not None and name not in ignored}
    return Body(body | present, ignored)


def prompt_body(request: ChatRequest, model: str, max_tokens: int) -> Body:
    """Return the part of the body that token counts take, too."""
    model = request.model or model
    in_place = version_of(model) >= FIRST_WITH_SYSTEM_TURNS
    fit_call_ids(request, CALL_ID)
    first = next((n for n, m in enumerate(request.messages) if not isinstance(m, SystemMessage)), 0)
    turns, ignored = _messages(request.messages, first if in_place else len(request.messages))
    body: Json = {"model": model, "messages": turns}
    if not turns:
        raise InvalidInput("messages: Anthropic needs a message beside the instructions", param="messages")
    instructions = request.messages[:first] if in_place else request.messages
    system = [block for message in instructions for block in _system_blocks(message)]
    if isinstance(request.response_format, JsonObjectFormat):
        system.append(_text(JSON_ONLY))
    if system:
        body["system"] = system
    if request.tools:
        ignored += flatten_tool_schemas(request)
        body["tools"] = [_tool(tool) for tool in request.tools]
    choice = _tool_choice(request)
    if choice is not None:
        body["tool_choice"] = choice
    thinking = thinking_for(request, model, max_tokens)
    output = {"format": _output_format(request), "effort": thinking.effort}
    output = {name: value for name, value in output.items() if value is not None}
    if output:
        body["output_config"] = output
    if request.cache_control is not None:
        body["cache_control"] = request.cache_control
    return Body(body | thinking.fields, [*ignored, *thinking.ignored])


def _system_blocks(message: Message) -> list[Json]:
    """Return the instructions of a message: they go to the top of the request, where all models accept them."""
    if not isinstance(message, SystemMessage):
        return []
    if isinstance(message.content, str):
        blocks = [_text(message.content)] if message.content.strip() else []
    else:
        blocks = [_text(part.text, part.cache_control) for part in message.content if part.text.strip()]
    return _marked(blocks, message.cache_control)


def _messages(messages: list[Message], first_system_turn: int) -> tuple[list[Json], list[str]]:
    """Return the turns, and the fields that are left out; instructions are turns from ``first_system_turn`` on.

    Anthropic refuses texts of white space, and messages without content but the last one: they are left out.
    """
    translated: list[Json] = []
    ignored: list[str] = []
    results: list[Json] | None = None
    for number, message in enumerate(messages):
        place = f"messages[{number}]"
        if isinstance(message, SystemMessage):
            blocks = _system_blocks(message)
            if number >= first_system_turn and blocks:
                results = None
                translated.append({"role": "system", "content": blocks})
            continue
        if isinstance(message, ToolMessage):
            # Anthropic wants the results of concurrent calls in one user message.
            if results is None:
                results = []
                translated.append({"role": "user", "content": results})
            results.append(_tool_result(message, place))
            continue
        results = None
        if isinstance(message, AssistantMessage):
            role, content = "assistant", _assistant_content(message)
            if any(part.format != FORMAT for part in message.reasoning or ()):
                ignored = ["messages[].reasoning"]
        else:
            role, content = "user", _content(message, place)
        if content or message is messages[-1]:
            translated.append({"role": role, "content": content})
    return translated, ignored


def _content(message: UserMessage, place: str) -> str | list[Json]:
    if not isinstance(message.content, str):
        blocks = _parts(message.content, place)
    elif not message.content.strip():
        return ""
    elif message.cache_control is None:
        return message.content
    else:
        blocks = [_text(message.content)]
    return _marked(blocks, message.cache_control)


def _parts(parts: Sequence[TextPart | MediaPart], place: str) -> list[Json]:
    return [
        _part(part, f"{place}.content[{index}]")
        for index, part in enumerate(parts)
        if not isinstance(part, TextPart) or part.text.strip()
    ]


def _text(text: str, cache_control: Json | None = None) -> Json:
    block: Json = {"type": "text", "text": text}
    return block if cache_control is None else {**block, "cache_control": cache_control}


def _marked(blocks: list[Json], cache_control: Json | None) -> list[Json]:
    """Put the marker of a whole message on its last block."""
    if cache_control is not None and blocks:
        blocks[-1].setdefault("cache_control", cache_control)
    return blocks


def _part(part: TextPart | MediaPart, place: str) -> Json:
    if isinstance(part, TextPart):
        return _text(part.text, part.cache_control)
    if isinstance(part, ImagePart):
        block = _image(part.image_url.url, f"{place}.image_url.url")
    elif isinstance(part, FilePart) and part.file.url.startswith("data:image/"):
        # Vercel's `ai` 6 sends images in results of tools as files.
        block = _image(part.file.url, f"{place}.file.url")
    elif isinstance(part, FilePart):
        block = _document(part, f"{place}.file.url")
    else:
        raise InvalidInput(f"{place}: Anthropic takes no recordings", param=place)
    return _marked([block], part.cache_control)[0]


def _image(url: str, place: str) -> Json:
    if not url.startswith("data:"):
        return {"type": "image", "source": {"type": "url", "url": url}}
    kind, data = image_of(url, place)
    if kind not in MEDIA_TYPES:
        raise InvalidInput(f"{place}: Anthropic takes images of {', '.join(MEDIA_TYPES)}, not {kind}", param=place)
    encoded = base64.b64encode(data).decode()
    return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": encoded}}


def _document(part: FilePart, place: str) -> Json:
    url = part.file.url
    if not url.startswith("data:"):
        source: Json = {"type": "url", "url": url}
    else:
        kind, data = data_of(url, place)
        if kind == "application/pdf":
            source = {"type": "base64", "media_type": kind, "data": base64.b64encode(data).decode()}
        elif kind.startswith("text/"):
            source = {"type": "text", "media_type": "text/plain", "data": data.decode(errors="replace")}
        else:
            raise InvalidInput(f"{place}: Anthropic takes PDF and text, not {kind}", param=place)
    block: Json = {"type": "document", "source": source}
    return block if part.file.filename is None else {**block, "title": part.file.filename}


def _assistant_content(message: AssistantMessage) -> str | list[Json]:
    blocks = [_reasoning(part) for part in message.reasoning or () if part.format == FORMAT]
    if isinstance(message.content, str) or message.content is None:
        # Anthropic has no field for a refusal: its words become text.
        text = "\n\n".join(text for text in (message.content, message.refusal) if text and text.strip())
        if not message.tool_calls and not blocks and message.cache_control is None:
            return text
        blocks += [_text(text)] if text else []
    else:
        texts = [part for part in message.content if isinstance(part, TextPart) and part.text.strip()]
        if message.refusal:
            texts.append(TextPart(text=message.refusal))
        if not message.tool_calls and not blocks and all(part.cache_control is None for part in texts):
            return content_text(texts)
        blocks += [_text(part.text, part.cache_control) for part in texts]
    for call in message.tool_calls or ():
        block = {
            "type": "tool_use",
            "id": call.id,
            "name": call.function.name,
            "input": arguments_of(call.function.arguments),
        }
        blocks += _marked([block], call.cache_control)
    return _marked(blocks, message.cache_control)


def _reasoning(part: ReasoningPart) -> Json:
    if part.encrypted is not None:
        return {"type": "redacted_thinking", "data": part.encrypted}
    return {"type": "thinking", "thinking": part.text, "signature": part.signature or ""}


def _tool_result(message: ToolMessage, place: str) -> Json:
    content = message.content if isinstance(message.content, str) else _parts(message.content, place)
    block: Json = {"type": "tool_result", "tool_use_id": message.tool_call_id, "content": content}
    if message.is_error:
        block["is_error"] = True
    return _marked([block], message.cache_control)[0]


def _tool(tool: Tool) -> Json:
    function = tool.function
    translated: Json = {"name": function.name, "input_schema": {"type": "object", **(function.parameters or {})}}
    if function.description is not None:
        translated["description"] = function.description
    if function.strict is not None:
        translated["strict"] = function.strict
    return _marked([translated], tool.cache_control)[0]


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
    if not isinstance(form, JsonSchemaFormat):
        return None
    from anthropic import transform_schema

    try:
        # The SDK's own conversion: Anthropic accepts a part of JSON Schema only.
        schema = transform_schema(respell(form.json_schema.described_schema))
    except Exception as error:  # noqa: BLE001 - any failure has its cause in the client's schema
        field = "response_format.json_schema.schema"
        reason = str(error) or type(error).__name__
        raise InvalidInput(f"{field}: Anthropic does not accept this schema: {reason}", param=field) from None
    return {"type": "json_schema", "schema": schema}
