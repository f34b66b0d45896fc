"""Cost of decoding, translation and validation against the size of a request, for each protocol.

``python bench/cost.py`` prints CPU milliseconds for growing requests and the slope on logarithmic axes: 1 is linear,
2 quadratic. It fails above 1.3, because a quadratic translation lets one client stop the host.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec

from handler_host.chat.validation import validate_request
from handler_host.http.json_structure import check_structure
from handler_host.plugin.errors import InvalidInput
from handler_host.protocols.anthropic import requests as anthropic
from handler_host.protocols.fields import IgnoredFields
from handler_host.protocols.gemini import requests as gemini
from handler_host.protocols.openai import requests as openai
from handler_host.protocols.openai_responses import requests as responses

SIZES = (1_000, 2_000, 4_000, 8_000, 16_000)
REPETITIONS = 5
MAX_SLOPE = 1.3
USER = {"role": "user", "content": "x"}


def openai_calls(count: int) -> dict[str, Any]:
    """Return a chat with ``count`` tool calls and their results."""
    calls = [{"id": f"c{n}", "type": "function", "function": {"name": "f", "arguments": "{}"}} for n in range(count)]
    results = [{"role": "tool", "tool_call_id": f"c{n}", "content": "x"} for n in reversed(range(count))]
    return {"model": "m", "messages": [USER, {"role": "assistant", "tool_calls": calls}, *results, USER]}


def anthropic_calls(count: int) -> dict[str, Any]:
    """Return messages with ``count`` tool calls and their results."""
    calls = [{"type": "tool_use", "id": f"c{n}", "name": "f", "input": {}} for n in range(count)]
    results = [{"type": "tool_result", "tool_use_id": f"c{n}"} for n in reversed(range(count))]
    messages = [USER, {"role": "assistant", "content": calls}, {"role": "user", "content": results}]
    return {"model": "m", "max_tokens": 1, "messages": messages}


def responses_turns(count: int) -> dict[str, Any]:
    """Return an input with ``count`` turns of a call and its output."""
    turns: list[dict[str, Any]] = []
    for n in range(count):
        turns.append({"type": "function_call", "call_id": f"c{n}", "name": "f", "arguments": ""})
        turns.append({"type": "function_call_output", "call_id": f"c{n}", "output": ""})
    return {"model": "m", "input": turns}


def gemini_calls(count: int) -> dict[str, Any]:
    """Return contents with ``count`` function calls and their responses."""
    calls = [{"functionCall": {"name": f"f{n}"}} for n in range(count)]
    results = [{"functionResponse": {"name": f"f{n}"}} for n in reversed(range(count))]
    text = {"role": "user", "parts": [{"text": "x"}]}
    return {"contents": [text, {"role": "model", "parts": calls}, {"role": "user", "parts": results}]}


def gemini_schema(count: int) -> dict[str, Any]:
    """Return a function with a schema of ``count`` leaves below a name of ten times as many characters."""
    leaves = {f"{n:x}": {"type": "STRING"} for n in range(count)}
    schema = {"properties": {"a" * (10 * count): {"properties": leaves}}}
    tools = [{"functionDeclarations": [{"name": "f", "parameters": schema}]}]
    return {"contents": [{"parts": [{"text": "x"}]}], "tools": tools}


CASES: list[tuple[Callable[[int], dict[str, Any]], Callable[[bytes], Any]]] = [
    (openai_calls, lambda body: openai.decode_chat(body, IgnoredFields())[1].chat),
    (anthropic_calls, lambda body: anthropic.decode_message(body)[1].chat),
    (responses_turns, lambda body: responses.decode_chat(body, IgnoredFields())[1].chat),
    (gemini_calls, lambda body: gemini.decode_request(body).to_chat("m").chat),
    (gemini_schema, lambda body: gemini.decode_request(body).to_chat("m").chat),
]


def cost_ms(body: bytes, translate: Callable[[bytes], Any]) -> float:
    """Return the least CPU time of some repetitions, in milliseconds."""
    times: list[float] = []
    for _ in range(REPETITIONS):
        before = time.process_time()
        check_structure(body)
        with contextlib.suppress(InvalidInput):
            validate_request(translate(body))
        times.append(time.process_time() - before)
    return min(times) * 1000


def main() -> int:
    """Print the table; return 1 if a slope is too large."""
    print("request", *SIZES, "slope", sep="\t")
    failed = False
    for make, translate in CASES:
        costs = [cost_ms(msgspec.json.encode(make(size)), translate) for size in SIZES]
        slope = statistics.linear_regression(list(map(math.log, SIZES)), list(map(math.log, costs))).slope
        failed = failed or slope > MAX_SLOPE
        print(make.__name__, *(f"{cost:.1f}" for cost in costs), f"{slope:.2f}", sep="\t")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
