"""Requests of real clients, recorded with their texts replaced: each is accepted, and its fields reach the chat."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from handler_host.chat import ChatRequest
from handler_host.chat.validation import tidy_schemas, validate_request
from handler_host.protocols.anthropic.requests import decode_message
from handler_host.protocols.fields import IgnoredFields
from handler_host.protocols.gemini.requests import decode_request as decode_gemini
from handler_host.protocols.ollama.requests import decode_chat as decode_ollama
from handler_host.protocols.openai.requests import decode_request as decode_openai
from handler_host.protocols.openai_responses.requests import decode_request as decode_responses
from handler_host.protocols.translated_request import TranslatedRequest
from tests.recorded_requests import RECORDED_REQUESTS

IGNORED = {
    "claude-code_image": {"context_management"},
    "claude-code_opus-4-8_write": {"context_management"},
    "claude-code_pdf": {"context_management"},
    "claude-code_sonnet-4-5_write": {"context_management"},
    "claude-code_tool_search": {
        "context_management",
        "messages[].content[].content[].tool_reference",
        "messages[].output_config",
        "tools[].defer_loading",
    },
    "claude-code_websearch": {"tools[].web_search_20250305"},
    "codex_gpt-5.5_apply_patch": {"client_metadata", "tools[].tool_search", "tools[].web_search"},
    "codex_gpt-6.1-sol": {"client_metadata", "reasoning.context"},
    "codex_unknown-model": {"client_metadata", "tools[].web_search"},
    "gemini-cli_websearch": {"tools[].googleSearch"},
}
"""The fields of each client that a chat has no place for; none if the client is not listed."""


def translate(recorded: dict[str, Any], ignored: IgnoredFields) -> TranslatedRequest:
    """Return the translation of a recorded request by the protocol of its path."""
    path, body = recorded["path"], json.dumps(recorded["body"]).encode()
    if path == "/v1/messages":
        return decode_message(body, ignored)[1]
    if path == "/v1/responses":
        return decode_responses(body, ignored).to_chat(ignored)
    if path == "/api/chat":
        return decode_ollama(body, ignored).to_chat(ignored)
    if path == "/v1/chat/completions":
        return decode_openai(body, ignored).to_chat(ignored)
    model = path.removeprefix("/v1beta/models/").partition(":")[0]
    return decode_gemini(body, ignored).to_chat(model, ignored)


@pytest.mark.parametrize("path", RECORDED_REQUESTS, ids=[path.stem for path in RECORDED_REQUESTS])
def test_a_first_request_is_translated(path: Path) -> None:
    ignored = IgnoredFields()
    recorded = json.loads(path.read_text())
    translated = translate(recorded, ignored)
    # As the worker decodes and checks it.
    request = msgspec.json.decode(msgspec.json.encode(translated.chat), type=ChatRequest)
    tidy_schemas(request)
    validate_request(request)
    assert set(ignored.names) == IGNORED.get(path.stem, set())
    if recorded["path"] != "/v1/chat/completions":  # there the paths are the same
        assert len(translated.places) == len(request.messages)
