"""Native requests to gpt_e: llama.cpp's own server responds, over HTTP, in a real worker."""

from __future__ import annotations

import http.client
import json
import math
import time
from collections.abc import Iterator
from typing import Any

import pytest

from handler_host.testing import HostUnderTest, host_under_test
from tests.integration.native.provider import post

pytestmark = pytest.mark.sdks
MODEL = "SmolLM2-135M-Instruct.Q4_1"
HI = [{"role": "user", "content": "Hi there"}]
LOOK = {
    "type": "function",
    "function": {"name": "look", "description": "Look.", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture(scope="module")
def host() -> Iterator[HostUnderTest]:
    with host_under_test('[handlers.gpt_e]\ncontext = 512\nmax_tokens = 12\nembeddings = "mean"\n') as running:
        yield running


def complete(host: HostUnderTest, **fields: Any) -> tuple[int, Any]:
    body = {"model": "gpt_e", "messages": HI, **fields}
    status, _, data = post(host.url, "/v1/chat/completions", json.dumps(body).encode(), {})
    return status, json.loads(data)


def test_a_response_has_the_clients_name_of_the_model_or_its_own(host: HostUnderTest) -> None:
    for model, shown in (("gpt_e", "gpt_e"), (f"gpt_e/{MODEL}", f"gpt_e/{MODEL}"), ("gpt_e/gpt-4o", MODEL)):
        status, content = complete(host, model=model)
        assert (status, content["model"]) == (200, shown)
        assert content["usage"]["completion_tokens"] <= 12  # the configuration's max_tokens
        assert content["timings"]  # which the chat contract does not have


def test_a_stream_has_the_events_of_llama_cpp(host: HostUnderTest) -> None:
    whole = complete(host)[1]["choices"][0]["message"]["content"]
    body = {"model": "gpt_e", "messages": HI, "stream": True, "stream_options": {"include_usage": True}}
    _, headers, data = post(host.url, "/v1/chat/completions", json.dumps(body).encode(), {})
    *events, done = [event.removeprefix("data: ") for event in data.decode().removesuffix("\n\n").split("\n\n")]
    chunks = [json.loads(event) for event in events]
    assert (headers["content-type"], done) == ("text/event-stream", "[DONE]")
    assert {chunk["model"] for chunk in chunks} == {"gpt_e"}
    data = post(host.url, "/v1/chat/completions", json.dumps({**body, "model": "gpt_e/gpt-4o"}).encode(), {})[2]
    assert json.loads(data.decode().split("\n")[0].removeprefix("data: "))["model"] == MODEL
    texts = [chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"]]
    assert "".join(texts) == whole
    assert chunks[-1]["usage"]["completion_tokens"] > 0


def test_tools_grammars_schemas_and_logprobs_work(host: HostUnderTest) -> None:
    (choice,) = complete(host, grammar='root ::= "yes"')[1]["choices"]
    assert choice["message"]["content"] == "yes"
    format_ = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"const": 7}}}
    assert complete(host, response_format=format_)[1]["choices"][0]["message"]["content"] == "7"
    (choice,) = complete(host, logprobs=True, top_logprobs=2, max_tokens=2)[1]["choices"]
    assert [len(token["top_logprobs"]) for token in choice["logprobs"]["content"]] == [2, 2]
    status, content = complete(host, tools=[LOOK], max_tokens=4)
    assert (status, content["object"]) == (200, "chat.completion")


def test_an_error_is_llama_cpps_own(host: HostUnderTest) -> None:
    for stream in (False, True):
        status, content = complete(host, messages=[{"role": "user", "content": "word " * 600}], stream=stream)
        assert (status, content["error"]["type"], content["error"]["n_ctx"]) == (400, "exceed_context_size_error", 512)
        status, content = complete(host, messages="Hi", stream=stream)
        assert (status, content["error"]["code"]) == (400, 400)


def test_control_tokens_of_a_text_stay_text(host: HostUnderTest) -> None:
    """Such a request is translated."""

    def prompt_tokens(text: str) -> int:
        content = complete(host, messages=[{"role": "user", "content": text}], max_tokens=1)[1]
        tokens: int = content["usage"]["prompt_tokens"]
        return tokens

    assert prompt_tokens("<|im_end|>") - prompt_tokens("") == 7
    escaped = b'{"model": "gpt_e", "max_tokens": 1, "messages": [{"role": "user", "content": "<|im_\\u0065nd|>"}]}'
    content = json.loads(post(host.url, "/v1/chat/completions", escaped, {})[2])
    assert content["usage"]["prompt_tokens"] == prompt_tokens("<|im_end|>")


@pytest.mark.parametrize("text", ["Hi there", "<|im_end|> Hi <|im_start|>"])
def test_the_tokens_of_a_chat_are_those_of_its_prompt(host: HostUnderTest, text: str) -> None:
    body = {"model": "gpt_e", "max_tokens": 1, "messages": [{"role": "user", "content": text}]}
    counted = json.loads(post(host.url, "/v1/messages/count_tokens", json.dumps(body).encode(), {})[2])
    response = json.loads(post(host.url, "/v1/messages", json.dumps(body).encode(), {})[2])
    usage = response["usage"]
    assert counted["input_tokens"] == usage["input_tokens"] + usage.get("cache_read_input_tokens", 0)


def test_a_client_that_disconnects_ends_the_generation(host: HostUnderTest) -> None:
    for stream in (False, True):
        body = {"model": "gpt_e", "messages": HI, "stream": stream, "max_tokens": 450, "ignore_eos": True}
        connection = http.client.HTTPConnection(host.url.removeprefix("http://"), timeout=60)
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        time.sleep(0.5)
        connection.close()
        start = time.monotonic()
        assert complete(host, max_tokens=1)[0] == 200
        assert time.monotonic() - start < 5  # the whole takes 15 s and more


def test_embeddings_are_llama_cpps(host: HostUnderTest) -> None:
    body = {"model": "gpt_e", "input": ["a red apple", "a green apple", "the parliament of Norway"]}
    status, _, data = post(host.url, "/v1/embeddings", json.dumps(body).encode(), {})
    content = json.loads(data)
    assert (status, content["model"], content["usage"]["prompt_tokens"] > 5) == (200, "gpt_e", True)
    red, green, norway = [entry["embedding"] for entry in content["data"]]
    assert math.isclose(math.hypot(*red), 1, rel_tol=1e-3)
    assert math.dist(red, green) < math.dist(red, norway)
    status, _, data = post(host.url, "/api/embed", json.dumps({"model": "gpt_e", "input": "a red apple"}).encode(), {})
    content = json.loads(data)
    assert (status, content["prompt_eval_count"]) == (200, 3)
    assert math.dist(content["embeddings"][0], red) < 0.01


def test_an_image_for_a_model_of_texts_is_the_clients_error(host: HostUnderTest) -> None:
    """llama.cpp responds with 500; the host's translation names the part."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    for stream in (False, True):
        status, content = complete(host, messages=[{"role": "user", "content": [image]}], stream=stream)
        assert (status, content["error"]["param"]) == (400, "messages[0].content[0]")
