"""Bodies for OpenAI's Responses API: of a chat, and of a token count, which OpenAI has for this API only. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from handler_host.chat import (
    DEFAULT_FILENAME,
    AssistantMessage,
    AudioPart,
    ChatRequest,
    ImagePart,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    NamedToolChoice,
    ReasoningPart,
    TextPart,
    ToolMessage,
    UserMessage,
    content_text,
    flatten_tool_schemas,
)
from handler_host.plugin import InvalidInput

Json = dict[str, Any]


FORMAT = "openai"
"""Format of OpenAI's encrypted reasoning."""


def response_body(request: ChatRequest, model: str) -> Json:
    """Return the body for ``/responses``: OpenAI keeps nothing of it, and encrypts its reasoning for the next turn.

    Raises ``InvalidInput`` for a recording.
    """
    body = {**count_body(request, model), "store": False, "include": ["reasoning.encrypted_content"]}
    if request.reasoning is not None:
        body["reasoning"] = _present(effort=request.reasoning.effort, summary=request.reasoning.summary)
    if request.verbosity is not None:
        body.setdefault("text", {})["verbosity"] = request.verbosity
    return body | _present(
        max_output_tokens=request.max_tokens,
        parallel_tool_calls=request.parallel_tool_calls,
        prompt_cache_key=request.prompt_cache_key,
        service_tier=request.service_tier,
        user=request.user,
    )


def _present(**fields: Any) -> Json:
    """Return the fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}


def count_body(request: ChatRequest, model: str) -> Json:
    """Return the body for ``/responses/input_tokens``; raises ``InvalidInput`` for a recording."""
    body: Json = {
        "model": model,
        "input": [
            item
            for number, message in enumerate(request.messages)
            for item in _items(message, f"messages[{number}].content")
        ],
    }
    if request.tools:
        flatten_tool_schemas(request)
        body["tools"] = [
            {"type": "function", "name": tool.function.name, "parameters": tool.function.parameters}
            | ({"description": tool.function.description} if tool.function.description else {})
            | {"strict": bool(tool.function.strict)}
            for tool in request.tools
        ]
    choice = request.tool_choice
    if isinstance(choice, NamedToolChoice):
        body["tool_choice"] = {"type": "function", "name": choice.function.name}
    elif choice is not None and request.tools:
        body["tool_choice"] = choice
    form = request.response_format
    if isinstance(form, JsonSchemaFormat):
        schema = form.json_schema
        body["text"] = {
            "format": {"type": "json_schema", "name": schema.name, "schema": schema.schema}
            | _present(description=schema.description, strict=schema.strict)
        }
    elif isinstance(form, JsonObjectFormat):
        body["text"] = {"format": {"type": "json_object"}}
    return body


def is_own_reasoning(part: ReasoningPart) -> bool:
    """Return whether OpenAI takes a reasoning: it has encrypted it."""
    return part.format == FORMAT and part.encrypted is not None


def _items(message: Message, place: str) -> Iterator[Json]:
    """Yield the items of a message: the text of a response and each of its calls are items of their own."""
    if isinstance(message, ToolMessage):
        output = _content(message.content, place)
        yield {"type": "function_call_output", "call_id": message.tool_call_id, "output": output}
    elif isinstance(message, UserMessage):
        yield {"role": "user", "content": _content(message.content, place)}
    elif isinstance(message, AssistantMessage):
        for part in message.reasoning or ():
            if is_own_reasoning(part):
                summary = [{"type": "summary_text", "text": part.text}] if part.text else []
                yield {"type": "reasoning", "summary": summary, "encrypted_content": part.encrypted}
        text = content_text(message.content) or message.refusal
        if text:
            yield {"role": "assistant", "content": text}
        for call in message.tool_calls or ():
            function = call.function
            call_item = {"type": "function_call", "call_id": call.id}
            yield {**call_item, "name": function.name, "arguments": function.arguments}
    else:
        yield {"role": "system", "content": content_text(message.content)}


def _content(content: str | Sequence[Any], place: str) -> str | list[Json]:
    if isinstance(content, str):
        return content
    return [_part(part, f"{place}[{number}]") for number, part in enumerate(content)]


def _part(part: Any, place: str) -> Json:
    if isinstance(part, TextPart):
        return {"type": "input_text", "text": part.text}
    if isinstance(part, ImagePart):
        image = {"type": "input_image", "image_url": part.image_url.url}
        return {**image, "detail": part.image_url.detail or "auto"}
    if isinstance(part, AudioPart):
        raise InvalidInput(f"{place}: OpenAI's Responses API takes no recordings; leave it out", param=place)
    if not part.file.url.startswith("data:"):
        return {"type": "input_file", "file_url": part.file.url} | _present(filename=part.file.filename)
    return {"type": "input_file", "filename": part.file.filename or DEFAULT_FILENAME, "file_data": part.file.url}
