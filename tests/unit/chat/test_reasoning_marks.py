"""Reasoning of compatible servers, through a client's session and back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gpt_a.requests import request_body
from handler_host.chat import AssistantMessage, ChatRequest, ChatResponse, CompletionDecoder, accumulate
from handler_host.protocols.anthropic.requests import decode_message
from handler_host.protocols.anthropic.responses import message
from handler_host.protocols.fields import IgnoredFields
from handler_host.protocols.gemini import encoder as gemini
from handler_host.protocols.gemini.requests import decode_request
from handler_host.protocols.openai_responses.encoder import ResponseEncoder
from handler_host.protocols.openai_responses.requests import decode_chat

DEEPSEEK = [{"reasoning_content": "Let me "}, {"reasoning_content": "see"}]
VLLM = [{"reasoning": "Let me "}, {"reasoning": "see"}]
DETAIL = {"type": "reasoning.text", "index": 0, "format": "anthropic-claude-v1"}
OPENROUTER: list[dict[str, Any]] = [
    {"reasoning": "Let me ", "reasoning_details": [{**DETAIL, "text": "Let me ", "signature": None}]},
    {"reasoning": "see", "reasoning_details": [{**DETAIL, "text": "see"}]},
    {"reasoning_details": [{**DETAIL, "signature": "c2ln"}]},
]
ENCRYPTED = {"type": "reasoning.encrypted", "index": 1, "data": "ZGF0YQ==", "id": "rs_1"}
SERVERS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "DeepSeek": (DEEPSEEK, {"reasoning_content": "Let me see"}),
    "vLLM": (VLLM, {"reasoning": "Let me see"}),
    "OpenRouter": (OPENROUTER, {"reasoning_details": [{**DETAIL, "text": "Let me see", "signature": "c2ln"}]}),
    "encrypted": ([{"reasoning_details": [ENCRYPTED]}], {"reasoning_details": [ENCRYPTED]}),
}
CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def respond(deltas: list[dict[str, Any]], source: str | None = "deepseek") -> ChatResponse:
    decoder = CompletionDecoder(source=source)
    last = [{"choices": [{"index": 0, "delta": {"tool_calls": [CALL]}, "finish_reason": "tool_calls"}]}]
    documents = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas] + last
    return accumulate([*(chunk for document in documents for chunk in decoder.chunks(document)), *decoder.last()])


def sent_to(source: str | None, *messages: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the fields of the reasoning that a server gets with the first response, and the ignored fields."""
    body = request_body(ChatRequest(messages=list(messages)), "m", is_openai=source is None, source=source)
    sent = next(each for each in body.content["messages"] if each["role"] == "assistant")
    return {name: value for name, value in sent.items() if name.startswith("reasoning")}, body.ignored


@pytest.mark.parametrize("server", SERVERS)
def test_reasoning_goes_back_to_its_server(server: str) -> None:
    """DeepSeek refuses a turn after tool calls without it."""
    deltas, fields = SERVERS[server]
    history = AssistantMessage(content=respond(deltas).content)
    assert sent_to("deepseek", history) == (fields, [])


@pytest.mark.parametrize("source", ["mistral", None])
def test_another_server_gets_no_reasoning(source: str | None) -> None:
    history = AssistantMessage(content=respond(DEEPSEEK).content)
    assert sent_to(source, history) == ({}, ["messages[].reasoning"])


def test_a_changed_mark_is_left_out() -> None:
    history = AssistantMessage(content=respond(DEEPSEEK).content)
    for part in history.reasoning or ():
        part.signature = "no JSON"
    assert sent_to("deepseek", history)[0] == {}


def through_anthropic(response: ChatResponse) -> Any:
    content = msgspec.to_builtins(message(response, message_id="m", model="m"))["content"]
    history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": content}]
    body = {"model": "deepseek", "max_tokens": 50, "messages": history}
    return decode_message(msgspec.json.encode(body))[1].chat.messages


def through_responses(response: ChatResponse) -> Any:
    request, _ = decode_chat(b'{"model": "deepseek", "input": "Hi"}', IgnoredFields())
    output = msgspec.to_builtins(ResponseEncoder(request_id="r", created=1, request=request).whole(response))["output"]
    return decode_chat(msgspec.json.encode({"model": "deepseek", "input": output}), IgnoredFields())[1].chat.messages


def through_gemini(response: ChatResponse) -> Any:
    whole = gemini.response(response, response_id="r", model="m")
    contents = [each["content"] for each in msgspec.to_builtins(whole)["candidates"]]
    return decode_request(msgspec.json.encode({"contents": contents})).to_chat("m").chat.messages


@pytest.mark.parametrize("protocol", [through_anthropic, through_responses, through_gemini])
@pytest.mark.parametrize("server", SERVERS)
def test_clients_of_each_protocol_send_the_reasoning_back(protocol: Any, server: str) -> None:
    deltas, fields = SERVERS[server]
    assert sent_to("deepseek", *protocol(respond(deltas))) == (fields, [])


def test_openai_and_local_models_get_no_marks() -> None:
    parts = respond(DEEPSEEK, source=None).content
    assert msgspec.to_builtins(parts[0]) == {"type": "reasoning", "text": "Let me see"}
