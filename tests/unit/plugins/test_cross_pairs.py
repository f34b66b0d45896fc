"""Every protocol to every provider: no declared field of a request is lost without its name in X-Ignored-Fields."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gpt_a import GptA
from gpt_a.requests import request_body
from gpt_b import GptB
from gpt_b.requests import message_body
from gpt_c import GptC
from gpt_c.loosening import loosen_schemas
from gpt_c.questions import question
from handler_host.chat import ChatRequest, leave_out_unsupported
from handler_host.chat.validation import tidy_tool_schemas, validate_request
from handler_host.protocols.anthropic.messages import MessageRequest
from handler_host.protocols.fields import IgnoredFields
from handler_host.protocols.gemini.requests import GenerateContentRequest, GenerationConfig
from handler_host.protocols.openai.requests import CompletionRequest
from handler_host.protocols.openai_responses.requests import ResponseRequest
from handler_host.protocols.translated_request import TranslatedRequest
from tests.recorded_requests import RECORDED_REQUESTS
from tests.unit.protocols.test_clients import translate

pytestmark = pytest.mark.sdks  # gpt_b converts schemas with Anthropic's SDK

Provider = Callable[[ChatRequest], tuple[Any, list[str]]]

MARKER = {"type": "ephemeral"}
FUNCTION = {"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}
OTHER = {"name": "find", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
CHAT_TOOLS = [{"type": "function", "function": FUNCTION}, {"type": "function", "function": OTHER}]
RESPONSE_TOOLS = [{"type": "function", **FUNCTION}, {"type": "function", **OTHER}]
MESSAGE_TOOLS = [{"name": tool["name"], "input_schema": tool["parameters"]} for tool in (FUNCTION, OTHER)]
GEMINI_TOOLS = [{"functionDeclarations": [FUNCTION, OTHER]}]

SAMPLES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "temperature": {"temperature": 0.5},
        "top_p": {"top_p": 0.5},
        "top_k": {"top_k": 5},
        "max_tokens": {"max_tokens": 7},
        "max_completion_tokens": {"max_completion_tokens": 7},
        "stop": {"stop": "x"},
        "seed": {"seed": 1},
        "logit_bias": {"logit_bias": {"5": 1}},
        "tools": {"tools": CHAT_TOOLS},
        "tool_choice": {"tools": CHAT_TOOLS, "tool_choice": "required"},
        "parallel_tool_calls": {"tools": CHAT_TOOLS, "parallel_tool_calls": False},
        "response_format": {"response_format": {"type": "json_object"}},
        "presence_penalty": {"presence_penalty": 1},
        "frequency_penalty": {"frequency_penalty": 1},
        "reasoning_effort": {"reasoning_effort": "high"},
        "verbosity": {"verbosity": "low"},
        "service_tier": {"service_tier": "flex"},
        "prompt_cache_key": {"prompt_cache_key": "k"},
        "cache_control": {"cache_control": MARKER},
        "user": {"user": "u"},
    },
    "/v1/responses": {
        "instructions": {"instructions": "Be brief."},
        "temperature": {"temperature": 0.5},
        "top_p": {"top_p": 0.5},
        "max_output_tokens": {"max_output_tokens": 7},
        "tools": {"tools": RESPONSE_TOOLS},
        "tool_choice": {"tools": RESPONSE_TOOLS, "tool_choice": "required"},
        "parallel_tool_calls": {"tools": RESPONSE_TOOLS, "parallel_tool_calls": False},
        "text": {"text": {"verbosity": "low"}},
        "reasoning": {"reasoning": {"effort": "high"}},
        "prompt_cache_key": {"prompt_cache_key": "k"},
        "service_tier": {"service_tier": "flex"},
        "user": {"user": "u"},
    },
    "/v1/messages": {
        "system": {"system": "Be brief."},
        "tools": {"tools": MESSAGE_TOOLS},
        "tool_choice": {"tools": MESSAGE_TOOLS, "tool_choice": {"type": "any"}},
        "output_config": {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        "output_format": {"output_format": {"type": "json_schema", "schema": SCHEMA}},
        "thinking": {"thinking": {"type": "enabled", "budget_tokens": 2000}},
        "cache_control": {"cache_control": MARKER},
        "stop_sequences": {"stop_sequences": ["x"]},
        "temperature": {"temperature": 0.5},
        "top_p": {"top_p": 0.5},
        "top_k": {"top_k": 5},
        "metadata": {"metadata": {"user_id": "u"}},
        "service_tier": {"service_tier": "priority"},
    },
    "gemini": {
        "systemInstruction": {"systemInstruction": {"parts": [{"text": "Be brief."}]}},
        "tools": {"tools": GEMINI_TOOLS},
        "toolConfig": {"tools": GEMINI_TOOLS, "toolConfig": {"functionCallingConfig": {"mode": "ANY"}}},
        "serviceTier": {"serviceTier": "priority"},
        "temperature": {"generationConfig": {"temperature": 0.5}},
        "topP": {"generationConfig": {"topP": 0.5}},
        "topK": {"generationConfig": {"topK": 5}},
        "maxOutputTokens": {"generationConfig": {"maxOutputTokens": 7}},
        "stopSequences": {"generationConfig": {"stopSequences": ["x"]}},
        "seed": {"generationConfig": {"seed": 1}},
        "presencePenalty": {"generationConfig": {"presencePenalty": 1}},
        "frequencyPenalty": {"generationConfig": {"frequencyPenalty": 1}},
        "responseMimeType": {"generationConfig": {"responseMimeType": "application/json"}},
        "responseSchema": {"generationConfig": {"responseMimeType": "application/json", "responseSchema": SCHEMA}},
        "responseJsonSchema": {
            "generationConfig": {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA}
        },
        "thinkingConfig": {"generationConfig": {"thinkingConfig": {"thinkingBudget": 2000}}},
    },
}
BASES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "h/m", "messages": [{"role": "user", "content": "hi"}]},
    "/v1/responses": {"model": "h/m", "input": "hi"},
    "/v1/messages": {"model": "h/m", "max_tokens": 5000, "messages": [{"role": "user", "content": "hi"}]},
    "gemini": {"contents": [{"parts": [{"text": "hi"}]}]},
}
WITHOUT_SAMPLE = {
    "contents",
    "generationConfig",
    "input",
    "max_tokens",
    "messages",
    "model",
    "stream",
    "stream_options",
}
"""Fields that each request has, or that are about the form of the response; and a group of others."""
WITHOUT_EFFECT = {"responseModalities"}
"""Text, the only value."""


def openai(request: ChatRequest) -> tuple[Any, list[str]]:
    ignored = leave_out_unsupported(request, GptA.supports, GptA.lacks)
    body, more = request_body(request, "gpt-5-compatible", is_openai=False)
    return body, [*ignored, *more]


def anthropic(request: ChatRequest) -> tuple[Any, list[str]]:
    ignored = leave_out_unsupported(request, GptB.supports, GptB.lacks)
    body, more = message_body(request, "claude-haiku-4-5", 8192)
    return body, [*ignored, *more]


def gemini(request: ChatRequest) -> tuple[Any, list[str]]:
    ignored = leave_out_unsupported(request, GptC.supports, {*GptC.lacks, "seed"})
    ignored += loosen_schemas(request)
    asked = question(request, "gemini-2.5-flash")
    return asked, [*ignored, *asked.ignored]


PROVIDERS: list[Provider] = [openai, anthropic, gemini]


def run(path: str, body: dict[str, Any], provider: Provider, mode: Any = "ignore") -> tuple[Any, list[str]]:
    """Return the provider's body for a client's body, and the names in X-Ignored-Fields."""
    ignored = IgnoredFields(mode)
    recorded = {"path": "/v1beta/models/h:generateContent" if path == "gemini" else path, "body": body}
    translated: TranslatedRequest = translate(recorded, ignored)
    translated.chat.unsupported = mode
    translated.chat.model = None
    # As the worker decodes and checks it.
    request = msgspec.json.decode(msgspec.json.encode(translated.chat), type=ChatRequest)
    tidy_tool_schemas(request)
    validate_request(request)
    made, left_out = provider(request)
    translated.ignore(left_out)
    return made, translated.ignored.names


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("path", "field"), [(path, field) for path, fields in SAMPLES.items() for field in fields])
def test_a_field_reaches_the_provider_or_is_named(path: str, field: str, provider: Provider) -> None:
    sample = SAMPLES[path][field]
    without = {name: value for name, value in sample.items() if name not in (field, "generationConfig")}
    before, _ = run(path, {**BASES[path], **without}, provider)
    after, names = run(path, {**BASES[path], **sample}, provider)
    assert after != before or any(field in name for name in names), f"{field} is lost"


@pytest.mark.parametrize(
    ("path", "types"),
    [
        ("/v1/chat/completions", [CompletionRequest]),
        ("/v1/responses", [ResponseRequest]),
        ("/v1/messages", [MessageRequest]),
        ("gemini", [GenerateContentRequest, GenerationConfig]),
    ],
)
def test_every_declared_field_has_a_sample(path: str, types: list[type[msgspec.Struct]]) -> None:
    declared = {field.encode_name for struct in types for field in msgspec.structs.fields(struct)}
    always = WITHOUT_SAMPLE - ({"max_tokens"} if path == "/v1/chat/completions" else set())
    assert declared - always - WITHOUT_EFFECT == set(SAMPLES[path])


def with_valid_arguments(value: dict[str, Any]) -> dict[str, Any]:
    """Replace the arguments of a call that the recording has shortened."""
    if isinstance(value.get("arguments"), str) and "name" in value:
        try:
            json.loads(value["arguments"])
        except ValueError:
            value["arguments"] = "{}"
    return value


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("path", RECORDED_REQUESTS, ids=[path.stem for path in RECORDED_REQUESTS])
def test_a_first_request_of_a_client_reaches_every_provider(path: Path, provider: Provider) -> None:
    recorded = json.loads(path.read_text(), object_hook=with_valid_arguments)
    made, _ = run(
        recorded["path"] if recorded["path"].startswith("/v1/") else "gemini",
        recorded["body"],
        provider,
        "ignore-hints",
    )
    assert made
