"""The backend on google-genai, the successor of google-generativeai: the plugin's extra ``google-genai``.

The SDK's types make the request; aiohttp sends it, and the host's reader reads the response. The SDK's own client
splits streams at line feeds only, ends at a comment, and counts a provider's pings as silence.
"""

from __future__ import annotations

from typing import Any

from google.genai import types

from gpt_c.backend import Question
from gpt_c.http_backend import HttpBackend
from handler_host.plugin import InvalidInput

_TOP_LEVEL = ("systemInstruction", "tools", "toolConfig")
"""Fields that the SDK has in its configuration, and the API beside it."""


class GenAi(HttpBackend):
    """``sdk = "google-genai"``."""

    lacks_schema_words = False

    def sdk_body(self, question: Question, contents: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the JSON of the request that the SDK's types make of a question."""
        config = _json(_config(question))
        body = {name: config.pop(name) for name in _TOP_LEVEL if name in config}
        messages = [_json(types.Content.model_validate(content)) for content in contents]
        return {"contents": messages, **body, "generationConfig": config}


def _json(value: types.Content | types.GenerateContentConfig) -> dict[str, Any]:
    return value.model_dump(mode="json", by_alias=True, exclude_none=True)


def _config(question: Question) -> types.GenerateContentConfig:
    config: dict[str, Any] = {
        **question.config,
        "system_instruction": types.Content(parts=[types.Part(text=question.system)]) if question.system else None,
        "tool_config": question.tool_config,
        "response_json_schema": question.schema,
        "thinking_config": question.thinking,
    }
    if question.functions:
        declarations = [
            {("parameters_json_schema" if name == "parameters" else name): value for name, value in function.items()}
            for function in question.functions
        ]
        config["tools"] = [{"function_declarations": declarations}]
    try:
        return types.GenerateContentConfig.model_validate(config)
    except ValueError as error:
        raise InvalidInput(f"the request does not fit google-genai: {error}") from error
