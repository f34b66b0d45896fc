"""The real OpenAI SDK as a client of the Responses API, translated to chat completions of a scripted provider."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pydantic
import pytest

from handler_host.testing import HostUnderTest, Reply, ScriptedToolCall, Status, Upstream, host_under_test

KEY = "a-consumer-key-of-some-length"
LOOK: Any = {
    "type": "function",
    "name": "look",
    "parameters": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
    "strict": False,
}


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[HostUnderTest, Upstream]]:
    with Upstream().run() as upstream:
        config = f'[handlers.gpt_a]\nbase_url = "{upstream.base_url("openai")}"\nretries = 0\nnative = false\n'
        with host_under_test(config, environ={"HANDLER_HOST_API_KEYS": KEY}) as host:
            yield host, upstream


@pytest.fixture
def provider(running: tuple[HostUnderTest, Upstream]) -> Upstream:
    running[1].reset()
    return running[1]


@pytest.fixture
def client(running: tuple[HostUnderTest, Upstream]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running[0].url}/v1", api_key=KEY, max_retries=0, timeout=60) as made:
        yield made


def test_an_answer_comes_whole_and_streamed(client: openai.OpenAI, provider: Upstream) -> None:
    asked: Any = {"model": "gpt_a/some-model", "input": "Hi", "instructions": "Be brief.", "max_output_tokens": 9}
    whole = client.responses.create(**asked)
    assert (whole.status, whole.output_text, whole.model) == ("completed", "Hello you", "served-model")
    assert whole.usage is not None
    assert (whole.usage.input_tokens, whole.usage.output_tokens, whole.usage.total_tokens) == (5, 2, 7)
    received = provider.last_request.parsed
    assert (received.model, received.system, received.max_tokens) == ("some-model", "Be brief.", 9)
    events = list(client.responses.create(**asked, stream=True))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert deltas == ["Hello", " you"]
    last = events[-1]
    assert last.type == "response.completed"
    assert (last.response.output_text, last.response.usage) == ("Hello you", whole.usage)


def test_the_sdks_own_stream_helper_puts_the_answer_together(client: openai.OpenAI, provider: Upstream) -> None:
    with client.responses.stream(model="gpt_a", input="Hi") as stream:
        assert next(event.type for event in stream) == "response.created"
        assert stream.get_final_response().output_text == "Hello you"


async def test_the_asynchronous_client_streams(running: tuple[HostUnderTest, Upstream], provider: Upstream) -> None:
    url = f"{running[0].url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=60) as client:
        stream = await client.responses.create(model="gpt_a", input="Hi", stream=True)
        assert [event.type async for event in stream][-1] == "response.completed"


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_is_called_and_its_result_goes_back(client: openai.OpenAI, provider: Upstream, streamed: bool) -> None:
    look = ScriptedToolCall("look", {"at": "the sun"}, id="call_9", chunk_count=3)
    provider.respond_with(Reply(("I look.",), finish="tool_calls", calls=(look,)), Reply(("It is bright.",)))
    items: list[Any] = [{"role": "user", "content": "What is there?"}]

    def ask() -> Any:
        asked: Any = {"model": "gpt_a", "input": items, "tools": [LOOK], "tool_choice": "auto"}
        if not streamed:
            return client.responses.create(**asked)
        *_, last = client.responses.create(**asked, stream=True)
        return last.response

    answer = ask()
    message, call = answer.output
    assert (message.content[0].text, call.type, call.name, call.call_id) == (
        "I look.",
        "function_call",
        "look",
        "call_9",
    )
    assert json.loads(call.arguments) == {"at": "the sun"}
    items += answer.output
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": "a star"})
    assert ask().output_text == "It is bright."
    user, assistant, tool = provider.last_request.parsed.turns
    assert (user.role, assistant.text, assistant.calls[0].arguments) == ("user", "I look.", {"at": "the sun"})
    assert (tool.role, tool.text, tool.result_of) == ("tool", "a star", "call_9")


class City(pydantic.BaseModel):
    name: str
    people: int


# The SDK's own: what it has parsed does not fit the types that it serializes by when that is sent back.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_the_sdk_parses_an_answer_into_a_model(client: openai.OpenAI, provider: Upstream) -> None:
    provider.respond_with(Reply(('{"name": "Paris",', ' "people": 2100000}')))
    answer = client.responses.parse(model="gpt_a", input="Tell me of Paris.", text_format=City)
    assert answer.output_parsed == City(name="Paris", people=2100000)
    asked = provider.last_request.body["response_format"]
    assert (asked["type"], asked["json_schema"]["name"], asked["json_schema"]["strict"]) == (
        "json_schema",
        "City",
        True,
    )
    # And what was parsed can be sent back as it is.
    provider.respond_with(Reply())
    follow_up: Any = [
        {"role": "user", "content": "Tell me of Paris."},
        *answer.output,
        {"role": "user", "content": "?"},
    ]
    assert client.responses.create(model="gpt_a", input=follow_up).output_text == "Hello you"
    assert provider.last_request.parsed.turns[1].text == '{"name": "Paris", "people": 2100000}'


def test_a_refusal_and_a_truncated_response_are_errors(client: openai.OpenAI, provider: Upstream) -> None:
    provider.respond_with(Reply((), refusal="I will not"))
    refused: Any = client.responses.create(model="gpt_a", input="Hi")
    assert refused.output[0].content[0].refusal == "I will not"
    provider.respond_with(Reply(finish="length"))
    short = client.responses.create(model="gpt_a", input="Hi")
    assert short.incomplete_details is not None
    assert (short.status, short.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_errors_become_the_sdks_own_exceptions(
    client: openai.OpenAI, running: tuple[HostUnderTest, Upstream], provider: Upstream
) -> None:
    def ask(**changes: Any) -> None:
        client.responses.create(**{"model": "gpt_a", "input": "Hi", **changes})

    with pytest.raises(openai.NotFoundError) as not_found:
        ask(model="gpt_z")
    assert not_found.value.code == "model_not_found"
    # By default, tools that run at the provider are left out.
    strict = {"X-Unsupported-Fields": "refuse"}
    for name, value, headers in (
        ("previous_response_id", "resp_1", {}),
        ("tools", [{"type": "web_search"}], strict),
    ):
        with pytest.raises(openai.BadRequestError) as bad:
            ask(**{name: value}, extra_headers=headers)
        assert (bad.value.param or "").startswith(name)
    assert provider.requests == []
    for streamed in (False, True):
        provider.respond_with(Status(429, "slow down", retry_after=17))
        with pytest.raises(openai.RateLimitError) as limited:
            ask(stream=streamed)
        assert limited.value.response.headers["Retry-After"] == "17"
    provider.respond_with(Status(500))
    with pytest.raises(openai.InternalServerError):
        ask()
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{running[0].url}/v1", api_key="wrong", max_retries=0).responses.create(
            model="gpt_a", input="Hi"
        )


def test_a_stream_that_breaks_ends_with_a_failed_response(client: openai.OpenAI, provider: Upstream) -> None:
    provider.respond_with(Reply().with_fault("cut", after=1))
    events = list(client.responses.create(model="gpt_a", input="Hi", stream=True))
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert "upstream_unreachable" in last.response.error.message
    assert last.response.output_text == "Hello"


def test_a_client_that_leaves_closes_the_request_to_the_provider(client: openai.OpenAI, provider: Upstream) -> None:
    provider.respond_with(Reply().with_fault("stalled", after=1))
    stream = client.responses.create(model="gpt_a", input="Hi", stream=True)
    assert next(event for event in stream if event.type == "response.output_text.delta").delta == "Hello"
    stream.close()
    provider.disconnected.result(30)
