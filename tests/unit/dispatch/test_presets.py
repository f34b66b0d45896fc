"""Presets: a handler's system prompt, sampling and tools in the body of each operation."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest

from handler_host.chat.types import ChatRequest
from handler_host.config import Config
from handler_host.config.loader import load_config
from handler_host.config.preset import Preset, PresetTool, parse_preset
from handler_host.dispatch.presets import Presets, with_preset
from handler_host.dispatch.request import Caller, Request
from handler_host.plugin.errors import ConfigError, InvalidInput

SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}}
PRESET = Preset(
    system="Be brief.",
    temperature=0.2,
    top_p=0.9,
    max_tokens=50,
    seed=7,
    stop=("END",),
    tools=(PresetTool(name="read", description="Read a file.", parameters=SCHEMA),),
)
READ = {"name": "read", "description": "Read a file.", "parameters": SCHEMA}
USER = {"role": "user", "content": "Hi"}


def applied(operation: str, body: dict[str, Any], preset: Preset = PRESET) -> Any:
    return json.loads(with_preset(preset, operation, json.dumps(body).encode()))


def test_chat() -> None:
    body = applied("chat", {"messages": [USER]})
    assert body == {
        "messages": [{"role": "system", "content": "Be brief."}, USER],
        "temperature": 0.2,
        "top_p": 0.9,
        "max_tokens": 50,
        "seed": 7,
        "stop": ["END"],
        "tools": [{"type": "function", "function": READ}],
    }
    assert msgspec.convert(body, ChatRequest).temperature == 0.2


@pytest.mark.parametrize(
    ("operation", "field"),
    [("chat", "messages"), ("anthropic.messages", "messages"), ("openai.responses", "input")],
)
def test_the_conversation_stays_as_the_client_wrote_it(operation: str, field: str) -> None:
    items = b'{"role": "user", "content": "\\u0048i", "n": 1.0e2}'
    assert items in with_preset(PRESET, operation, b'{"%s": [{}, %s]}' % (field.encode(), items))


@pytest.mark.parametrize(
    ("operation", "flaw"),
    [
        ("gemini.generate_content", {"systemInstruction": "text"}),
        ("gemini.generate_content", {"generationConfig": [1]}),
        ("gemini.generate_content", {"tools": 3}),
        ("openai.chat", {"tools": [{"function": "read"}]}),
        ("chat", {"tools": [{"function": {"name": ["read"]}}]}),
        ("anthropic.messages", {"tools": [{"name": {}}]}),
    ],
)
def test_fields_of_a_wrong_type_are_left_to_the_handler(operation: str, flaw: dict[str, Any]) -> None:
    ((key, value),) = flaw.items()
    kept = applied(operation, flaw)[key]
    assert kept[: len(value)] == value if isinstance(value, list) else kept == value


def test_the_clients_values_win_and_its_system_prompt_follows() -> None:
    own = {
        "messages": [{"role": "system", "content": "Be kind."}, USER],
        "temperature": 0,
        "top_p": None,
        "max_tokens": 9,
        "tools": [{"type": "function", "function": {"name": "read"}}],
    }
    body = applied("chat", own)
    assert body["messages"][0]["content"] == "Be brief.\n\nBe kind."
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0, 0.9, 9)
    assert body["tools"] == own["tools"]
    parts = [{"type": "text", "text": "Be kind."}]
    body = applied("chat", {"messages": [{"role": "system", "content": parts}]})
    assert body["messages"][0]["content"] == [{"type": "text", "text": "Be brief."}, *parts]


def test_count_tokens_has_prompt_and_tools_only() -> None:
    assert applied("count_tokens", {"messages": [USER]}).keys() == {"messages", "tools"}


def test_openai_chat() -> None:
    body = applied("openai.chat", {"messages": [{"role": "developer", "content": "x"}], "stream": True})
    assert body["messages"] == [{"role": "developer", "content": "Be brief.\n\nx"}]
    assert (body["max_completion_tokens"], body.get("max_tokens"), body["stream"]) == (50, None, True)
    assert "max_completion_tokens" not in applied("openai.chat", {"max_tokens": 3})


def test_openai_responses() -> None:
    assert applied("openai.responses", {"input": "Hi", "instructions": "x", "tools": [{"type": "web_search"}]}) == {
        "input": "Hi",
        "instructions": "Be brief.\n\nx",
        "temperature": 0.2,
        "top_p": 0.9,
        "max_output_tokens": 50,
        "tools": [{"type": "web_search"}, {"type": "function", "strict": False, **READ}],
    }


def test_anthropic_messages() -> None:
    cached = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
    body = applied("anthropic.messages", {"messages": [USER], "system": [cached], "max_tokens": 9})
    assert body["system"] == [{"type": "text", "text": "Be brief."}, cached]
    assert (body["max_tokens"], body["temperature"], body["stop_sequences"]) == (9, 0.2, ["END"])
    assert body["tools"] == [{"name": "read", "description": "Read a file.", "input_schema": SCHEMA}]
    thinking = applied("anthropic.messages", {"thinking": {"type": "enabled", "budget_tokens": 1024}})
    assert thinking.keys().isdisjoint({"temperature", "top_p"}), "a model that thinks refuses them"
    assert applied("anthropic.count_tokens", {}).keys() == {"system", "tools"}


def test_gemini_generate_content() -> None:
    assert applied("gemini.generate_content", {"contents": []}) == {
        "contents": [],
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "generationConfig": {
            "temperature": 0.2,
            "topP": 0.9,
            "maxOutputTokens": 50,
            "seed": 7,
            "stopSequences": ["END"],
        },
        "tools": [{"functionDeclarations": [READ]}],
    }
    own = {
        "system_instruction": {"parts": {"text": "x"}, "role": "user"},
        "generation_config": {"top_p": 0.1},
        "tools": [{"googleSearch": {}}],
    }
    body = applied("gemini.generate_content", own)
    assert body["system_instruction"] == {"role": "user", "parts": [{"text": "Be brief."}, {"text": "x"}]}
    assert body["generation_config"]["top_p"] == 0.1
    assert "topP" not in body["generation_config"]
    assert [next(iter(tool)) for tool in body["tools"]] == ["functionDeclarations", "googleSearch"]


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"x"', b"\xff"])
def test_other_bodies_and_operations_are_untouched(body: bytes) -> None:
    assert with_preset(PRESET, "chat", body) is body
    whole = b'{"messages": []}'
    assert with_preset(PRESET, "fetch", whole) is whole


@pytest.mark.parametrize("operation", ["chat", "openai.chat", "openai.responses", "anthropic.messages"])
@pytest.mark.parametrize("value", [None, 3, "x", {}, [3]])
def test_wrong_types_are_left_to_the_handler(operation: str, value: object) -> None:
    for field in ("messages", "tools", "system", "instructions"):
        assert applied(operation, {field: value}) is not None


class TestErrors:
    def request(self, messages: list[Any]) -> Request:
        body = json.dumps({"messages": messages}).encode()
        return Request(handler="x", operation="chat", body=body, caller=Caller("1"), deadline=0)

    def test_name_the_clients_message(self) -> None:
        presets = Presets(lambda: Config(handlers={"x": {"preset": {"system": "Be brief."}}}))
        request = self.request([USER, USER])
        assert len(json.loads(presets.add_to(request).body)["messages"]) == 3
        error = InvalidInput("messages[2].content: no images", param="messages[2].content", details={"a": 1})
        shown = presets.with_client_path(error, request)
        assert (shown.message, shown.param, shown.details) == (
            "messages[1].content: no images",
            "messages[1].content",
            {"a": 1},
        )
        other = InvalidInput("tools[0]: no", param="tools[0]")
        assert presets.with_client_path(other, request) is other
        merged = self.request([{"role": "system", "content": "a"}, USER])
        assert presets.with_client_path(error, merged) is error

    def test_without_a_preset_nothing_changes(self) -> None:
        presets = Presets(Config)
        request = self.request([USER])
        error = InvalidInput("messages[0]: x", param="messages[0]")
        assert presets.add_to(request) is request
        assert presets.with_client_path(error, request) is error


@pytest.mark.parametrize(
    ("table", "error"),
    [
        (3, "must be a table"),
        ({"sistema": "x"}, "unknown key sistema; did you mean 'system'?"),
        ({"system": ""}, "system: must be a text, not empty"),
        ({"temperature": 3}, "temperature: must be a number from 0 to 2"),
        ({"temperature": True}, "temperature: must be a number from 0 to 2"),
        ({"top_p": float("nan")}, "top_p: must be a number from 0 to 1"),
        ({"max_tokens": 0}, "max_tokens: must be a whole number, 1 or more"),
        ({"stop": "END"}, "stop: must be a list"),
        ({"tools": [{"description": "x"}]}, "tools[0].name: must be a text, not empty"),
        ({"tools": [{"name": "x", "schema": {}}]}, "unknown key tools[0].schema"),
        ({"tools": [{"name": "x", "parameters": []}]}, "tools[0].parameters: must be a table (a JSON Schema)"),
    ],
)
def test_mistakes_are_named(table: object, error: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(error)):
        parse_preset(table)


def test_the_file_is_checked(tmp_path: Any) -> None:
    path = tmp_path / "host.toml"
    path.write_text('[handlers.x]\nplugin = "gpt_a"\n[handlers.x.preset]\nsystem = "Be brief."\ntop_pp = 0.2\n')
    with pytest.raises(ConfigError) as raised:
        load_config(path, {})
    assert raised.value.message == (f"{path}:3: handlers.x.preset: unknown key top_pp; did you mean 'top_p'?")
    path.write_text(path.read_text().replace("top_pp =", "temperature ="))
    config = load_config(path, {}).config
    assert Presets(lambda: config).of("x") == Preset(system="Be brief.", temperature=0.2)
    assert config.settings("x") == {}
