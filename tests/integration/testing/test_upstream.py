"""The scripted upstream, as the providers' own SDKs find it: what they understand is what a provider sends."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Iterator
from typing import Any

import aiohttp
import anthropic
import openai
import pytest
from google import genai
from google.genai import errors, types

from handler_host.testing import ParsedRequest, Raw, Reply, ScriptedToolCall, Silence, Status, Turn, Upstream

CALL = ScriptedToolCall("look", {"at": "the ☀"}, id="call_7")
LONG = Reply(("Grüße", ", ", "世界"), finish="length", prompt_tokens=3, completion_tokens=9)
TOOLS = Reply(("I see: ",), finish="tool_calls", calls=(CALL, ScriptedToolCall("smell", {}, id="call_8")))
HI = [{"role": "user", "content": "Hi"}]
KEY = "the-key"


@pytest.fixture(scope="module")
def running() -> Iterator[Upstream]:
    with Upstream(key=KEY).run() as upstream:
        yield upstream


@pytest.fixture
def upstream(running: Upstream) -> Upstream:
    running.reset()
    return running


@pytest.fixture
def oai(upstream: Upstream) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=upstream.base_url("openai"), api_key=KEY, max_retries=0, timeout=30) as client:
        yield client


@pytest.fixture
def claude(upstream: Upstream) -> Iterator[anthropic.Anthropic]:
    base_url = upstream.base_url("anthropic")
    with anthropic.Anthropic(base_url=base_url, api_key=KEY, max_retries=0, timeout=30) as client:
        yield client


@pytest.fixture
def gemini(upstream: Upstream) -> Iterator[genai.Client]:
    options = types.HttpOptions(base_url=upstream.base_url("gemini"), api_version="v1beta")
    client = genai.Client(api_key=KEY, http_options=options)
    yield client
    client.close()


def test_openais_sdk_reads_the_responses_api_whole_and_streamed(oai: openai.OpenAI, upstream: Upstream) -> None:
    upstream.respond_with(TOOLS)
    response = oai.responses.create(model="m", input="Hi", instructions="Be brief.", max_output_tokens=9)
    with oai.responses.stream(model="m", input=[{"role": "user", "content": "Hi"}]) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        streamed = stream.get_final_response()
    for result in (response, streamed):
        assert (result.output_text, result.status, result.model) == ("I see: ", "completed", "served-model")
        assert result.usage is not None
        assert (result.usage.input_tokens, result.usage.output_tokens) == (5, 2)
        calls = [(item.name, item.arguments) for item in result.output if item.type == "function_call"]
        assert calls == [("look", json.dumps(CALL.arguments)), ("smell", "{}")]
    assert deltas == ["I see: "]
    plain, second = (request.parsed for request in upstream.requests)
    assert (plain.system, plain.turns[-1], plain.max_tokens) == ("Be brief.", Turn("user", "Hi"), 9)
    assert (second.streamed, second.turns) == (True, (Turn("user", "Hi"),))
    upstream.respond_with(Status(429, "slow down", code="rate"))
    with pytest.raises(openai.RateLimitError, match="slow down"):
        oai.responses.create(model="m", input="Hi")


def test_the_sdks_read_embeddings(oai: openai.OpenAI, gemini: genai.Client, upstream: Upstream) -> None:
    openais = oai.embeddings.create(model="m", input=["a b", "c"], encoding_format="float")
    assert [vector.embedding for vector in openais.data] == [[0.5, 1.0], [0.5, 1.0]]
    assert (openais.model, openais.usage.total_tokens) == ("m", 3)
    googles = gemini.models.embed_content(model="m", contents=["a b", "c"])
    assert [vector.values for vector in googles.embeddings or ()] == [[0.5, 1.0], [0.5, 1.0]]
    assert [[turn.text for turn in request.parsed.turns] for request in upstream.requests] == [["a b", "c"]] * 2
    assert json.loads(upstream.last_request.content) == upstream.last_request.body
    upstream.respond_with(Status(429, "slow down"))
    with pytest.raises(openai.RateLimitError, match="slow down"):
        oai.embeddings.create(model="m", input="a")


def test_openais_sdk_reads_answers_whole_and_streamed(oai: openai.OpenAI, upstream: Upstream) -> None:
    upstream.respond_with(LONG)
    whole = oai.chat.completions.create(model="m", messages=HI)  # type: ignore[arg-type]
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (LONG.text, "length")
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (3, 9, 12)
    assert whole.model == "served-model"
    options: Any = {"model": "m", "messages": HI, "stream": True}
    chunks = list(oai.chat.completions.create(**options, stream_options={"include_usage": True}))
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert [text for text in texts if text] == list(LONG.chunks)
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in oai.chat.completions.create(**options))


def test_anthropics_sdk_reads_answers_whole_and_streamed(claude: anthropic.Anthropic, upstream: Upstream) -> None:
    upstream.respond_with(LONG)
    whole = claude.messages.create(model="m", max_tokens=9, messages=HI)  # type: ignore[arg-type]
    assert isinstance(whole.content[0], anthropic.types.TextBlock)
    assert (whole.content[0].text, whole.stop_reason) == (LONG.text, "max_tokens")
    assert (whole.usage.input_tokens, whole.usage.output_tokens, whole.model) == (3, 9, "served-model")
    with claude.messages.stream(model="m", max_tokens=9, messages=HI) as stream:  # type: ignore[arg-type]
        assert list(stream.text_stream) == list(LONG.chunks)
        final = stream.get_final_message()
    assert (final.stop_reason, final.usage.input_tokens, final.usage.output_tokens) == ("max_tokens", 3, 9)
    counted = claude.messages.count_tokens(model="m", messages=HI)  # type: ignore[arg-type]
    assert counted.input_tokens == 1


def test_googles_sdk_reads_answers_whole_and_streamed(gemini: genai.Client, upstream: Upstream) -> None:
    upstream.respond_with(LONG)
    whole = gemini.models.generate_content(model="m", contents="Hi")
    assert whole.text == LONG.text
    assert whole.candidates is not None
    assert whole.candidates[0].finish_reason is types.FinishReason.MAX_TOKENS
    assert whole.usage_metadata is not None
    counts = whole.usage_metadata
    assert (counts.prompt_token_count, counts.candidates_token_count, counts.total_token_count) == (3, 9, 12)
    assert whole.model_version == "served-model"
    chunks = list(gemini.models.generate_content_stream(model="m", contents="Hi"))
    assert [chunk.text for chunk in chunks if chunk.text] == list(LONG.chunks)
    assert chunks[-1].usage_metadata == counts
    assert gemini.models.count_tokens(model="m", contents="Hi there").total_tokens == 2


def test_googles_former_sdk_reads_a_streamed_array(upstream: Upstream) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces its end at every import
        import google.generativeai

    former: Any = google.generativeai  # does not export its names for type checkers
    upstream.respond_with(LONG)
    former.configure(api_key=KEY, transport="rest", client_options={"api_endpoint": upstream.base_url("gemini")})
    model = former.GenerativeModel("m")
    assert model.generate_content("Hi", request_options={"retry": None}).text == LONG.text
    chunks = list(model.generate_content("Hi", stream=True, request_options={"retry": None}))
    assert "".join(part.text for chunk in chunks for part in chunk.parts) == LONG.text


def test_every_sdk_reads_tool_calls(
    oai: openai.OpenAI, claude: anthropic.Anthropic, gemini: genai.Client, upstream: Upstream
) -> None:
    upstream.respond_with(TOOLS)
    with oai.chat.completions.stream(model="m", messages=HI) as stream:  # type: ignore[arg-type]
        choice = stream.get_final_completion().choices[0]
    made = choice.message.tool_calls or []
    assert [(call.id, call.function.name) for call in made] == [("call_7", "look"), ("call_8", "smell")]
    assert json.loads(made[0].function.arguments) == CALL.arguments
    assert choice.finish_reason == "tool_calls"
    whole = oai.chat.completions.create(model="m", messages=HI)  # type: ignore[arg-type]
    assert [call.id for call in whole.choices[0].message.tool_calls or ()] == ["call_7", "call_8"]

    with claude.messages.stream(model="m", max_tokens=9, messages=HI) as events:  # type: ignore[arg-type]
        final = events.get_final_message()
    once = claude.messages.create(model="m", max_tokens=9, messages=HI)  # type: ignore[arg-type]
    for message in (final, once):
        uses = [(block.id, block.name, block.input) for block in message.content if block.type == "tool_use"]
        assert uses == [("call_7", "look", CALL.arguments), ("call_8", "smell", {})]
        assert message.stop_reason == "tool_use"

    for answer in (gemini.models.generate_content(model="m", contents="Hi"), *_last(gemini)):
        found = [(call.name, call.args) for call in answer.function_calls or ()]
        assert found == [("look", CALL.arguments), ("smell", {})]


def _last(gemini: genai.Client) -> list[types.GenerateContentResponse]:
    return list(gemini.models.generate_content_stream(model="m", contents="Hi"))[-1:]


def test_a_refusal_is_each_sdks_own_exception_with_the_providers_words(
    oai: openai.OpenAI, claude: anthropic.Anthropic, gemini: genai.Client, upstream: Upstream
) -> None:
    upstream.respond_with(Status(429, "slow down", retry_after=37))
    with pytest.raises(openai.RateLimitError, match="slow down") as by_openai:
        oai.chat.completions.create(model="m", messages=HI)  # type: ignore[arg-type]
    with pytest.raises(anthropic.RateLimitError, match="slow down") as by_anthropic:
        claude.messages.create(model="m", max_tokens=9, messages=HI)  # type: ignore[arg-type]
    for caught in (by_openai, by_anthropic):
        assert caught.value.response.headers["retry-after"] == "37"
    with pytest.raises(errors.ClientError, match="slow down") as by_google:
        gemini.models.generate_content(model="m", contents="Hi")
    assert (by_google.value.code, by_google.value.status) == (429, "RESOURCE_EXHAUSTED")
    assert by_google.value.details["error"]["details"][0]["retryDelay"] == "37s"
    upstream.respond_with(Status(529))
    with pytest.raises(anthropic.APIStatusError) as overloaded:
        claude.messages.create(model="m", max_tokens=9, messages=HI)  # type: ignore[arg-type]
    assert overloaded.value.type == "overloaded_error"


def test_a_wrong_key_is_refused_in_every_protocol(upstream: Upstream) -> None:
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=upstream.base_url("openai"), api_key="wrong", max_retries=0).chat.completions.create(
            model="m",
            messages=HI,  # type: ignore[arg-type]
        )
    with pytest.raises(anthropic.AuthenticationError):
        anthropic.Anthropic(base_url=upstream.base_url("anthropic"), api_key="wrong", max_retries=0).messages.create(
            model="m",
            max_tokens=9,
            messages=HI,  # type: ignore[arg-type]
        )
    options = types.HttpOptions(base_url=upstream.base_url("gemini"), api_version="v1beta")
    client = genai.Client(api_key="wrong", http_options=options)
    with pytest.raises(errors.ClientError) as refused:
        client.models.generate_content(model="m", contents="Hi")
    assert refused.value.status == "UNAUTHENTICATED"
    assert [received.key for received in upstream.requests] == ["wrong"] * 3


def test_a_request_means_the_same_in_every_protocol(
    oai: openai.OpenAI, claude: anthropic.Anthropic, gemini: genai.Client, upstream: Upstream
) -> None:
    pixel = "iVBORw0KGgo="
    oai.chat.completions.create(
        model="m",
        max_tokens=9,
        temperature=0.5,
        top_p=0.75,
        seed=4,
        stop="###",
        tools=[{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
        tool_choice={"type": "function", "function": {"name": "look"}},
        messages=[
            {"role": "developer", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look!"},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{pixel}"}},
                ],
            },
            {
                "role": "assistant",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "x"}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
        ],
    )
    claude.messages.create(
        model="m",
        max_tokens=9,
        extra_body={"temperature": 0.5, "top_p": 0.75},  # what other clients send; this SDK has no name for it
        stop_sequences=["###"],
        system="Be brief.",
        tools=[{"name": "look", "input_schema": {"type": "object"}}],
        tool_choice={"type": "tool", "name": "look"},
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look!"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": pixel}},
                ],
            },
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "look", "input": {"at": "x"}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "a cat"}]},
        ],
    )
    part = types.Part
    gemini.models.generate_content(
        model="m",
        contents=[
            types.Content(
                role="user",
                parts=[part(text="Look!"), part.from_bytes(data=b"\x89PNG", mime_type="image/png")],
            ),
            types.Content(role="model", parts=[part.from_function_call(name="look", args={"at": "x"})]),
            types.Content(role="user", parts=[part.from_function_response(name="look", response={"result": "a cat"})]),
        ],
        config=types.GenerateContentConfig(
            system_instruction="Be brief.",
            max_output_tokens=9,
            temperature=0.5,
            top_p=0.75,
            seed=4,
            stop_sequences=["###"],
            tools=[types.Tool(function_declarations=[types.FunctionDeclaration(name="look")])],
            tool_config=types.ToolConfig(
                function_calling_config=types.FunctionCallingConfig(
                    mode=types.FunctionCallingConfigMode.ANY, allowed_function_names=["look"]
                )
            ),
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        ),
    )
    for received in upstream.requests:
        asked = received.parsed
        assert (asked.model, asked.streamed, asked.system) == ("m", False, "Be brief.")
        assert (asked.max_tokens, asked.temperature, asked.top_p, asked.stop) == (9, 0.5, 0.75, ("###",))
        assert asked.seed == (None if received.protocol == "anthropic" else 4)
        assert (asked.tools, asked.tool_choice) == (("look",), "look")
        _, user, assistant, tool = asked.turns
        assert user == Turn("user", "Look!", images=1)
        assert [(call.name, call.arguments) for call in assistant.calls] == [("look", {"at": "x"})]
        assert (tool.role, tool.result_of) == ("tool", "look" if received.protocol == "gemini" else "c1")
        assert "a cat" in tool.text
    assert [received.protocol for received in upstream.requests] == ["openai", "anthropic", "gemini"]


BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "openai": ("/v1/chat/completions", {"model": "m", "messages": HI}),
    "anthropic": ("/v1/messages", {"model": "m", "max_tokens": 9, "messages": HI}),
    "gemini": ("/v1beta/models/m:generateContent", {"contents": [{"parts": [{"text": "Hi"}]}]}),
}
HEADERS = {"Authorization": f"Bearer {KEY}", "x-api-key": KEY, "x-goog-api-key": KEY}


async def ask(upstream: Upstream, protocol: str, *, stream: bool) -> str:
    path, body = BODIES[protocol]
    if stream:
        body = body if protocol == "gemini" else {**body, "stream": True}
        path = path.replace(":generateContent", ":streamGenerateContent?alt=sse")
    async with (
        aiohttp.ClientSession() as session,
        session.post(upstream.url + path, json=body, headers=HEADERS) as answer,
    ):
        return await answer.text()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("protocol", BODIES)
async def test_every_fault_is_one_in_every_protocol(upstream: Upstream, protocol: str, stream: bool) -> None:
    whole = Reply(("one", "two", "three"))
    upstream.respond_with(whole)
    good = await ask(upstream, protocol, stream=stream)
    assert "three" in good
    upstream.respond_with(whole.with_fault("cut", after=2))
    with pytest.raises(aiohttp.ClientPayloadError):
        await ask(upstream, protocol, stream=stream)
    assert not upstream.disconnected.done()
    upstream.respond_with(whole.with_fault("truncated", after=2))
    short = await ask(upstream, protocol, stream=stream)
    assert "two" in short
    assert '"stop"' not in short.lower().replace("end_turn", "stop")
    upstream.respond_with(whole.with_fault("malformed", after=2))
    broken = await ask(upstream, protocol, stream=stream)
    assert ("two" in broken and "three" not in broken) or not stream
    with pytest.raises(json.JSONDecodeError):
        json.loads(broken.strip().rpartition("data: ")[2])
    upstream.respond_with(whole.with_fault("error", after=2))
    assert "overheated" in await ask(upstream, protocol, stream=stream)
    upstream.respond_with(Status(502, html="<html>"))
    assert await ask(upstream, protocol, stream=stream) == "<html>"
    upstream.respond_with(Raw((b"any", b"thing")))
    assert await ask(upstream, protocol, stream=stream) == "anything"


@pytest.mark.parametrize("step", [Silence(), Reply().with_fault("stalled")], ids=["silent", "stalled"])
@pytest.mark.parametrize("protocol", BODIES)
async def test_a_client_that_leaves_is_noticed(upstream: Upstream, protocol: str, step: Any) -> None:
    upstream.respond_with(step)
    asking = asyncio.create_task(ask(upstream, protocol, stream=True))
    received = await asyncio.wait_for(asyncio.wrap_future(upstream.first_request), 30)
    assert not upstream.disconnected.done()
    asking.cancel()
    await asyncio.wait({asking})
    for left in (received.disconnected, upstream.disconnected):
        await asyncio.wait_for(asyncio.wrap_future(left), 30)


async def test_a_script_is_followed_and_its_last_step_repeats(upstream: Upstream) -> None:
    upstream.respond_with(Status(500), lambda received: Reply((received.parsed.turns[-1].text + "!",)))
    responses = [await ask(upstream, "openai", stream=False) for _ in range(3)]
    assert ["scripted 500" in answer for answer in responses] == [True, False, False]
    assert all('"Hi!"' in answer for answer in responses[1:])
    asked: ParsedRequest = upstream.last_request.parsed
    assert asked.turns == (Turn("user", "Hi"),)


async def test_it_runs_on_the_event_loop_of_an_asynchronous_test_too() -> None:
    async with Upstream(key=KEY).serve() as upstream:
        assert "Hello you" in await ask(upstream, "openai", stream=False)
