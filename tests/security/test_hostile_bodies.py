"""Hostile bodies, generated: every protocol translates them or refuses them with an error of the client."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handler_host.chat.types import ChatRequest, Unsupported
from handler_host.chat.validation import validate_request
from handler_host.http.json_structure import check_structure
from handler_host.plugin.errors import HostError
from handler_host.protocols.anthropic.requests import decode_count, decode_message
from handler_host.protocols.fields import IgnoredFields
from handler_host.protocols.gemini import requests as gemini
from handler_host.protocols.json_fields import fields_of
from handler_host.protocols.ollama import requests as ollama
from handler_host.protocols.openai import requests as openai
from handler_host.protocols.openai.legacy_completions import decode_completion
from handler_host.protocols.openai_responses import requests as responses
from handler_host.testing.chat_conformance import PIXEL

SCHEMA = {"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"type": "string"}}}
CHAT = {
    "model": "gpt",
    "messages": [
        {"role": "system", "content": "be short"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "x"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "1"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}},
    "stop": ["x"],
    "max_tokens": 5,
    "temperature": 0.5,
    "seed": 1,
    "stream": True,
    "stream_options": {"include_usage": True},
    "metadata": {"a": "b"},
    "reasoning_effort": "low",
}
PROMPT = {"model": "gpt", "prompt": "x", "max_tokens": 5, "stop": ["y"], "stream": False, "logprobs": None}
MESSAGE = {
    "model": "gpt",
    "max_tokens": 5,
    "system": [{"type": "text", "text": "be short", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
                {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "1", "is_error": True}]},
    ],
    "tools": [{"name": "f", "input_schema": SCHEMA}],
    "tool_choice": {"type": "tool", "name": "f"},
    "thinking": {"type": "enabled", "budget_tokens": 2000},
    "stop_sequences": ["x"],
}
RESPONSE = {
    "model": "gpt",
    "instructions": "be short",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "x"}]},
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "1"},
    ],
    "tools": [{"type": "function", "name": "f", "parameters": SCHEMA, "strict": True}],
    "tool_choice": "auto",
    "text": {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}},
    "reasoning": {"effort": "low"},
    "max_output_tokens": 20,
}
CONTENTS = {
    "systemInstruction": {"parts": [{"text": "be short"}]},
    "contents": [
        {"role": "user", "parts": [{"text": "x"}, {"inlineData": {"mimeType": "image/png", "data": PIXEL}}]},
        {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {"a": 1}}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"b": 1}}}]},
    ],
    "tools": [{"functionDeclarations": [{"name": "f", "parameters": {"type": "OBJECT", "properties": {"a": {}}}}]}],
    "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}},
    "generationConfig": {
        "maxOutputTokens": 5,
        "responseMimeType": "application/json",
        "responseSchema": {"type": "STRING"},
        "thinkingConfig": {"thinkingBudget": 0},
        "stopSequences": ["x"],
    },
    "safetySettings": [],
    "labels": {"a": "b"},
}
OLLAMA = {
    "model": "gpt",
    "messages": [
        {"role": "user", "content": "x", "images": [PIXEL]},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
        {"role": "tool", "content": "1", "tool_name": "f"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "description": "", "parameters": SCHEMA}}],
    "format": SCHEMA,
    "options": {"temperature": 0.1, "num_predict": 5, "stop": ["x"]},
    "keep_alive": "5m",
    "think": True,
}
GENERATE = {"model": "gpt", "prompt": "x", "system": "be short", "images": [PIXEL], "options": {"seed": 1}}

PROTOCOLS: dict[str, tuple[dict[str, Any], Callable[[bytes, IgnoredFields], ChatRequest]]] = {
    "chat": (CHAT, lambda body, ignored: openai.decode_chat(body, ignored)[1].chat),
    "completions": (PROMPT, lambda body, ignored: decode_completion(body, ignored)[1].chat),
    "messages": (MESSAGE, lambda body, ignored: decode_message(body, ignored)[1].chat),
    "count_tokens": (
        {name: value for name, value in MESSAGE.items() if name not in ("max_tokens", "stop_sequences")},
        lambda body, ignored: decode_count(body, ignored)[1].chat,
    ),
    "responses": (RESPONSE, lambda body, ignored: responses.decode_chat(body, ignored)[1].chat),
    "gemini": (CONTENTS, lambda body, ignored: gemini.decode_request(body, ignored).to_chat("gpt", ignored).chat),
    "ollama chat": (OLLAMA, lambda body, ignored: ollama.decode_chat(body).to_chat(ignored).chat),
    "ollama generate": (GENERATE, lambda body, ignored: ollama.decode_generate(body).to_chat(ignored).chat),
}

hostile_values = st.one_of(
    st.sampled_from(
        [
            *(None, True, -1, 0, 2**63, 2**70, -(2**70), 1e308, "", " ", "\0", "x" * 5_000, [], {}, [None], [[]], [{}]),
            *("data:,", "data:image/png;base64,%%%", "http://[", "#/$defs/b", "..", "\u202e", "é" * 300, "1e999"),
        ]
    ),
    st.integers(50, 130).map(lambda levels: json.loads("[" * levels + "]" * levels)),
    st.integers(50, 120).map(lambda levels: json.loads('{"properties":' * levels + "{}" + "}" * levels)),
    st.sampled_from([{"$ref": "#"}, {"$ref": "#/" + "9" * 5_000}, {"$ref": 1}, {"anyOf": [{"$ref": "#/anyOf/0"}]}]),
    st.sampled_from([{"type": "text"}, {"type": "\0"}, {"type": ["text"]}, {"role": "user"}, {"type": "image_url"}]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ),
)


def places_of(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container in a document, with a key of it."""
    for key in range(len(value)) if isinstance(value, list) else list(value) if isinstance(value, dict) else ():
        yield value, key
        yield from places_of(value[key])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_model_of_each_protocol_is_valid(protocol: str) -> None:
    """Otherwise the changes to it would test the first refusal only."""
    document, translate = PROTOCOLS[protocol]
    validate_request(translate(json.dumps(document).encode(), IgnoredFields("ignore")))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_hostile_body_is_translated_or_refused(protocol: str, data: st.DataObject) -> None:
    """Never a 500, and no exception that the host does not know, with one to three values replaced or added."""
    document, translate = PROTOCOLS[protocol]
    document = copy.deepcopy(document)
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(list(places_of(document))))
        value = copy.deepcopy(data.draw(hostile_values))
        change = data.draw(st.sampled_from(["replace", "remove", "repeat", "add"]))
        if change == "replace":
            container[key] = value
        elif change == "remove":
            del container[key]
        elif change == "repeat" and isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        elif isinstance(container, dict):
            container[data.draw(st.text(max_size=8))] = value
        if not document:
            break
    body = json.dumps(document, ensure_ascii=data.draw(st.booleans())).encode("utf-8", "replace")
    modes: list[Unsupported] = ["refuse", "ignore-hints", "ignore"]
    mode = data.draw(st.sampled_from(modes))
    status = 200
    try:
        check_structure(body, max_values=200_000)
        validate_request(translate(body, IgnoredFields(mode)))
    except HostError as error:
        status = error.status
    assert status < 500


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_bytes_that_are_no_request_are_refused(body: bytes) -> None:
    """By every protocol, and by the search for fields of native requests."""
    for _, translate in PROTOCOLS.values():
        with pytest.raises(HostError) as refusal:
            translate(b"{" + body, IgnoredFields())
        assert refusal.value.status < 500
    # What native calls expect; a DecodeError is a ValueError.
    with contextlib.suppress(ValueError, RecursionError):
        fields_of(b"{" + body)
