"""Requests that make no sense, to all five handlers by way of every protocol: one clear 400, and the worker lives.

Passed on as it came, a body is judged by the provider; these are translated (``native = false``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from handler_host.testing import HostUnderTest, Upstream, host_under_test

MODELS = ("gpt_a", "gpt_b", "gpt_c", "gpt_d", "gpt_d/anthropic/claude", "gpt_d/gemini/gemini-2.5-flash", "gpt_e")
WITH_TOOLS = MODELS[:-1]
USER = {"role": "user", "content": "Look!"}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
NO_IMAGE = "data:image/png;base64,aGVsbG8="
SCHEMA = {"type": "object", "properties": {"city": {"type": "strange"}}}


def calling(arguments: str = "{}") -> dict[str, Any]:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[HostUnderTest, Upstream]]:
    with Upstream().run() as upstream:
        bases = {
            "openai": upstream.base_url("openai"),
            "anthropic": upstream.base_url("anthropic"),
            "gemini": f"{upstream.base_url('gemini')}/v1beta",
        }
        config = "\n".join(
            [
                f'[handlers.gpt_a]\nbase_url = "{bases["openai"]}"\nnative = false',
                f'[handlers.gpt_b]\nbase_url = "{bases["anthropic"]}"\nnative = false',
                f'[handlers.gpt_c]\nbase_url = "{upstream.base_url("gemini")}"\nnative = false',
                "[handlers.gpt_d]\nnative = false\n[handlers.gpt_d.api_base]\n"
                + "\n".join(f'{name} = "{base}"' for name, base in bases.items()),
                "[handlers.gpt_e]\ncontext = 512\nmax_tokens = 4\nnative = false\n",
            ]
        )
        with host_under_test(config) as host:
            yield host, upstream


@pytest.fixture
def host(running: tuple[HostUnderTest, Upstream]) -> Iterator[HostUnderTest]:
    """Return the host; whatever is asked, no provider may hear of it and no worker may die of it."""
    found, upstream = running
    upstream.reset()
    yield found
    assert upstream.requests == []
    _, told = found.admin_request("GET", "/handlers")
    assert {each["name"]: each["last_exit"] for each in told["handlers"] if each["last_exit"]} == {}


def refused(host: HostUnderTest, path: str, body: dict[str, Any]) -> dict[str, Any]:
    status, content = host.request("POST", path, body)
    assert status == 400, content
    error: dict[str, Any] = content["error"]
    return error


@pytest.mark.parametrize("model", WITH_TOOLS)
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [USER, calling(), USER]}, "messages[1].tool_calls[0]"),
        ({"messages": [USER, {"role": "tool", "tool_call_id": "c1", "content": "x"}]}, "messages[1].tool_call_id"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": NO_IMAGE}}]}]},
            "messages[0].content[0].image_url.url",
        ),
        ({"messages": [USER], "tools": [TOOL, TOOL]}, "tools[1].function.name"),
        ({"messages": [USER], "tool_choice": "required"}, "tool_choice"),
        (
            {"messages": [USER], "tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]},
            "tools[0].function.parameters.properties.city.type",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(
    host: HostUnderTest, model: str, fields: dict[str, Any], param: str
) -> None:
    error = refused(host, "/v1/chat/completions", {"model": model, "max_tokens": 9, **fields})
    assert (error["code"], error["param"]) == ("invalid_input", param)


@pytest.mark.parametrize("model", MODELS)
def test_a_schema_that_is_none_is_refused_with_its_place(host: HostUnderTest, model: str) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}
    body = {"model": model, "messages": [USER], "max_tokens": 9, "response_format": form}
    error = refused(host, "/v1/chat/completions", body)
    assert error["param"] == "response_format.json_schema.schema.properties.city.type"


@pytest.mark.parametrize("model", [model for model in WITH_TOOLS if model not in ("gpt_a", "gpt_d")])
def test_arguments_that_are_not_an_object_reach_the_provider_in_one(
    running: tuple[HostUnderTest, Upstream], model: str
) -> None:
    """A model was cut off in them; the client's result says that the call failed."""
    host, upstream = running
    upstream.reset()
    messages = [USER, calling('{"x'), {"role": "tool", "tool_call_id": "c1", "content": "invalid arguments"}]
    status, response = host.request("POST", "/v1/chat/completions", {"model": model, "messages": messages})
    assert status == 200, response
    assert json.dumps({"arguments": '{"x'}) in json.dumps(upstream.last_request.body)


@pytest.mark.parametrize("model", ["gpt_b", "gpt_c", "gpt_d/anthropic/claude"])
def test_instructions_alone_are_refused_by_some_providers(host: HostUnderTest, model: str) -> None:
    messages = [{"role": "system", "content": "Be brief."}]
    error = refused(host, "/v1/chat/completions", {"model": model, "messages": messages, "max_tokens": 9})
    assert error["param"] == "messages"


def test_what_llama_cpp_cannot_take_is_told_in_its_words(host: HostUnderTest) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"$ref": "https://127.0.0.1/s.json"}}}
    body: dict[str, Any] = {"model": "gpt_e", "messages": [USER], "max_tokens": 4}
    error = refused(host, "/v1/chat/completions", {**body, "response_format": form})
    assert error["param"] == "response_format.json_schema.schema"
    assert "unsupported $ref" in error["message"]
    for seed in (-1, 2**32):
        assert refused(host, "/v1/chat/completions", {**body, "seed": seed})["param"] == "seed"


@pytest.mark.parametrize("model", MODELS)
def test_every_protocol_names_its_own_field(host: HostUnderTest, model: str) -> None:
    """What a handler's worker finds comes back with the words of the client."""
    schema = SCHEMA
    error = refused(
        host,
        "/v1/messages",
        {
            "model": model,
            "max_tokens": 9,
            "messages": [USER],
            "output_config": {"format": {"type": "json_schema", "schema": schema}},
        },
    )
    assert error["type"] == "invalid_request_error"
    assert error["details"]["param"] == "output_config.format.schema.properties.city.type"
    error = refused(
        host,
        "/v1/responses",
        {
            "model": model,
            "input": "Hi",
            "text": {"format": {"type": "json_schema", "name": "s", "schema": schema}},
        },
    )
    assert error["param"] == "text.format.schema.properties.city.type"
    error = refused(
        host,
        f"/v1beta/models/{model}:generateContent",
        {
            "contents": [{"parts": [{"text": "Hi"}]}],
            "generationConfig": {"responseMimeType": "application/json", "responseJsonSchema": schema},
        },
    )
    assert error["status"] == "INVALID_ARGUMENT"
    assert "generationConfig.responseJsonSchema.properties.city.type" in json.dumps(error)


@pytest.mark.parametrize("model", WITH_TOOLS)
def test_gemini_forced_call_without_functions_is_refused(host: HostUnderTest, model: str) -> None:
    body = {
        "contents": [{"parts": [{"text": "Hi"}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
    }
    error = refused(host, f"/v1beta/models/{model}:generateContent", body)
    assert "toolConfig.functionCallingConfig" in json.dumps(error["details"])
