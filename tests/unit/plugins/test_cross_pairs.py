"""Every protocol to every provider: no declared field of a request is lost without its name in X-Ignored-Fields."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Iterator
from functools import cache, partial, reduce
from operator import getitem
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec import inspect

from gpt_a import GptA
from gpt_a.native import RESPONSES
from gpt_a.requests import RESPONSES_LACKS, RESPONSES_SUPPORTS, request_body
from gpt_b import GptB
from gpt_b.requests import message_body
from gpt_c import GptC
from gpt_c.loosening import loosen_schemas
from gpt_c.questions import question
from gpt_d import CACHE_MARKERS, SUPPORTED, SUPPORTS, chat_body
from gpt_e import TOOL_FIELDS, GptE
from handler_host.chat import ChatRequest, completion_body, leave_out_unsupported
from handler_host.chat.validation import tidy_schemas, validate_request
from handler_host.plugin.errors import InvalidInput
from handler_host.protocols.anthropic.messages import MessageRequest
from handler_host.protocols.fields import IgnoredFields
from handler_host.protocols.gemini.requests import GenerateContentRequest
from handler_host.protocols.ollama.requests import ChatBody
from handler_host.protocols.openai.requests import CompletionRequest
from handler_host.protocols.openai_responses.requests import ResponseRequest
from handler_host.protocols.reference import PROTOCOLS
from tests.full_requests import FULL_REQUESTS
from tests.recorded_requests import RECORDED_REQUESTS
from tests.unit.protocols.test_clients import translate

pytestmark = pytest.mark.sdks  # gpt_b converts schemas with Anthropic's SDK

Step = str | int
Provider = Callable[[ChatRequest], tuple[Any, list[str]]]

TYPES: dict[str, type[msgspec.Struct]] = {
    "/v1/chat/completions": CompletionRequest,
    "/v1/responses": ResponseRequest,
    "/v1/messages": MessageRequest,
    "gemini": GenerateContentRequest,
    "/api/chat": ChatBody,
}
TABLES = {
    "/v1/chat/completions": PROTOCOLS["openai"],
    "/v1/responses": PROTOCOLS["openai_responses"],
    "/v1/messages": PROTOCOLS["anthropic"],
    "gemini": PROTOCOLS["gemini"],
    "/api/chat": PROTOCOLS["ollama"],
}
"""The table of fields without a translation of each protocol, from which the docs are made."""

NOT_ASKED = {
    # A part of the value beside it.
    "type",
    # The transport of the response.
    *("keep_alive", "model", "stream", "stream_options"),
    # IDs and states that only connect parts of a request; the host may number calls in its own way.
    *("caller", "id", "namespace", "phase", "status", "tool_call_id", "tool_name"),
    # What SDKs write into a message that they send back.
    *("annotations", "audio", "citations", "function_call", "logprobs", "parsed", "parsed_arguments"),
    # Only one value each, and it asks for nothing.
    *("eager_input_streaming", "file_id", "include_obfuscation", "include_usage", "responseModalities"),
}
"""Fields whose value is not a wish of the client, or is the default of every provider."""
NOT_ASKED_AT = {
    ("gemini", "contents[].role"),
    ("gemini", "contents[].parts[].inlineData.displayName"),  # of an image
    ("/v1/messages", "messages[].content[].source.media_type"),  # of a text
    # A provider with structured output is always strict.
    ("/v1/chat/completions", "response_format.json_schema.strict"),
    ("/v1/responses", "text.format.strict"),
    # Compatible servers send their reasoning unasked, older models of Anthropic always.
    ("/v1/responses", "reasoning.summary"),
    ("/v1/responses", "include"),  # `top_logprobs` asks for them, too
    ("/v1/messages", "thinking.display"),
    ("gemini", "generationConfig.thinkingConfig.includeThoughts"),
}


def openai(model: str, is_openai: bool, request: ChatRequest) -> tuple[Any, list[str]]:
    ignored = leave_out_unsupported(request, GptA.supports, GptA.lacks)
    _, body, more = request_body(request, model, is_openai=is_openai)
    return body, [*ignored, *more]


def openai_responses(request: ChatRequest) -> tuple[Any, list[str]]:
    """A model without chat completions."""
    supports = RESPONSES_SUPPORTS.union(GptA.supports) - RESPONSES_LACKS
    ignored = leave_out_unsupported(request, supports, RESPONSES_LACKS)
    path, body, more = request_body(request, "gpt-5.4-pro", is_openai=True)
    assert path == RESPONSES
    return body, [*ignored, *more]


def anthropic(model: str, request: ChatRequest) -> tuple[Any, list[str]]:
    ignored = leave_out_unsupported(request, GptB.supports, GptB.lacks)
    body, more = message_body(request, model, 8192)
    return body, [*ignored, *more]


def gemini(model: str, is_old_sdk: bool, request: ChatRequest) -> tuple[Any, list[str]]:
    ignored = leave_out_unsupported(request, GptC.supports, GptC.lacks)
    if is_old_sdk:
        ignored += loosen_schemas(request)
    asked = question(request, model)
    return asked, [*ignored, *asked.ignored]


def litellm(provider: str, request: ChatRequest) -> tuple[Any, list[str]]:
    marks = provider in CACHE_MARKERS
    supports = {*SUPPORTED, *SUPPORTS, *(("cache_control",) if marks else ())}
    ignored = leave_out_unsupported(request, supports)
    return chat_body(request, keeps_cache_control=marks), ignored


def llama(takes_tools: bool, request: ChatRequest) -> tuple[Any, list[str]]:
    ignored = leave_out_unsupported(request, GptE.supports, GptE.lacks if takes_tools else GptE.lacks | TOOL_FIELDS)
    return completion_body(request), ignored


PROVIDERS: dict[str, Provider] = {
    "gpt_a": partial(openai, "gpt-4o", True),
    "gpt_a, compatible": partial(openai, "gpt-5-compatible", False),
    "gpt_a, Responses": openai_responses,
    "gpt_b, budgets": partial(anthropic, "claude-haiku-4-5"),
    "gpt_b, adaptive": partial(anthropic, "claude-opus-4-8"),
    "gpt_c, google-generativeai": partial(gemini, "gemini-2.5-flash", True),
    "gpt_c, google-genai": partial(gemini, "gemini-3-pro", False),
    "gpt_d, Anthropic": partial(litellm, "anthropic"),
    "gpt_d, OpenAI": partial(litellm, "openai"),
    "gpt_e": partial(llama, False),
    "gpt_e, tools": partial(llama, True),
}


def recorded(protocol: str, body: dict[str, Any]) -> dict[str, Any]:
    return {"path": "/v1beta/models/h:generateContent" if protocol == "gemini" else protocol, "body": body}


def run(path: str, body: dict[str, Any], provider: Provider, mode: Any = "ignore") -> tuple[Any, list[str]]:
    """Return the provider's body for a client's body, and the names in X-Ignored-Fields."""
    translated = translate(recorded(path, body), IgnoredFields(mode))
    translated.chat.unsupported = mode
    translated.chat.model = None
    # As the worker decodes and checks it.
    request = msgspec.json.decode(msgspec.json.encode(translated.chat), type=ChatRequest)
    try:
        tidy_schemas(request)
        validate_request(request)
        made, left_out = provider(request)
    except InvalidInput as error:
        raise translated.with_client_path(error) from None
    translated.ignore(left_out)
    return made, translated.ignored.names


class Declared(NamedTuple):
    """A field in a body that the type of the body declares."""

    path: tuple[Step, ...]
    owner: type[msgspec.Struct]
    name: str


def structs_of(info: inspect.Type) -> Iterator[inspect.StructType]:
    for option in options_of(info):
        if isinstance(option, inspect.StructType):
            yield option


def options_of(info: inspect.Type) -> Iterator[inspect.Type]:
    if isinstance(info, inspect.UnionType):
        for part in info.types:
            yield from options_of(part)
    elif isinstance(info, inspect.Metadata):
        yield from options_of(info.type)
    else:
        yield info


def declared_fields(value: Any, info: inspect.Type, path: tuple[Step, ...] = ()) -> Iterator[Declared]:
    """Yield the declared fields that a body has."""
    if isinstance(value, list):
        items = [option.item_type for option in options_of(info) if isinstance(option, inspect.ListType)]
        for index, part in enumerate(value):
            for item in items[:1]:
                yield from declared_fields(part, item, (*path, index))
    elif isinstance(value, dict):
        for struct in structs_of(info):
            if struct.tag_field is not None and value.get(struct.tag_field, struct.tag) != struct.tag:
                continue
            for field in struct.fields:
                if field.encode_name in value:
                    yield Declared((*path, field.encode_name), struct.cls, field.encode_name)
                    yield from declared_fields(value[field.encode_name], field.type, (*path, field.encode_name))
            return


def all_fields(info: inspect.Type, seen: set[type]) -> Iterator[tuple[type[msgspec.Struct], str]]:
    """Yield every field that a type declares, at every depth."""
    for option in options_of(info):
        if isinstance(option, inspect.ListType):
            yield from all_fields(option.item_type, seen)
        elif isinstance(option, inspect.StructType) and option.cls not in seen:
            seen.add(option.cls)
            for field in option.fields:
                yield option.cls, field.encode_name
                yield from all_fields(field.type, seen)


def name_of(path: tuple[Step, ...]) -> str:
    """Return a path as X-Ignored-Fields has it."""
    return "".join("[]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def is_asked(protocol: str, field: Declared) -> bool:
    """Return whether the value of a field asks the provider for something."""
    return field.name not in NOT_ASKED and (protocol, name_of(field.path)) not in NOT_ASKED_AT


@cache
def infos() -> dict[str, inspect.Type]:
    return {protocol: inspect.type_info(kind) for protocol, kind in TYPES.items()}


OPTIONAL = {
    *("temperature", "top_p", "top_k", "topP", "topK", "stop", "stop_sequences", "stopSequences", "seed", "user"),
    *("presence_penalty", "frequency_penalty", "presencePenalty", "frequencyPenalty", "service_tier", "serviceTier"),
    *("system", "instructions", "systemInstruction", "metadata", "verbosity", "cache_control", "prompt_cache_key"),
    *("reasoning_effort", "reasoning", "thinking", "thinkingConfig", "think", "logit_bias", "detail", "description"),
}
"""Fields that a request may lack without a change in the meaning of the others."""


def parent_of(body: Any, path: tuple[Step, ...]) -> Any:
    """Return the object or list that has the value at a path."""
    return reduce(getitem, path[:-1], body)


def without(body: Any, path: tuple[Step, ...]) -> Any:
    """Return a body without one of its values."""
    changed = pickle.loads(pickle.dumps(body))  # deepcopy takes four times as long
    del parent_of(changed, path)[path[-1]]
    return changed


def is_named(field: str, names: list[str]) -> bool:
    """Return whether a field, a part of it, or what it is a part of, is among the names that were left out."""
    # The table has one name for the parts of messages and of tools' results.
    field = field.replace("input[].output[]", "input[].content[]")
    item = field.rpartition("[]")[0]
    return any(
        field.startswith(name)
        or name.startswith(field)
        or name.rpartition(".")[2] == field.rpartition(".")[2]
        # In the same item: the text and the signature of a reasoning, the data and the name of a document.
        or (item and name.rpartition("[]")[0] == item)
        or (name == "input[].reasoning" and field.startswith("input[].content"))
        # Without tools, what configures them has no effect.
        or (name.startswith("tools") and "tool" in field.lower())
        for name in names
    )


@settings(max_examples=15)
@pytest.mark.parametrize("protocol", TYPES)
@given(data=st.data())
def test_a_field_reaches_the_provider_or_is_named(protocol: str, data: st.DataObject) -> None:
    info, provider = infos()[protocol], PROVIDERS[data.draw(st.sampled_from(sorted(PROVIDERS)), label="provider")]
    body = data.draw(st.sampled_from(FULL_REQUESTS[protocol]))
    optional = [field.path for field in declared_fields(body, info) if field.name in OPTIONAL]
    for path in data.draw(st.lists(st.sampled_from(optional), unique=True, max_size=8), label="left out"):
        body = body if is_missing(body, path) else without(body, path)
    try:
        made, names = run(protocol, body, provider)
    except InvalidInput as error:
        if error.param is None:
            raise
        return
    for field in declared_fields(body, info):
        if is_asked(protocol, field):
            name = name_of(field.path)
            try:
                before, _ = run(protocol, without(body, field.path), provider)
            except InvalidInput:
                continue  # a request needs the field
            assert made != before or is_named(name, names), f"{name} is lost"


def is_missing(body: Any, path: tuple[Step, ...]) -> bool:
    """Return whether a body lacks a value."""
    for step in path:
        if isinstance(body, dict) and step not in body:
            return True
        body = body[step]
    return False


@pytest.mark.parametrize("protocol", TYPES)
def test_every_declared_field_has_a_sample(protocol: str) -> None:
    info = infos()[protocol]
    samples = {field[1:] for body in FULL_REQUESTS[protocol] for field in declared_fields(body, info)}
    assert set(all_fields(info, set())) == samples


VALUES = st.one_of(
    st.text("abc", min_size=1),
    st.integers(2, 5),
    st.dictionaries(st.sampled_from("abc"), st.integers(), min_size=1),
    st.lists(st.text("abc", min_size=1), min_size=1),
    st.just(True),
)


@settings(max_examples=60)
@pytest.mark.parametrize("protocol", TABLES)
@given(data=st.data(), value=VALUES)
def test_a_field_of_the_table_is_treated_as_its_class_says(protocol: str, data: st.DataObject, value: Any) -> None:
    path, field = data.draw(st.sampled_from(sorted(TABLES[protocol].items(), key=lambda item: item[0])))
    body = copy.deepcopy(data.draw(st.sampled_from(FULL_REQUESTS[protocol])))
    places = places_of(body, path)
    assume(places)
    place = data.draw(st.sampled_from(places))
    parent_of(body, place)[place[-1]] = value
    # Another kind of item may have a field of this name.
    assume(all(declared.path != place for declared in declared_fields(body, infos()[protocol])))
    ignored = IgnoredFields()
    if field.kind == "demand" and field.asks(value):
        with pytest.raises(InvalidInput, match=path.rpartition(".")[2]):
            translate(recorded(protocol, body), ignored)
    else:
        translate(recorded(protocol, body), ignored)
        assert (path in ignored.names) == field.asks(value)


def places_of(body: Any, path: str) -> list[tuple[Step, ...]]:
    """Return the paths with indices at which a body has the object of a field."""
    places: list[tuple[tuple[Step, ...], Any]] = [((), body)]
    *parents, name = path.replace("[]", ".[]").split(".")
    for step in parents:
        if step == "[]":
            places = [
                ((*place, n), part)
                for place, value in places
                if isinstance(value, list)
                for n, part in enumerate(value)
            ]
        else:
            places = [
                ((*place, step), value[step]) for place, value in places if isinstance(value, dict) and step in value
            ]
    return [(*place, name) for place, value in places if isinstance(value, dict)]


def with_valid_arguments(value: dict[str, Any]) -> dict[str, Any]:
    """Replace the arguments of a call that the recording has shortened."""
    if isinstance(value.get("arguments"), str) and "name" in value:
        try:
            json.loads(value["arguments"])
        except ValueError:
            value["arguments"] = "{}"
    return value


@pytest.mark.parametrize("provider", sorted(PROVIDERS.keys() - {"gpt_e", "gpt_e, tools"}))  # it takes no documents
@pytest.mark.parametrize("path", RECORDED_REQUESTS, ids=[path.stem for path in RECORDED_REQUESTS])
def test_a_first_request_of_a_client_reaches_every_provider(path: Path, provider: str) -> None:
    request = json.loads(path.read_text(), object_hook=with_valid_arguments)
    made, _ = run(
        request["path"] if request["path"].startswith("/v1/") else "gemini",
        request["body"],
        PROVIDERS[provider],
        "ignore-hints",
    )
    assert made


@pytest.mark.parametrize("provider", sorted(PROVIDERS.keys() - {"gpt_a", "gpt_a, compatible", "gpt_e", "gpt_e, tools"}))
def test_reasoning_without_effort_or_budget_reaches_providers(provider: str) -> None:
    """Claude Code asks Anthropic's newer models so; a model of OpenAI's decides, or its handler does."""
    body: dict[str, Any] = {"model": "h", "max_tokens": 5000, "messages": [{"role": "user", "content": "hi"}]}
    made, names = run("/v1/messages", {**body, "thinking": {"type": "adaptive"}}, PROVIDERS[provider], "ignore-hints")
    before, _ = run("/v1/messages", body, PROVIDERS[provider])
    assert made != before
    assert names == []


@pytest.mark.parametrize(
    ("protocol", "fields", "param"),
    [
        ("/v1/chat/completions", {"logprobs": True}, "logprobs"),
        ("/v1/chat/completions", {"logprobs": True, "top_logprobs": 2}, "logprobs"),
        ("/v1/responses", {"include": ["message.output_text.logprobs"]}, "include"),
        ("gemini", {"generationConfig": {"responseLogprobs": True}}, "generationConfig.responseLogprobs"),
        ("/api/chat", {"logprobs": True}, "logprobs"),
    ],
)
def test_log_probabilities_that_the_provider_lacks_are_refused(
    protocol: str, fields: dict[str, Any], param: str
) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "/v1/responses": {"model": "h", "input": "hi"},
        "gemini": {"contents": [{"parts": [{"text": "hi"}]}]},
    }
    body = {**bodies.get(protocol, {"model": "h", "messages": [{"role": "user", "content": "hi"}]}), **fields}
    run(protocol, body, PROVIDERS["gpt_a"], "ignore-hints")
    with pytest.raises(InvalidInput) as raised:
        run(protocol, body, PROVIDERS["gpt_b, budgets"], "ignore-hints")
    assert raised.value.param == param
