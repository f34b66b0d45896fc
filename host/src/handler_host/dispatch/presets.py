"""Presets: a handler's own system prompt, sampling and tools, added to its requests. Pure but for the configuration.

A preset holds for every request that reaches the handler, also as a fallback or from another handler, in the chat
contract and in each protocol that is passed on natively: :func:`with_preset` knows the fields of all of them. The
system prompt of the preset comes before the client's; everything else is used only if the request has no value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from handler_host.config import Config
from handler_host.config.preset import Preset, PresetTool, parse_preset
from handler_host.dispatch.request import Request
from handler_host.plugin.errors import InvalidInput

Body = dict[str, Any]
Apply = Callable[[Preset, Body], None]
SEPARATOR = "\n\n"
LONG = frozenset({"messages", "input", "contents"})
"""Fields of a conversation: they are not decoded, and so passed on as they came."""
_MESSAGE = re.compile(r"messages\[(\d+)\](.*)", re.DOTALL)
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Presets:
    """Presets of all handlers in the current configuration."""

    def __init__(self, config: Callable[[], Config]) -> None:
        self._config = config
        self._handlers: Mapping[str, Any] | None = None
        self._presets: dict[str, Preset] = {}

    def of(self, handler: str) -> Preset | None:
        """Return the preset of a handler, or None."""
        handlers = self._config().handlers
        if handlers is not self._handlers:
            self._handlers = handlers
            self._presets = {name: parse_preset(keys["preset"]) for name, keys in handlers.items() if "preset" in keys}
        return self._presets.get(handler)

    def add_to(self, request: Request) -> Request:
        """Return a request with the preset of its handler; the same object without one.

        The payload of a native call is not JSON and stays as it is: the body in it has the preset already.
        """
        preset = self.of(request.handler)
        if preset is None:
            return request
        return msgspec.structs.replace(request, body=with_preset(preset, request.operation, request.body))

    def with_client_path(self, error: InvalidInput, request: Request) -> InvalidInput:
        """Return the error of a handler with the place of a message as it was before :meth:`add_to`."""
        match = _MESSAGE.match(error.param or "")
        preset = self.of(request.handler)
        if match is None or not added_messages(preset, request.operation, request.body):
            return error
        path = f"messages[{int(match[1]) - 1}]{match[2]}" if match[1] != "0" else "preset.system"
        message = error.message.replace(error.param or "", path)
        return InvalidInput(message, param=path, details=error.details)


def with_preset(preset: Preset, operation: str, body: bytes) -> bytes:
    """Return the body of an operation with a preset.

    The same object if the operation has no presets, or the body is not a JSON object: that is an error of the
    handler to report.
    """
    apply = _APPLY.get(operation)
    if apply is None:
        return body
    try:
        fields: Body = {
            name: value if name in LONG else msgspec.json.decode(value) for name, value in _decode_fields(body).items()
        }
        apply(preset, fields)
    except _NOT_JSON:
        return body
    return msgspec.json.encode(fields)


def added_messages(preset: Preset | None, operation: str, body: bytes) -> int:
    """Return how many messages :func:`with_preset` puts before the first one of a chat: 1 or 0."""
    if preset is None or preset.system is None or operation not in ("chat", "count_tokens"):
        return 0
    try:
        messages = _messages_of(_decode_fields(body))
    except _NOT_JSON:
        return 0
    return int(messages is not None and not _starts_with_system(messages))


def _apply_to_chat(preset: Preset, body: Body) -> None:
    _apply_to_chat_prompt(preset, body)
    _default(body, "temperature", preset.temperature)
    _default(body, "top_p", preset.top_p)
    _default(body, "seed", preset.seed)
    _default(body, "stop", list(preset.stop))
    if body.get("max_completion_tokens") is None:
        _default(body, "max_tokens", preset.max_tokens)


def _apply_to_chat_prompt(preset: Preset, body: Body) -> None:
    messages = _messages_of(body) if preset.system is not None else None
    if preset.system is not None and messages is not None:
        if _starts_with_system(messages):
            messages[0]["content"] = _prepend(preset.system, messages[0].get("content"))
        else:
            messages.insert(0, {"role": "system", "content": preset.system})
        body["messages"] = messages
    _add_tools(preset, body, _function_tool, _function_name)


def _apply_to_openai_chat(preset: Preset, body: Body) -> None:
    maximum = None if body.get("max_tokens") is not None else preset.max_tokens
    _apply_to_chat(msgspec.structs.replace(preset, max_tokens=None), body)
    # Reasoning models refuse max_tokens, and every model takes this one.
    _default(body, "max_completion_tokens", maximum)


def _apply_to_responses(preset: Preset, body: Body) -> None:
    if preset.system is not None:
        body["instructions"] = _prepend(preset.system, body.get("instructions"))
    _default(body, "temperature", preset.temperature)
    _default(body, "top_p", preset.top_p)
    _default(body, "max_output_tokens", preset.max_tokens)
    _add_tools(preset, body, lambda tool: {"type": "function", "strict": False, **_named(tool, "parameters")}, _name_of)


def _apply_to_messages(preset: Preset, body: Body) -> None:
    _apply_to_messages_prompt(preset, body)
    thinking = body.get("thinking")
    if not isinstance(thinking, dict) or thinking.get("type") == "disabled":
        # A model that thinks refuses other values than its own.
        _default(body, "temperature", preset.temperature)
        _default(body, "top_p", preset.top_p)
    _default(body, "max_tokens", preset.max_tokens)
    _default(body, "stop_sequences", list(preset.stop))


def _apply_to_messages_prompt(preset: Preset, body: Body) -> None:
    if preset.system is not None:
        body["system"] = _prepend(preset.system, body.get("system"))
    _add_tools(preset, body, lambda tool: _named(tool, "input_schema"), _name_of)


def _apply_to_gemini(preset: Preset, body: Body) -> None:
    if preset.system is not None:
        key = "system_instruction" if "system_instruction" in body else "systemInstruction"
        instruction = body.get(key) or {}
        if isinstance(instruction, dict):  # else the provider reports the error
            parts = instruction.get("parts")
            parts = parts if isinstance(parts, list) else [parts] if parts else []
            body[key] = {**instruction, "parts": [{"text": preset.system}, *parts]}
    key = "generation_config" if "generation_config" in body else "generationConfig"
    sampling = body.get(key) or {}
    if isinstance(sampling, dict):
        _add_gemini_sampling(preset, sampling)
        if sampling:
            body[key] = sampling
    own = body.get("tools") or []
    if preset.tools and isinstance(own, list):
        declarations = [_named(tool, "parameters") for tool in preset.tools]
        body["tools"] = [{"functionDeclarations": declarations}, *own]


def _add_gemini_sampling(preset: Preset, sampling: Body) -> None:
    for camel, snake, value in (
        ("temperature", "temperature", preset.temperature),
        ("topP", "top_p", preset.top_p),
        ("maxOutputTokens", "max_output_tokens", preset.max_tokens),
        ("seed", "seed", preset.seed),
        ("stopSequences", "stop_sequences", list(preset.stop)),
    ):
        if sampling.get(snake) is None:
            _default(sampling, camel, value)


_APPLY: dict[str, Apply] = {
    "chat": _apply_to_chat,
    "count_tokens": _apply_to_chat_prompt,
    "openai.chat": _apply_to_openai_chat,
    "openai.responses": _apply_to_responses,
    "anthropic.messages": _apply_to_messages,
    "anthropic.count_tokens": _apply_to_messages_prompt,
    "gemini.generate_content": _apply_to_gemini,
}
"""How a preset is applied to the body of each operation."""


def _messages_of(body: Body) -> list[Any] | None:
    """Return the messages of a chat, of which only the first is decoded; None if the field is not a list."""
    messages: list[Any]
    try:
        messages = _decode_items(body.get("messages", b"null"))
    except msgspec.ValidationError:
        return None
    return [msgspec.json.decode(messages[0]), *messages[1:]] if messages else messages


def _starts_with_system(messages: list[Any]) -> bool:
    first = messages[0] if messages else None
    return isinstance(first, dict) and first.get("role") in ("system", "developer")


def _prepend(system: str, content: object) -> object:
    """Return the client's system prompt, a text or a list of parts, with that of the preset before it."""
    if isinstance(content, list):
        return [{"type": "text", "text": system}, *content]
    return f"{system}{SEPARATOR}{content}" if content else system


def _default(body: Body, key: str, value: object) -> None:
    if value not in (None, []) and body.get(key) is None:
        body[key] = value


def _add_tools(
    preset: Preset, body: Body, make: Callable[[PresetTool], Body], name_of: Callable[[Body], object]
) -> None:
    own = body.get("tools") or []
    if not preset.tools or not isinstance(own, list):
        return
    names = [name_of(tool) for tool in own if isinstance(tool, dict)]  # a client may send names of any type
    body["tools"] = own + [make(tool) for tool in preset.tools if tool.name not in names]


def _name_of(tool: Body) -> object:
    return tool.get("name")


def _function_name(tool: Body) -> object:
    function = tool.get("function")
    return function.get("name") if isinstance(function, dict) else None


def _function_tool(tool: PresetTool) -> Body:
    return {"type": "function", "function": _named(tool, "parameters")}


def _named(tool: PresetTool, schema: str) -> Body:
    return {"name": tool.name, "description": tool.description, schema: tool.parameters or {"type": "object"}}
