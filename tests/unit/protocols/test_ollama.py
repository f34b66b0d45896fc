"""Requests and responses of Ollama's API."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from handler_host import chat
from handler_host.chat.conversion import accumulate
from handler_host.config.model_info import ModelInfo
from handler_host.lifecycle.reports import HandlerStatus
from handler_host.plugin.errors import InvalidInput
from handler_host.protocols.chat_service import ListedModel
from handler_host.protocols.fields import IgnoredFields
from handler_host.protocols.ollama.requests import decode_chat, decode_generate, decode_model
from handler_host.protocols.ollama.responses import ChunkEncoder, tag

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(80)).decode()
CALL = {"function": {"name": "look", "arguments": {"at": "☀"}}}


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "gpt_a", **fields}).encode()


def checked(data: bytes) -> None:
    """Read all of a body, as the route does."""
    request = decode_chat(data)
    assert request.keep_alive_s is None
    request.to_chat()


def translated(**fields: Any) -> chat.ChatRequest:
    return decode_chat(body(**fields)).to_chat().chat


def test_a_chat_with_everything() -> None:
    schema = {"type": "object"}
    request = translated(
        messages=[
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "see", "images": [PNG, "data:image/gif;base64,R0lG"]},
        ],
        tools=[{"type": "function", "function": {"name": "look", "parameters": schema}}],
        format=schema,
        options={
            "temperature": 0.5,
            "num_predict": 7,
            "stop": "END",
            "seed": 3,
            "num_ctx": 4096,
            "top_k": 40,
            "mirostat": 1,
        },
        think="high",
        truncate=True,
    )
    assert request == chat.ChatRequest(
        messages=[
            chat.SystemMessage(content="be brief"),
            chat.UserMessage(
                content=[
                    chat.TextPart(text="see"),
                    chat.ImagePart(image_url=chat.ImageUrl(url=f"data:image/png;base64,{PNG}")),
                    chat.ImagePart(image_url=chat.ImageUrl(url="data:image/gif;base64,R0lG")),
                ]
            ),
        ],
        temperature=0.5,
        max_tokens=7,
        stop=["END"],
        seed=3,
        tools=[chat.Tool(function=chat.FunctionSpec(name="look", parameters=schema))],
        response_format=chat.JsonSchemaFormat(json_schema=chat.JsonSchema(name="response", schema=schema)),
        reasoning=chat.ReasoningOptions(effort="high", summary="auto"),
        top_k=40,
    )


def test_results_belong_to_the_open_call_of_their_name() -> None:
    other = {"function": {"name": "listen", "arguments": {}}}
    messages = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": "", "tool_calls": [CALL, other, CALL]},
        {"role": "tool", "content": "heard", "tool_name": "listen"},
        {"role": "tool", "content": "first"},
        {"role": "tool", "content": "second", "tool_name": "look"},
        {"role": "assistant", "content": "", "tool_calls": [{**CALL, "id": "own"}]},
        {"role": "tool", "content": "third", "tool_call_id": "own"},
    ]
    history = translated(messages=messages).messages
    calls = [
        call for message in history if isinstance(message, chat.AssistantMessage) for call in message.tool_calls or ()
    ]
    assert [(call.id, call.function.name) for call in calls] == [
        ("call_1", "look"),
        ("call_2", "listen"),
        ("call_3", "look"),
        ("own", "look"),
    ]
    assert json.loads(calls[0].function.arguments) == {"at": "☀"}
    results = [(m.tool_call_id, m.content) for m in history if isinstance(m, chat.ToolMessage)]
    assert results == [("call_2", "heard"), ("call_1", "first"), ("call_3", "second"), ("own", "third")]
    with pytest.raises(InvalidInput, match=r"messages\[0\]: no tool call before it waits"):
        translated(messages=[{"role": "tool", "content": "x"}])


def test_a_prompt_is_a_chat_of_one_turn() -> None:
    request = decode_generate(body(prompt="Hi", system="be brief", format="json", options={"num_predict": -1}))
    assert request.is_stream
    assert request.to_chat().chat == chat.ChatRequest(
        messages=[chat.SystemMessage(content="be brief"), chat.UserMessage(content="Hi")],
        response_format=chat.JsonObjectFormat(),
    )
    assert decode_generate(body(prompt="")).is_empty
    assert decode_chat(body()).is_empty


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, None), (0, 0), ("0", 0), (-1, -1), ("-1m", -1), (300, 300), ("5m", 300), ("1h30m", 5400), (0.5, 0.5)],
)
def test_keep_alive(value: object, seconds: float | None) -> None:
    assert decode_chat(body(keep_alive=value)).keep_alive_s == seconds


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"messages": [{"role": "bot", "content": "x"}]}, "messages[0].role: 'bot' must be system, user"),
        ({"messages": [{"role": "user", "images": ["*"]}]}, "messages[0].images[0]: not base64"),
        ({"messages": [{"role": "user", "images": ["AAAA"]}]}, "messages[0].images[0]: unknown kind of image"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content: expected"),
        ({"tools": [{"type": "function"}]}, "tools: each must be a function with a name"),
        ({"format": "yaml"}, "format: 'yaml' must be \"json\" or a JSON Schema"),
        ({"keep_alive": "soon"}, "keep_alive: 'soon' is not a duration"),
    ],
)
def test_mistakes_are_named(fields: dict[str, Any], error: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        checked(body(**fields))
    assert raised.value.message.startswith(error)


@pytest.mark.parametrize(("think", "effort"), [(True, "medium"), (False, "none"), ("low", "low")])
def test_think_is_the_effort_of_reasoning(think: object, effort: str) -> None:
    reasoning = translated(messages=[{"role": "user", "content": "x"}], think=think).reasoning
    assert reasoning is not None
    assert (reasoning.effort, reasoning.summary) == (effort, None if think is False else "auto")


def test_errors_of_handlers_name_the_clients_field() -> None:
    request = decode_generate(body(prompt="Hi", system="x")).to_chat()
    for param, own in (
        ("messages[1].content", "prompt"),
        ("max_tokens", "options.num_predict"),
        ("reasoning", "think"),
    ):
        error = InvalidInput(f"{param}: no", param=param)
        assert request.with_client_path(error).param == own


def test_a_model_may_have_its_older_field() -> None:
    assert decode_model(b'{"name": "x"}').requested == "x"
    with pytest.raises(InvalidInput, match="model is missing"):
        decode_model(b"{}")


CHUNKS: list[chat.ChatChunk] = [
    chat.ModelChunk(model="real"),
    chat.ReasoningChunk(text="hmm"),
    chat.TextChunk(text="Hel"),
    chat.TextChunk(text="lo"),
    chat.ToolCallChunk(index=0, id="c1", name="look", arguments='{"at"'),
    chat.ToolCallChunk(index=1, id="c2", name="listen"),
    chat.ToolCallChunk(index=0, arguments=': "x"}'),
    chat.FinishChunk(reason="tool_calls"),
    chat.UsageChunk(usage=chat.Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5)),
]


def lines(*, is_chat: bool) -> list[Any]:
    encoder = ChunkEncoder("gpt_a", is_chat=is_chat)
    made = [line for chunk in CHUNKS for line in encoder.chunks(chunk)] + encoder.last()
    return [json.loads(msgspec.json.encode(line)) for line in made]


def test_lines_of_a_chat() -> None:
    made = lines(is_chat=True)
    calls = [
        {"id": "c1", "function": {"name": "look", "arguments": {"at": "x"}}},
        {"id": "c2", "function": {"name": "listen", "arguments": {}}},
    ]
    assert [line["message"] for line in made] == [
        {"role": "assistant", "content": "", "thinking": "hmm"},
        {"role": "assistant", "content": "Hel"},
        {"role": "assistant", "content": "lo"},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "assistant", "content": ""},
    ]
    assert [line["done"] for line in made] == [False] * 4 + [True]
    last = made[-1]
    assert (last["model"], last["done_reason"], last["prompt_eval_count"], last["eval_count"]) == (
        "gpt_a",
        "stop",
        3,
        2,
    )
    assert last["total_duration"] >= last["load_duration"] + last["eval_duration"] >= 0


def test_lines_of_a_generation() -> None:
    made = lines(is_chat=False)
    assert [(line["response"], line.get("thinking")) for line in made] == [
        ("", "hmm"),
        ("Hel", None),
        ("lo", None),
        ("", None),
    ]
    assert "message" not in made[0]


@pytest.mark.parametrize("is_chat", [True, False])
def test_a_whole_response_has_the_stream_joined(is_chat: bool) -> None:
    whole = json.loads(msgspec.json.encode(ChunkEncoder("gpt_a", is_chat=is_chat).whole(accumulate(CHUNKS))))
    shown = whole["message"] if is_chat else whole
    assert (shown["content" if is_chat else "response"], shown["thinking"], whole["done"]) == ("Hello", "hmm", True)
    assert whole["eval_count"] == 2
    if is_chat:
        assert [call["function"]["name"] for call in shown["tool_calls"]] == ["look", "listen"]


def test_arguments_that_are_not_an_object_are_kept() -> None:
    encoder = ChunkEncoder("m", is_chat=True)
    encoder.chunks(chat.ToolCallChunk(index=0, id="c", name="f", arguments="{broken"))
    (line,) = encoder.chunks(chat.FinishChunk(reason="length"))
    assert json.loads(msgspec.json.encode(line))["message"]["tool_calls"][0]["function"]["arguments"] == {
        "arguments": "{broken"
    }
    assert encoder.last()[-1].done_reason == "length"


def digest(model: str, info: ModelInfo) -> str:
    status = HandlerStatus(
        name="gpt_e", state="absent", reason=None, distribution="handler-host-gpt-e", version="1", plugin=None,
        title="", description="", models={model: info}, default_model=model, operations=None, isolation="fork",
        python=None, pin=False,
    )  # fmt: skip
    return str(tag(ListedModel("fast", status, model), datetime.now(UTC))["digest"])


def test_a_model_has_another_digest_once_its_facts_change() -> None:
    """llm-ollama asks for the capabilities of a digest once, and keeps them in a file."""
    blind = digest("small", ModelInfo(capabilities=("tools",)))
    assert blind == digest("small", ModelInfo(capabilities=("tools",)))
    assert blind != digest("small", ModelInfo(capabilities=("tools",), input=("image",)))
    assert blind != digest("large", ModelInfo(capabilities=("tools",))), "[models] sends the name to another model"


def test_fields_without_a_translation_are_named() -> None:
    ignored = IgnoredFields()
    options = {"num_ctx": 8192, "temperature": 1, "mirostat": 2, "min_p": 0, "repeat_penalty": 1}
    decode_generate(body(prompt="a", raw=True, truncate=True, context=[1], steps=3, options=options), ignored)
    assert ignored.names == ["raw", "context", "steps", "options.num_ctx", "options.mirostat"]


def test_a_suffix_is_a_demand() -> None:
    """The text between a prompt and a suffix is what the client wants; a chat has no place for the suffix."""
    with pytest.raises(InvalidInput, match="suffix is not supported"):
        decode_generate(body(prompt="a", suffix="z"))
    ignored = IgnoredFields("ignore")
    decode_generate(body(prompt="a", suffix="z"), ignored)
    assert ignored.names == ["suffix"]
