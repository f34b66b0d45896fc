"""The real google-genai SDK as the client of a running host: gpt_a in front of a scripted provider, and gpt_e."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Iterator

import pytest
from google import genai
from google.genai import errors, types

from handler_host.testing import HostUnderTest, Reply, ScriptedToolCall, Status, Upstream, host_under_test
from handler_host.testing.chat_conformance import PIXEL

KEY = "a-consumer-key-of-some-length"
LOOK = types.FunctionDeclaration(
    name="look",
    description="Look somewhere.",
    parameters=types.Schema(
        type=types.Type.OBJECT,
        properties={
            "at": types.Schema(type=types.Type.STRING, nullable=True),
            "n": types.Schema(type=types.Type.INTEGER),
        },
        required=["at"],
    ),
)


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


def client_of(host: HostUnderTest, version: str | None = "v1beta", key: str = KEY) -> genai.Client:
    return genai.Client(
        api_key=key,
        vertexai=False,
        http_options=types.HttpOptions(
            base_url=host.url, api_version=version, timeout=60_000, retry_options=types.HttpRetryOptions(attempts=1)
        ),
    )


@pytest.fixture(scope="module")
def client(host: HostUnderTest) -> Iterator[genai.Client]:
    with client_of(host) as made:
        yield made


@pytest.mark.parametrize("model", ["gpt_a", "models/gpt_a", "gpt_a/some/model"])
def test_it_chats_at_once_and_streamed(client: genai.Client, provider: Upstream, model: str) -> None:
    whole = client.models.generate_content(model=model, contents="Hi")
    assert whole.text == Reply().text
    assert whole.candidates is not None
    assert whole.candidates[0].finish_reason == types.FinishReason.STOP
    assert whole.usage_metadata is not None
    assert whole.usage_metadata.prompt_token_count == Reply().prompt_tokens
    assert whole.model_version == Reply().model
    assert whole.response_id
    chunks = list(client.models.generate_content_stream(model=model, contents="Hi"))
    assert "".join(chunk.text or "" for chunk in chunks) == Reply().text
    assert len([chunk for chunk in chunks if chunk.text]) == len(Reply().chunks)
    assert chunks[-1].usage_metadata == whole.usage_metadata
    assert chunks[-1].candidates is not None
    assert chunks[-1].candidates[0].finish_reason == types.FinishReason.STOP
    if model.endswith("some/model"):
        assert {received.parsed.model for received in provider.requests} == {"some/model"}


def test_a_client_that_was_told_of_no_version_is_answered_too(host: HostUnderTest) -> None:
    with client_of(host, version=None) as client:
        assert client.models.generate_content(model="gpt_a", contents="Hi").text == Reply().text


def test_a_local_model_answers_a_client_of_gemini(client: genai.Client) -> None:
    config = types.GenerateContentConfig(max_output_tokens=4, temperature=0)
    answer = client.models.generate_content(model="gpt_e", contents="What is the capital of France?", config=config)
    assert answer.text
    assert answer.usage_metadata is not None
    assert 0 < (answer.usage_metadata.candidates_token_count or 0) <= 4


def test_all_that_a_request_says_reaches_the_handlers_provider(client: genai.Client, provider: Upstream) -> None:
    client.models.generate_content(
        model="gpt_a",
        contents=[
            types.Content(role="user", parts=[types.Part(text="I am Ann.")]),
            types.Content(role="model", parts=[types.Part(text="Hello Ann.")]),
            types.UserContent(["See:", types.Part.from_bytes(data=base64.b64decode(PIXEL), mime_type="image/png")]),
        ],
        config=types.GenerateContentConfig(
            system_instruction="Be brief.",
            temperature=0.5,
            top_p=0.75,
            max_output_tokens=9,
            stop_sequences=["###"],
            seed=11,
            response_mime_type="application/json",
            response_schema=types.Schema(
                type=types.Type.OBJECT, properties={"city": types.Schema(type=types.Type.STRING)}
            ),
            safety_settings=[
                types.SafetySetting(category="HARM_CATEGORY_HARASSMENT", threshold="BLOCK_ONLY_HIGH")  # type: ignore[arg-type]
            ],
        ),
    )
    asked, body = provider.last_request.parsed, provider.last_request.body
    assert [(turn.role, turn.text, turn.images) for turn in asked.turns] == [
        ("system", "Be brief.", 0),
        ("user", "I am Ann.", 0),
        ("assistant", "Hello Ann.", 0),
        ("user", "See:", 1),
    ]
    assert (asked.temperature, asked.top_p, asked.max_tokens, asked.stop, asked.seed) == (0.5, 0.75, 9, ("###",), 11)
    assert body["messages"][3]["content"][1]["image_url"]["url"] == f"data:image/png;base64,{PIXEL}"
    schema = body["response_format"]["json_schema"]["schema"]
    assert schema == {"type": "object", "properties": {"city": {"type": "string"}}}


@pytest.mark.parametrize("streamed", [False, True])
def test_tools_are_called_and_answered(client: genai.Client, provider: Upstream, streamed: bool) -> None:
    provider.respond_with(
        Reply((), finish="tool_calls", calls=(ScriptedToolCall("look", {"at": "☀", "n": 2}, id="c7", chunk_count=3),))
    )
    config = types.GenerateContentConfig(
        tools=[types.Tool(function_declarations=[LOOK])],
        tool_config=types.ToolConfig(
            function_calling_config=types.FunctionCallingConfig(
                mode=types.FunctionCallingConfigMode.ANY, allowed_function_names=["look"]
            )
        ),
    )
    question = types.UserContent("Look!")
    if streamed:
        *_, answer = client.models.generate_content_stream(model="gpt_a", contents=question, config=config)
    else:
        answer = client.models.generate_content(model="gpt_a", contents=question, config=config)
    assert provider.last_request.parsed.tool_choice == "look"
    parameters = provider.last_request.body["tools"][0]["function"]["parameters"]
    assert parameters["properties"] == {"at": {"type": ["string", "null"]}, "n": {"type": "integer"}}
    (call,) = answer.function_calls or []
    assert (call.id, call.name, call.args) == ("c7", "look", {"at": "☀", "n": 2})
    assert answer.candidates is not None
    assert answer.candidates[0].content is not None
    provider.reset()
    result = types.Part.from_function_response(name="look", response={"result": "a cat"})
    second = client.models.generate_content(
        model="gpt_a",
        contents=[question, answer.candidates[0].content, types.Content(role="user", parts=[result])],
        config=types.GenerateContentConfig(tools=config.tools),
    )
    assert second.text == Reply().text
    _, assistant, tool = provider.last_request.parsed.turns
    assert [(made.name, made.id) for made in assistant.calls] == [("look", "c7")]
    assert (tool.text, tool.result_of) == ('{"result":"a cat"}', "c7")


def test_models_are_the_handlers_that_can_chat(client: genai.Client) -> None:
    models = {model.name: model for model in client.models.list()}
    assert {"models/gpt_a", "models/gpt_e"} <= models.keys()
    assert "generateContent" in (models["models/gpt_a"].supported_actions or [])
    assert client.models.get(model="gpt_a").display_name == "GPT A: OpenAI"


def test_tokens_are_counted_where_the_handler_can(client: genai.Client) -> None:
    with pytest.raises(errors.ClientError) as cannot:
        client.models.count_tokens(model="gpt_d", contents="Hi")
    assert (cannot.value.code, cannot.value.status) == (404, "NOT_FOUND")
    assert "count_tokens" in str(cannot.value.message)
    with Upstream().run() as google:
        config = f'[handlers.gpt_c]\nbase_url = "{google.url}"\n'
        with host_under_test(config) as counting, client_of(counting) as asking:
            assert asking.models.count_tokens(model="gpt_c", contents="How many?").total_tokens == 2


def test_errors_are_the_sdks_own(client: genai.Client, host: HostUnderTest, provider: Upstream) -> None:
    def error_of(model: str = "gpt_a", **config: object) -> errors.APIError:
        with pytest.raises(errors.APIError) as caught:
            client.models.generate_content(
                model=model, contents="Hi", config=types.GenerateContentConfig.model_validate({**strict, **config})
            )
        return caught.value

    # By default, hints like topK are left out.
    strict = {"http_options": {"headers": {"X-Unsupported-Fields": "refuse"}}}

    def fields(error: errors.APIError) -> list[str]:
        details = error.details["error"]["details"]
        return [violation["field"] for detail in details for violation in detail.get("fieldViolations", ())]

    missing = error_of("gpt_z")
    assert (type(missing), missing.code, missing.status) == (errors.ClientError, 404, "NOT_FOUND")
    assert "gpt_e" in str(missing.message) or "models" in str(missing.message)
    assert fields(error_of(top_k=3)) == ["generationConfig.topK"]
    assert fields(error_of(cached_content="cachedContents/c")) == ["cachedContent"]
    assert fields(error_of(tools=[{"google_search": {}}])) == ["tools[0].googleSearch"]
    assert provider.requests == []
    with client_of(host, key="wrong") as stranger, pytest.raises(errors.ClientError) as refused:
        stranger.models.generate_content(model="gpt_a", contents="Hi")
    assert (refused.value.code, refused.value.status) == (401, "UNAUTHENTICATED")
    with pytest.raises(errors.ClientError) as unknown:
        client.models.embed_content(model="gpt_b", contents="Hi")
    assert unknown.value.status == "NOT_FOUND"
    provider.respond_with(Status(429, "slow down", retry_after=7))
    limited = error_of()
    assert (type(limited), limited.code, limited.status) == (errors.ClientError, 429, "RESOURCE_EXHAUSTED")
    assert "7.000s" in str(limited.details)
    provider.respond_with(Status(503))
    overloaded = error_of()
    assert (type(overloaded), overloaded.status) == (errors.ServerError, "UNAVAILABLE")


def test_an_error_in_a_stream_is_raised_after_earlier_chunks(client: genai.Client, provider: Upstream) -> None:
    provider.respond_with(Status(429))
    with pytest.raises(errors.ClientError):
        next(iter(client.models.generate_content_stream(model="gpt_a", contents="Hi")))
    provider.respond_with(Reply().with_fault("cut", after=1))
    seen: list[str | None] = []
    with pytest.raises(errors.ServerError) as caught:
        seen.extend(chunk.text for chunk in client.models.generate_content_stream(model="gpt_a", contents="Hi"))
    assert caught.value.code == 502


@pytest.mark.filterwarnings("ignore:Inheritance class Aiohttp:DeprecationWarning")  # the SDK's own sessions
async def test_a_client_that_leaves_closes_the_providers_connection(host: HostUnderTest, provider: Upstream) -> None:
    provider.respond_with(Reply().with_fault("stalled", after=1))
    client = client_of(host).aio
    chunks = await client.models.generate_content_stream(model="gpt_a", contents="Hi")
    assert isinstance(chunks, AsyncGenerator)
    assert (await anext(chunks)).text == Reply().chunks[0]
    await chunks.aclose()
    await client.aclose()
    await asyncio.wait_for(asyncio.wrap_future(provider.disconnected), 30)


def test_the_key_may_stand_in_the_query_and_never_in_the_log(host: HostUnderTest) -> None:
    body = {"contents": [{"parts": [{"text": "Hi"}]}]}
    status, answer = host.request("POST", f"/v1beta/models/gpt_a:generateContent?key={KEY}", body)
    assert (status, answer["candidates"][0]["finishReason"]) == (200, "STOP")
    status, answer = host.request("POST", "/v1beta/models/gpt_a:generateContent?key=wrong-key", body)
    assert (status, answer["error"]["status"]) == (401, "UNAUTHENTICATED")
    assert host.request("POST", f"/v1/chat/completions?key={KEY}", {})[0] == 401
    assert KEY not in host.log
    assert "wrong-key" not in host.log


def test_gpt_c_before_another_host_passes_tools_through_both(host: HostUnderTest, provider: Upstream) -> None:
    config = f'[handlers.gpt_c]\nsdk = "google-genai"\nbase_url = "{host.url}"\nmodel = "gpt_a"\n'
    with host_under_test(config, environ={"GEMINI_API_KEY": KEY}) as front, client_of(front) as client:
        provider.respond_with(
            Reply((), finish="tool_calls", calls=(ScriptedToolCall("look", {"at": "☀", "n": 2}),)), Reply()
        )
        tools = types.GenerateContentConfig(tools=[types.Tool(function_declarations=[LOOK])])
        chat = client.chats.create(model="gpt_c", config=tools)
        (call,) = chat.send_message("Look!").function_calls or []
        assert (call.name, call.args) == ("look", {"at": "☀", "n": 2})
        result = types.Part.from_function_response(name="look", response={"result": "a cat"})
        assert chat.send_message(result).text == Reply().text
        assert "a cat" in provider.last_request.parsed.turns[-1].text
