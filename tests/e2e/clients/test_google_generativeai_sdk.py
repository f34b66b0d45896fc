"""The real google-generativeai SDK, over REST, as the client of a running host, in an interpreter of its own.

It keeps its client for the whole process, and leaves the threads of its streams behind.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from handler_host.testing import HostUnderTest, Reply, ScriptedToolCall, Status, Upstream, host_under_test
from handler_host.testing.chat_conformance import PIXEL

KEY = "a-consumer-key-of-some-length"
SCRIPT = '''\
import base64, json, sys, warnings
warnings.simplefilter("ignore")
import google.generativeai as genai
from google.api_core import exceptions
from google.generativeai import protos

url, key, what, *rest = sys.argv[1:]
genai.configure(api_key=key, transport="rest", client_options={"api_endpoint": url})
OPTIONS = {"timeout": 60, "retry": None}

def tell(value):
    print(json.dumps(value))

def shown(answer):
    candidate = answer.candidates[0]
    usage = answer.usage_metadata
    return [answer.text, candidate.finish_reason.name, usage.prompt_token_count, usage.candidates_token_count]

def chat(name="gpt_a"):
    model = genai.GenerativeModel(name)
    tell(shown(model.generate_content("Hi", request_options=OPTIONS)))
    stream = model.generate_content("Hi", stream=True, request_options=OPTIONS)
    pieces = [chunk.text for chunk in stream if chunk.parts]
    tell([pieces, *shown(stream)])

def everything():
    model = genai.GenerativeModel(
        "gpt_a",
        system_instruction="Be brief.",
        safety_settings={"HARASSMENT": "BLOCK_NONE"},
        generation_config=genai.GenerationConfig(
            temperature=0.5, top_p=0.75, max_output_tokens=9, stop_sequences=["###"],
            response_mime_type="application/json",
            response_schema={"type": "object", "properties": {"city": {"type": "string"}}},
        ),
    )
    image = {"mime_type": "image/png", "data": base64.b64decode(rest[0])}
    model.generate_content(["See:", image], request_options=OPTIONS)

def tools():
    def look(at: str, n: int) -> str:
        """Look somewhere."""
        return "a cat"
    model = genai.GenerativeModel("gpt_a", tools=[look])
    talk = model.start_chat(enable_automatic_function_calling=True)
    tell(talk.send_message("Look!", request_options=OPTIONS).text)

def models():
    tell([[model.name, model.supported_generation_methods] for model in genai.list_models()])
    tell(genai.get_model("models/gpt_a").display_name)

def fail(name="gpt_a", stream=""):
    seen = []
    try:
        answer = genai.GenerativeModel(name).generate_content("Hi", stream=bool(stream), request_options=OPTIONS)
        for chunk in answer:
            if chunk.candidates:
                seen.append(chunk.text)
    except exceptions.GoogleAPICallError as error:
        tell([seen, type(error).__name__, error.code, error.message])
    except ValueError as error:
        tell([seen, "ValueError", 0, str(error)])

globals()[what](*(rest if what != "everything" else ()))
'''


@pytest.fixture(scope="module")
def provider() -> Iterator[Upstream]:
    with Upstream().run() as running:
        yield running


@pytest.fixture(scope="module")
def host(provider: Upstream) -> Iterator[HostUnderTest]:
    config = f'[handlers.gpt_a]\nbase_url = "{provider.base_url("openai")}"\nretries = 0\n'
    with host_under_test(config, environ={"HANDLER_HOST_API_KEYS": KEY}) as running:
        yield running


@pytest.fixture(autouse=True)
def _reset(provider: Upstream) -> None:
    provider.reset()


def run(host: HostUnderTest, what: str, *arguments: str, key: str = KEY) -> list[Any]:
    """Run a function of the script; return what it told."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, host.url, key, what, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_it_chats_at_once_and_streamed(host: HostUnderTest, provider: Upstream) -> None:
    whole, streamed = run(host, "chat")
    said = Reply()
    assert whole == [said.text, "STOP", said.prompt_tokens, said.completion_tokens]
    assert streamed == [list(said.chunks), *whole]


def test_a_model_of_a_handler_is_written_with_an_escaped_slash(host: HostUnderTest, provider: Upstream) -> None:
    """Given the SDK's own rule for names, ``models/*``, a slash in one is sent as %2F."""
    whole, _ = run(host, "chat", "models/gpt_a%2Fsome-model")
    assert whole[0] == Reply().text
    assert {received.parsed.model for received in provider.requests} == {"some-model"}


def test_a_local_model_answers(host: HostUnderTest) -> None:
    whole, streamed = run(host, "chat", "gpt_e")
    assert whole[0]
    assert len(streamed[0]) > 1


def test_all_that_a_request_says_reaches_the_handlers_provider(host: HostUnderTest, provider: Upstream) -> None:
    run(host, "everything", PIXEL)
    asked, body = provider.last_request.parsed, provider.last_request.body
    assert [(turn.role, turn.text, turn.images) for turn in asked.turns] == [
        ("system", "Be brief.", 0),
        ("user", "See:", 1),
    ]
    assert (asked.temperature, asked.top_p, asked.max_tokens, asked.stop) == (0.5, 0.75, 9, ("###",))
    schema = body["response_format"]["json_schema"]["schema"]
    assert schema == {"type": "object", "properties": {"city": {"type": "string"}}}


def test_tools_are_called_and_answered(host: HostUnderTest, provider: Upstream) -> None:
    provider.respond_with(
        Reply((), finish="tool_calls", calls=(ScriptedToolCall("look", {"at": "☀", "n": 2}),)), Reply()
    )
    assert run(host, "tools") == [Reply().text]
    assert provider.requests[0].parsed.tools == ("look",)
    parameters = provider.requests[0].body["tools"][0]["function"]["parameters"]
    assert (parameters["type"], parameters["properties"]["n"]["type"]) == ("object", "integer")
    _, assistant, tool = provider.last_request.parsed.turns
    assert [made.name for made in assistant.calls] == ["look"]
    assert json.loads(tool.text) == {"result": "a cat"}


def test_models_are_the_handlers_that_can_chat(host: HostUnderTest) -> None:
    listed, title = run(host, "models")
    assert {"models/gpt_a", "models/gpt_e"} <= {name for name, _ in listed}
    assert title == "GPT A: OpenAI"


def test_errors_are_the_sdks_own(host: HostUnderTest, provider: Upstream) -> None:
    ((_, kind, code, message),) = run(host, "fail", "gpt_z")
    assert (kind, code) == ("NotFound", 404)
    assert "gpt_z" in message
    ((_, kind, code, _),) = run(host, "fail", key="wrong")
    assert (kind, code) == ("Unauthorized", 401)
    provider.respond_with(Status(429, "slow down", retry_after=7))
    ((_, kind, code, message),) = run(host, "fail", "gpt_a", "stream")
    assert (kind, code) == ("TooManyRequests", 429)
    assert "slow down" in message


def test_an_error_in_a_stream_is_no_short_answer(host: HostUnderTest, provider: Upstream) -> None:
    provider.respond_with(Reply().with_fault("cut", after=1))
    ((_, kind, _, message),) = run(host, "fail", "gpt_a", "stream")
    assert (kind, "Unfinished stream" in message) == ("ValueError", True)


def test_gpt_c_before_another_host_passes_tools_through_both(host: HostUnderTest, provider: Upstream) -> None:
    config = f'[handlers.gpt_c]\nbase_url = "{host.url}"\nmodel = "gpt_a"\n'
    look = {"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}
    request: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Look!"}],
        "tools": [{"type": "function", "function": look}],
    }
    with host_under_test(config, environ={"GEMINI_API_KEY": KEY}) as front:
        provider.respond_with(
            Reply((), finish="tool_calls", calls=(ScriptedToolCall("look", {"at": "☀", "n": 2}, id="c7"),)), Reply()
        )
        status, first = front.request("POST", "/v1/handlers/gpt_c/chat", request)
        assert (status, first["finish_reason"]) == (200, "tool_calls")
        (call,) = first["content"]
        assert (call["type"], call["id"], json.loads(call["arguments"])) == ("tool_call", "c7", {"at": "☀", "n": 2})
        request["messages"] += [
            {"role": "assistant", "content": first["content"]},
            {"role": "tool", "tool_call_id": "c7", "content": "a cat"},
        ]
        status, second = front.request("POST", "/v1/handlers/gpt_c/chat", request)
        assert status == 200
        assert second["content"] == [{"type": "text", "text": Reply().text}]
        assert second["model"] == Reply().model
        assert provider.last_request.parsed.turns[-1].result_of == "c7"
        assert "a cat" in provider.last_request.parsed.turns[-1].text
        assert "support" not in front.log, "the SDK's warning is in the log"
