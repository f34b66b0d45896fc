"""Responses of the host that a client parses with its SDK and sends back as history, with ``model_dump()``."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from anthropic.types import Message
from google.genai.types import GenerateContentResponse
from ollama import ChatResponse as OllamaResponse
from openai.types.chat import ChatCompletion
from openai.types.chat.parsed_chat_completion import ParsedChatCompletion
from openai.types.responses import Response
from openai.types.responses.parsed_response import ParsedResponse

from handler_host import chat
from handler_host.chat.validation import validate_request
from handler_host.protocols.anthropic.requests import decode_message
from handler_host.protocols.anthropic.responses import message
from handler_host.protocols.fields import IgnoredFields
from handler_host.protocols.gemini.encoder import response as gemini_response
from handler_host.protocols.gemini.requests import decode_request as decode_gemini
from handler_host.protocols.ollama.requests import decode_chat as decode_ollama
from handler_host.protocols.ollama.responses import ChunkEncoder as OllamaEncoder
from handler_host.protocols.opaque import unseal_base64
from handler_host.protocols.openai.requests import decode_request as decode_openai
from handler_host.protocols.openai.responses import completion
from handler_host.protocols.openai_responses.encoder import ResponseEncoder
from handler_host.protocols.openai_responses.requests import decode_request as decode_responses
from handler_host.protocols.translated_request import TranslatedRequest

RESPONSE = chat.ChatResponse(
    content=[
        chat.ReasoningPart(text="hmm", signature="c2+n", format="anthropic"),
        chat.TextPart(text="Wait."),
        chat.ToolCallPart(id="call_1", name="look", arguments='{"at": "sun"}'),
        chat.ToolCallPart(id="call_2", name="look", arguments="{}"),
    ],
    finish_reason="tool_calls",
    usage=chat.Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5),
    model="m",
)
DUMPS: list[dict[str, Any]] = [
    {},
    {"exclude_none": True},
    {"exclude_unset": True},
    {"by_alias": True},
    {"by_alias": True, "exclude_none": True},
]
"""Options of ``model_dump`` that clients use."""


def check_history(translated: TranslatedRequest, ignored: IgnoredFields, *, is_signed: bool = True) -> None:
    """Check that reasoning, text and both calls of the response arrive, and that no field is refused or left out."""
    # As the worker decodes and checks it.
    request = msgspec.json.decode(msgspec.json.encode(translated.chat), type=chat.ChatRequest)
    validate_request(request)
    history = [item for item in request.messages if isinstance(item, chat.AssistantMessage)]
    calls = [call for item in history for call in item.tool_calls or ()]
    assert [call.function.name for call in calls] == ["look", "look"]
    assert [json.loads(call.function.arguments) for call in calls] == [{"at": "sun"}, {}]
    (reasoning,) = [part for item in history for part in item.reasoning or ()]
    signature = ("c2+n", "anthropic") if is_signed else (None, None)
    assert (reasoning.text, reasoning.signature, reasoning.format) == ("hmm", *signature)
    assert "Wait." in msgspec.json.encode(history).decode()
    assert ignored.names == []


@pytest.mark.parametrize("options", DUMPS)
@pytest.mark.parametrize("shape", [ChatCompletion, ParsedChatCompletion[None]])
def test_a_message_of_openai(shape: Any, options: dict[str, Any]) -> None:
    encoded = completion(RESPONSE, completion_id="c", created=1, model="m", custom=frozenset())
    parsed = shape.model_validate_json(msgspec.json.encode(encoded))
    sent = parsed.choices[0].message.model_dump(mode="json", **options)
    results = [{"role": "tool", "tool_call_id": f"call_{number}", "content": "ok"} for number in (1, 2)]
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}, sent, *results]}
    ignored = IgnoredFields()
    check_history(decode_openai(json.dumps(body).encode(), ignored).to_chat(ignored), ignored)


@pytest.mark.parametrize("options", DUMPS)
@pytest.mark.parametrize("shape", [Response, ParsedResponse[None]])
def test_items_of_openais_responses(shape: Any, options: dict[str, Any]) -> None:
    first = decode_responses(json.dumps({"model": "m", "input": "Hi", "store": False}).encode(), IgnoredFields())
    encoded = ResponseEncoder(request_id="r", created=1, request=first).whole(RESPONSE)
    parsed = shape.model_validate_json(msgspec.json.encode(encoded))
    sent = [item.model_dump(mode="json", **options) for item in parsed.output]
    results = [{"type": "function_call_output", "call_id": f"call_{number}", "output": "ok"} for number in (1, 2)]
    body = {"model": "m", "store": False, "input": [{"role": "user", "content": "Hi"}, *sent, *results]}
    ignored = IgnoredFields()
    check_history(decode_responses(json.dumps(body).encode(), ignored).to_chat(ignored), ignored)


@pytest.mark.parametrize("options", DUMPS)
def test_content_of_anthropic(options: dict[str, Any]) -> None:
    parsed = Message.model_validate_json(msgspec.json.encode(message(RESPONSE, message_id="i", model="m")))
    sent = [block.model_dump(mode="json", **options) for block in parsed.content]
    results = [{"type": "tool_result", "tool_use_id": f"call_{number}", "content": "ok"} for number in (1, 2)]
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": sent},
        {"role": "user", "content": results},
    ]
    ignored = IgnoredFields()
    body = json.dumps({"model": "m", "max_tokens": 9, "messages": messages}).encode()
    check_history(decode_message(body, ignored)[1], ignored)


@pytest.mark.parametrize("options", DUMPS)
def test_content_of_gemini(options: dict[str, Any]) -> None:
    encoded = gemini_response(RESPONSE, response_id="r", model="m")
    parsed = GenerateContentResponse.model_validate_json(msgspec.json.encode(encoded))
    assert parsed.candidates is not None
    assert parsed.candidates[0].content is not None
    sent = parsed.candidates[0].content.model_dump(mode="json", **options)
    results = [
        {"functionResponse": {"id": f"call_{number}", "name": "look", "response": {"ok": 1}}} for number in (1, 2)
    ]
    body = {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}, sent, {"role": "user", "parts": results}]}
    ignored = IgnoredFields()
    check_history(decode_gemini(json.dumps(body).encode(), ignored).to_chat("m", ignored), ignored)


@pytest.mark.parametrize("options", DUMPS)
def test_a_message_of_ollama(options: dict[str, Any]) -> None:
    """Ollama has no place for the signature of a reasoning."""
    encoded = OllamaEncoder("m", is_chat=True).whole(RESPONSE)
    sent = OllamaResponse.model_validate_json(msgspec.json.encode(encoded)).message.model_dump(mode="json", **options)
    results = [{"role": "tool", "tool_name": "look", "content": "ok"}] * 2
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}, sent, *results]}).encode()
    ignored = IgnoredFields()
    check_history(decode_ollama(body, ignored).to_chat(ignored), ignored, is_signed=False)


@pytest.mark.parametrize("data", ["aGgxO", "aGgxO!", "aGgxO_8", "aGgxO☀"])
def test_data_that_only_look_like_the_hosts_stay_as_they_are(data: str) -> None:
    part = unseal_base64("hmm", data, "gemini", "signature")
    assert (part.text, part.signature, part.format) == ("hmm", data, "gemini")
