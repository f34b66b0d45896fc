"""The cost of decoding and translating a request is linear in its size: one client's request must not stop the host."""

from __future__ import annotations

import contextlib
import functools
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from handler_host._internal.units import parse_duration
from handler_host.chat.validation import data_of, image_of, validate_request
from handler_host.plugin.errors import HostError, InvalidInput
from handler_host.protocols.anthropic.requests import decode_message
from handler_host.protocols.gemini import requests as gemini
from handler_host.protocols.json_fields import fields_of
from handler_host.protocols.ollama import requests as ollama
from handler_host.protocols.openai import requests as openai
from handler_host.protocols.openai_responses import requests as responses

pytestmark = pytest.mark.slow

COUNT = 20_000
LIMIT_S = 3.0
"""CPU time; linear code takes less than 0.5 s, quadratic code more than 5 s."""
USER = {"role": "user", "content": "x"}
TEXT = {"role": "user", "parts": [{"text": "x"}]}
LONG = "a" * 200_000


def gemini_calls() -> dict[str, Any]:
    calls = [{"functionCall": {"name": f"f{number}"}} for number in range(COUNT)]
    results = [{"functionResponse": {"name": f"f{number}"}} for number in reversed(range(COUNT))]
    return {"contents": [TEXT, {"role": "model", "parts": calls}, {"role": "user", "parts": results}]}


def gemini_calls_with_ids() -> dict[str, Any]:
    calls = [{"functionCall": {"name": "f", "id": f"c{number}"}} for number in range(COUNT)]
    results = [{"functionResponse": {"name": "f", "id": f"c{number}"}} for number in reversed(range(COUNT))]
    return {"contents": [TEXT, {"role": "model", "parts": calls}, {"role": "user", "parts": results}]}


def gemini_allowed_names() -> dict[str, Any]:
    names = [f"f{number}" for number in range(COUNT)]
    return {
        "contents": [TEXT],
        "tools": [{"functionDeclarations": [{"name": name} for name in names]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": names}},
    }


def gemini_schema() -> dict[str, Any]:
    leaves: dict[str, Any] = {f"{number:x}": {"type": "STRING"} for number in range(COUNT)}
    schema = {"properties": {LONG: {"properties": leaves}}}
    return {"contents": [TEXT], "tools": [{"functionDeclarations": [{"name": "f", "parameters": schema}]}]}


def responses_calls() -> dict[str, Any]:
    calls = [
        {"type": "function_call", "call_id": f"c{number}", "name": "f", "arguments": ""} for number in range(COUNT)
    ]
    outputs = [
        {"type": "function_call_output", "call_id": f"c{number}", "output": ""} for number in reversed(range(COUNT))
    ]
    return {"model": "m", "input": [*calls, *outputs]}


def responses_turns() -> dict[str, Any]:
    turns: list[dict[str, Any]] = []
    for number in range(COUNT):
        turns.append({"type": "function_call", "call_id": f"c{number}", "name": "f", "arguments": ""})
        turns.append({"type": "function_call_output", "call_id": f"c{number}", "output": ""})
    return {"model": "m", "input": turns}


def responses_messages() -> dict[str, Any]:
    return {"model": "m", "input": [{"role": "assistant", "content": "x"}] * COUNT}


def anthropic_results() -> dict[str, Any]:
    calls = [{"type": "tool_use", "id": f"c{number}", "name": "f", "input": {}} for number in range(COUNT)]
    results = [{"type": "tool_result", "tool_use_id": f"c{number}"} for number in reversed(range(COUNT))]
    messages = [USER, {"role": "assistant", "content": calls}, {"role": "user", "content": results}]
    return {"model": "m", "max_tokens": 1, "messages": messages}


def ollama_calls() -> dict[str, Any]:
    calls = [{"function": {"name": f"f{number}"}} for number in range(COUNT)]
    results = [{"role": "tool", "tool_name": f"f{number}", "content": ""} for number in reversed(range(COUNT))]
    return {"model": "m", "messages": [USER, {"role": "assistant", "tool_calls": calls}, *results]}


def ollama_results_of_unknown_calls() -> dict[str, Any]:
    calls = [{"function": {"name": "f"}}] * COUNT
    results = [{"role": "tool", "tool_call_id": "x", "content": ""}] * COUNT
    return {"model": "m", "messages": [USER, {"role": "assistant", "tool_calls": calls}, *results]}


def openai_long_unknown_field() -> dict[str, Any]:
    return {"model": "m", "messages": [USER], "max_tokens" * COUNT * 5: 1}


def openai_tools() -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": f"f{number}"}} for number in range(COUNT)]
    return {"model": "m", "messages": [USER], "tools": tools}


def openai_allowed_tools() -> dict[str, Any]:
    body = openai_tools()
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": body["tools"]}}
    return {**body, "tool_choice": choice}


CASES: list[tuple[Callable[[], dict[str, Any]], Callable[[bytes], Any]]] = [
    (gemini_calls, lambda body: gemini.decode_request(body).to_chat("m").chat),
    (gemini_calls_with_ids, lambda body: gemini.decode_request(body).to_chat("m").chat),
    (gemini_allowed_names, lambda body: gemini.decode_request(body).to_chat("m").chat),
    (gemini_schema, lambda body: gemini.decode_request(body).to_chat("m").chat),
    (responses_calls, lambda body: responses.decode_request(body).to_chat().chat),
    (responses_turns, lambda body: responses.decode_request(body).to_chat().chat),
    (responses_messages, lambda body: responses.decode_request(body).to_chat().chat),
    (anthropic_results, lambda body: decode_message(body)[1].chat),
    (ollama_calls, lambda body: ollama.decode_chat(body).to_chat().chat),
    (ollama_results_of_unknown_calls, lambda body: ollama.decode_chat(body).to_chat().chat),
    (openai_long_unknown_field, lambda body: openai.decode_request(body).to_chat().chat),
    (openai_tools, lambda body: openai.decode_request(body).to_chat().chat),
    (openai_allowed_tools, lambda body: openai.decode_request(body).to_chat().chat),
]


@pytest.mark.parametrize(("make_body", "translate"), CASES, ids=[case[0].__name__ for case in CASES])
def test_a_large_request_is_translated_in_linear_time(
    make_body: Callable[[], dict[str, Any]], translate: Callable[[bytes], Any]
) -> None:
    """Decoding, translation and the validation in the worker stay within a generous bound of CPU time."""
    body = msgspec.json.encode(make_body())
    before = time.process_time()
    with contextlib.suppress(InvalidInput):
        validate_request(translate(body))
    assert time.process_time() - before < LIMIT_S


LONG_NAMES = (b"k" * 500_000, rb"\n" * 250_000, rb"k\n" * 150_000)
LONG_OPTIONS = "data:image/png" + ";" * 500_000


@pytest.mark.parametrize(
    "read",
    [
        *(functools.partial(fields_of, b'{"' + name + b'": 1}') for name in LONG_NAMES),
        *(functools.partial(image_of, LONG_OPTIONS + end, "url") for end in (",x", "x")),
        functools.partial(data_of, LONG_OPTIONS + ",x", "url"),
        functools.partial(parse_duration, "1s" * 250_000),
    ],
)
def test_a_long_text_is_read_in_little_memory(read: Callable[[], object]) -> None:
    """A regular expression that repeats a group keeps 130 bytes for each repetition, unless it is possessive."""
    tracemalloc.start()
    try:
        with contextlib.suppress(HostError, ValueError):
            read()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000


def test_a_long_text_in_place_of_a_duration_makes_no_long_error() -> None:
    with pytest.raises(ValueError, match="write it as") as refusal:
        parse_duration("x" * 500_000)
    assert len(str(refusal.value)) < 300
