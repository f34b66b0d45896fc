"""The pure parts of native calls: places of fields, events of streams, token counts, references to provider state."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler_host.channel.native_messages import (
    MalformedMessage,
    RequestHead,
    ResponseHead,
    Span,
    decode_request,
    decode_response,
    encode_message,
)
from handler_host.plugin import InvalidInput, NativeRequest, UpstreamError
from handler_host.plugin.native_operations import ModelSpan
from handler_host.protocols.json_fields import fields_of, text_of
from handler_host.protocols.native_events import MAX_HELD_BYTES, EventRelay, ModelName
from handler_host.protocols.native_usage import TailCounter, token_counts
from handler_host.protocols.provider_state import refuse_state

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=6), st.booleans(), st.sampled_from([None, 1]))
def test_the_place_of_each_field_is_that_of_its_value(content: dict[str, Any], ascii_only: bool, indent: int) -> None:
    document = json.dumps(content, ensure_ascii=ascii_only, indent=indent).encode(errors="surrogatepass")
    try:
        document.decode()
    except UnicodeDecodeError:
        return
    places = fields_of(document)
    assert {name: json.loads(document[place.start : place.end]) for name, place in places.items()} == content


@pytest.mark.parametrize("document", [b'{"a": 1, "a": 2}', b'{"a": 1, "b": 0, "a": 20}'])
def test_a_duplicate_field_is_refused(document: bytes) -> None:
    with pytest.raises(ValueError, match="duplicate"):
        fields_of(document)


@pytest.mark.parametrize("document", [b"[]", b'"text"', b"12"])
def test_a_document_that_is_not_an_object_has_no_fields(document: bytes) -> None:
    assert fields_of(document) == {}


def test_text_of_a_field() -> None:
    document = b'{"a": "\\u2600", "b": 3}'
    fields = fields_of(document)
    assert (text_of(document, fields["a"]), text_of(document, fields["b"]), text_of(document, None)) == (
        "☀",
        None,
        None,
    )


def test_a_message_has_its_head_and_its_body() -> None:
    head = RequestHead(model="m", stream=True, headers={"a": "b"}, spans=(Span(1, 2, "models/"),))
    assert decode_request(encode_message(head, b"\x00body")) == (head, b"\x00body")
    start = ResponseHead(status=201, headers={"a": "b"}, model=None)
    assert decode_response(encode_message(start, b"")) == (start, b"")


@pytest.mark.parametrize("payload", [b"", b"{}", b'{"model": "m"}', b"\x00\x00\x00\x02[]"])
def test_another_payload_is_not_a_message(payload: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_request(payload)


def test_the_payload_has_the_providers_name_in_place() -> None:
    body = b' {"model" : "gpt_a/x", "messages": [{"model": "gpt_a/x"}]}'
    place = fields_of(body)["model"]
    request = NativeRequest("openai.chat", "", "x", False, {}, {}, body, (ModelSpan(*place),))
    assert request.payload("default") == b' {"model" : "x", "messages": [{"model": "gpt_a/x"}]}'
    unnamed = NativeRequest("openai.chat", "", None, False, {}, {}, body, (ModelSpan(*place, "models/"),))
    assert unnamed.payload('d"f') == b' {"model" : "models/d\\"f", "messages": [{"model": "gpt_a/x"}]}'
    assert unnamed.sent_model == 'd"f'


class TestModelName:
    def test_only_the_name_that_was_sent_is_restored(self) -> None:
        name = ModelName(("model",), "x", "gpt_a/x")
        document = b'{"id":"1", "model" : "x","choices":[{"model":"x"}]}'
        assert name.restore(document) == b'{"id":"1", "model" : "gpt_a/x","choices":[{"model":"x"}]}'
        for other in (b'{"model":"x-2026"}', b'{"model":null}', b"[]", b"not JSON", b'{"a":{"model":"x"}}'):
            assert name.restore(other) == other

    def test_nested_name(self) -> None:
        name = ModelName(("response", "model"), "x", "gpt_a/x")
        assert (
            name.restore(b'{"model":"x","response":{"model":"x"}}') == b'{"model":"x","response":{"model":"gpt_a/x"}}'
        )


def relayed(relay: EventRelay, stream: bytes, size: int) -> bytes:
    return b"".join(relay.feed(stream[at : at + size]) for at in range(0, len(stream), size)) + relay.last()


class TestEventRelay:
    CHUNKS = b"".join(
        b'data: {"id":"c","model":"x","choices":[{"delta":{"content":"%d \\"model\\":\\"x\\""}}],"usage":null}\n\n' % n
        for n in range(4)
    )
    USAGE = b'data: {"choices":[],"id":"c","model":"x","usage":{"prompt_tokens":7,"completion_tokens":2}}\n\n'
    STREAM = b": hello\n\n" + CHUNKS + USAGE + b"data: [DONE]\n\n"

    @pytest.mark.parametrize("size", [1, 2, 7, 100, 100_000])
    @pytest.mark.parametrize("end", [b"\n", b"\r\n"])
    def test_names_are_restored_and_nothing_else_changes(self, size: int, end: bytes) -> None:
        stream = self.STREAM.replace(b"\n", end)
        relay = EventRelay(ModelName(("model",), "x", "gpt_a/x"))
        assert relayed(relay, stream, size) == stream.replace(b'"model":"x",', b'"model":"gpt_a/x",')
        assert relay.tokens == {"input": 7, "output": 2}
        assert relay.is_between_events()

    @pytest.mark.parametrize("sent", ["x", "another"], ids=["restored", "dated"])
    def test_the_name_is_looked_for_once_where_events_start_alike(
        self, sent: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Providers name a dated version of what was sent: their events are not parsed one by one either."""
        place, places = ModelName.place, []

        def counted(model: ModelName, document: bytes | memoryview) -> object:
            places.append(document)
            return place(model, document)

        monkeypatch.setattr(ModelName, "place", counted)
        stream = b"".join(b'data: {"id":"1","model":"x","n":%d}\n\n' % number for number in range(5))
        shown = stream.replace(b'"x"', b'"gpt_a/x"') if sent == "x" else stream
        assert EventRelay(ModelName(("model",), sent, "gpt_a/x")).feed(stream) == shown
        assert len(places) == 1

    @pytest.mark.parametrize("size", [1, 13, 100_000])
    def test_a_stream_without_a_name_to_restore_is_unchanged(self, size: int) -> None:
        for sent, shown in ((None, "gpt_a"), ("x", "x"), ("y", "gpt_a/y")):
            assert relayed(EventRelay(ModelName(("model",), sent, shown)), self.STREAM, size) == self.STREAM

    def test_a_part_of_an_event_waits_for_the_rest(self) -> None:
        relay = EventRelay(ModelName(("model",), "x", "gpt_a/x"))
        assert relay.feed(b'data: {"a"') == b""
        assert relay.feed(b": 1}\n\n: ping\n\nda") == b'data: {"a": 1}\n\n: ping\n\n'
        assert relay.drop_incomplete() == b""
        assert relay.last() == b""

    def test_an_event_that_is_too_long_is_passed_on_in_parts(self) -> None:
        relay = EventRelay(ModelName(("model",), "x", "gpt_a/x"))
        start = b"data: " + b"a" * MAX_HELD_BYTES
        assert relay.feed(start) == start
        assert not relay.is_between_events()
        assert relay.feed(b"b\n\n") == b"b\n\n"
        assert relay.is_between_events()
        relay.feed(start)
        assert relay.drop_incomplete() == b"\n\n"

    @pytest.mark.parametrize(
        "end",
        [b'data: {"id": 1}', b"data: [DONE]", b": ping", b"id: 1\nretry: 3\n", b'event: x\ndata: {"a":\ndata: 1}\n'],
    )
    def test_the_last_event_needs_no_empty_line(self, end: bytes) -> None:
        relay = EventRelay(ModelName(("model",), None, "m"))
        assert relay.feed(b"data: {}\n\n" + end) + relay.last() == b"data: {}\n\n" + end

    @pytest.mark.parametrize(
        "end",
        [b"event: x\n", b"event: x\nid: 1\n", b"da", b'data: {"id', b'event: x\ndata: {"a": "', b'data: {"id": 1}}'],
    )
    def test_an_event_that_is_cut_off_is_an_error(self, end: bytes) -> None:
        relay = EventRelay(ModelName(("model",), None, "m"))
        assert relay.feed(b"data: {}\n\n" + end) == b"data: {}\n\n"
        with pytest.raises(UpstreamError, match="cut off within an event"):
            relay.last()
        assert relay.drop_incomplete() == b""

    def test_the_rest_of_a_stream_that_ends_early_is_passed_on(self) -> None:
        relay = EventRelay(ModelName(("model",), "x", "gpt_a/x"))
        relay.feed(b"data: [DONE]\n")
        assert relay.last() == b"data: [DONE]\n"


@pytest.mark.parametrize(
    ("document", "tokens"),
    [
        (
            {
                "usage": {
                    "prompt_tokens": 10,
                    "completion_tokens": 5,
                    "prompt_tokens_details": {"cached_tokens": 4},
                    "completion_tokens_details": {"reasoning_tokens": 3},
                }
            },
            {"input": 10, "cached": 4, "output": 5, "reasoning": 3},
        ),
        (
            {
                "response": {
                    "usage": {"input_tokens": 10, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 4}}
                }
            },
            {"input": 10, "cached": 4, "output": 5},
        ),
        (
            {
                "message": {
                    "usage": {
                        "input_tokens": 10,
                        "cache_read_input_tokens": 100,
                        "cache_creation_input_tokens": 20,
                        "output_tokens": 1,
                    }
                }
            },
            {"input": 130, "cached": 100, "cache_write": 20, "output": 1},
        ),
        (
            {
                "usageMetadata": {
                    "promptTokenCount": 10,
                    "candidatesTokenCount": 5,
                    "thoughtsTokenCount": 7,
                    "cachedContentTokenCount": 2,
                }
            },
            {"input": 10, "cached": 2, "output": 12, "reasoning": 7},
        ),
        ({"usage": None}, {}),
        ({"usage": "much"}, {}),
        ({"text": "usage"}, {}),
        (["usage"], {}),
    ],
)
def test_token_counts(document: Any, tokens: dict[str, int]) -> None:
    assert token_counts(msgspec.json.encode(document)) == tokens


def refused(operation: str, content: dict[str, Any], *, ascii_only: bool = False) -> str | None:
    body = json.dumps(content, ensure_ascii=ascii_only).encode()
    try:
        asyncio.run(refuse_state(operation, body, fields_of(body), "gpt_a"))
    except InvalidInput as error:
        return error.param if "[handlers.gpt_a]" in error.message else "no remedy"
    return None


def test_text_that_is_not_utf_8_is_an_error_of_the_client() -> None:
    body = b'{"messages": [{"content": [{"file": {"file_id": "\xff"}}]}]}'
    with pytest.raises(InvalidInput, match="not UTF-8"):
        asyncio.run(refuse_state("openai.chat", body, fields_of(body), "gpt_a"))


@pytest.mark.parametrize(
    ("operation", "content", "param"),
    [
        ("openai.responses", {"store": True}, "store"),
        ("openai.responses", {"background": True}, "background"),
        ("openai.responses", {"previous_response_id": "resp_1"}, "previous_response_id"),
        ("openai.responses", {"conversation": {"id": "conv_1"}}, "conversation"),
        ("openai.responses", {"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].id"),
        ("openai.responses", {"input": [{"role": "user", "content": "Hi"}, {"id": "msg_1"}]}, "input[1].id"),
        ("openai.responses", {"input": [{"id": "msg_1", "type": None}]}, "input[0].id"),
        ("openai.responses", {"input": [{"id": "msg_1", "role": None, "new": 1}]}, "input[0].id"),
        (
            "openai.responses",
            {"tools": [{"type": "image_generation", "input_image_mask": {"file_id": "file_1"}}]},
            "tools[0].input_image_mask.file_id",
        ),
        (
            "openai.responses",
            {"tools": [{"type": "shell", "environment": {"type": "container_reference", "container_id": "cntr_1"}}]},
            "tools[0].environment.container_id",
        ),
        (
            "gemini.generate_content",
            {"tools": [{"fileSearch": {"fileSearchStoreNames": ["fileSearchStores/1"]}}]},
            "tools[0].fileSearch.fileSearchStoreNames",
        ),
        (
            "gemini.generate_content",
            {"systemInstruction": {"parts": [{"fileData": {"fileUri": "files/1"}}]}},
            "systemInstruction.parts[0].fileData.fileUri",
        ),
        (
            "openai.responses",
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file_1"}]}]},
            "input[0].content[0].file_id",
        ),
        (
            "openai.responses",
            {"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]},
            "tools[0].vector_store_ids",
        ),
        (
            "openai.responses",
            {"tools": [{"type": "code_interpreter", "container": "cntr_1"}]},
            "tools[0].container",
        ),
        (
            "openai.chat",
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "file_1"}}]}]},
            "messages[0].content[0].file.file_id",
        ),
        ("openai.chat", {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}, "messages[0].audio.id"),
        ("openai.chat", {"audio": {"voice": {"id": "voice_1"}, "format": "wav"}}, "audio.voice.id"),
        (
            "openai.responses",
            {"prompt": {"id": "pmpt_1", "variables": {"file": {"type": "input_file", "file_id": "file_1"}}}},
            "prompt",
        ),
        ("openai.responses", {"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}, "input[0].id"),
        (
            "openai.responses",
            {"input": [{"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "x"}]}]},
            "input[0].id",
        ),
        (
            "openai.responses",
            {"input": [{"type": "reasoning", "id": "rs_1", "encrypted_content": None}]},
            "input[0].id",
        ),
        ("openai.responses", {"input": [{"type": "image_generation_call", "id": "ig_1"}]}, "input[0].id"),
        (
            "openai.responses",
            {"input": [{"type": "web_search_call", "id": "ws_1", "status": "completed"}]},
            "input[0].id",
        ),
        (
            "openai.responses",
            {
                "tools": [
                    {"type": "shell", "environment": {"skills": [{"type": "skill_reference", "skill_id": "skill_1"}]}}
                ]
            },
            "tools[0].environment.skills[0].skill_id",
        ),
        (
            "openai.responses",
            {"input": [{"type": "additional_tools", "tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}]},
            "input[0].tools[0].vector_store_ids",
        ),
        (
            "gemini.count_tokens",
            {"generateContentRequest": {"contents": [{"parts": [{"fileData": {"fileUri": "files/1"}}]}]}},
            "generateContentRequest.contents[0].parts[0].fileData.fileUri",
        ),
        (
            "gemini.count_tokens",
            {"generateContentRequest": {"cachedContent": "cachedContents/1"}},
            "generateContentRequest.cachedContent",
        ),
        (
            "gemini.embed_content",
            {"requests": [{"content": {"parts": [{"fileData": {"fileUri": "files/1"}}]}}]},
            "requests[0].content.parts[0].fileData.fileUri",
        ),
        (
            "gemini.generate_content",
            {"tools": [{"retrieval": {"vertexRagStore": {"ragResources": [{"ragCorpus": "projects/1"}]}}}]},
            "tools[0].retrieval.vertexRagStore.ragResources[0].ragCorpus",
        ),
        ("anthropic.messages", {"container": "container_1"}, "container"),
        ("anthropic.messages", {"thread": {"type": "create"}}, "thread"),
        ("anthropic.messages", {"thread": {"type": "continue", "previous_message_id": "msg_1"}}, "thread"),
        (
            "anthropic.messages",
            {"messages": [{"content": [{"type": "document", "source": {"type": "file", "file_id": "file_1"}}]}]},
            "messages[0].content[0].source.file_id",
        ),
        ("gemini.generate_content", {"cachedContent": "cachedContents/1"}, "cachedContent"),
        (
            "gemini.generate_content",
            {"contents": [{"parts": [{"fileData": {"fileUri": "https://generativelanguage.x/v1beta/files/1"}}]}]},
            "contents[0].parts[0].fileData.fileUri",
        ),
    ],
)
def test_a_reference_to_provider_state_is_refused(operation: str, content: dict[str, Any], param: str) -> None:
    assert refused(operation, content) == param


def test_refused_thread_has_the_code_that_sdks_know() -> None:
    body = b'{"thread": {"type": "create"}}'
    with pytest.raises(InvalidInput) as raised:
        asyncio.run(refuse_state("anthropic.messages", body, fields_of(body), "gpt_b"))
    assert raised.value.details == {"error_code": "thread_unsupported_request"}


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (b'{"promptTokenCount": 3, "candidatesTokenCount": 2}', {"input": 3, "output": 2}),
        (b'{"promptTokenCount": 3, "new": 123456789012345678901234567890}', {"input": 3}),
        (b'{"promptTokenCount": NaN}', {}),
        (b"[" * 50_000, {}),
        (b"{", {}),
    ],
)
def test_the_counts_at_the_end_of_an_array_never_fail(usage: bytes, tokens: dict[str, int]) -> None:
    counter = TailCounter()
    for part in (b'[{"usageMetadata": {"promptTokenCount": 1}},', b'{"usageMetadata" :\n ', usage, b"}]"):
        counter.feed(part)
    assert counter.counts() == tokens


def test_an_escaped_name_is_found() -> None:
    body = rb'{"input": [{"content": [{"\u0066ile_id": "file_1"}]}]}'
    with pytest.raises(InvalidInput):
        asyncio.run(refuse_state("openai.responses", body, fields_of(body), "gpt_a"))


@pytest.mark.parametrize(
    ("operation", "content"),
    [
        ("openai.responses", {"store": False, "previous_response_id": None, "background": False}),
        ("openai.responses", {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}),
        (
            "openai.responses",
            {"tools": [{"type": "function", "parameters": {"properties": {"file_id": {"type": "string"}}}}]},
        ),
        ("openai.responses", {"input": [{"type": "function_call", "arguments": '{"file_id": "1"}'}]}),
        ("openai.responses", {"input": [{"type": "reasoning", "id": "rs_1", "encrypted_content": "x"}]}),
        ("openai.responses", {"input": [{"type": "image_generation_call", "id": "ig_1", "result": "AAAA"}]}),
        ("openai.responses", {"input": [{"type": "web_search_call", "id": "ws_1", "action": {"type": "search"}}]}),
        ("openai.responses", {"input": [{"id": "msg_1", "role": "assistant", "content": "Hi"}], "prompt": None}),
        ("openai.chat", {"audio": {"voice": "alloy", "format": "wav"}, "messages": [{"role": "user", "audio": None}]}),
        (
            "anthropic.messages",
            {"messages": [{"content": [{"type": "tool_use", "input": {"file_id": "1"}}]}], "container": None},
        ),
        (
            "gemini.generate_content",
            {"contents": [{"parts": [{"fileData": {"fileUri": "https://www.youtube.com/watch?v=1"}}]}]},
        ),
        ("openai.chat", {"messages": [{"role": "user", "content": 'the "file_id" \\u0041'}]}),
    ],
)
def test_other_requests_are_not_refused(operation: str, content: dict[str, Any]) -> None:
    assert refused(operation, content) is None
    assert refused(operation, content, ascii_only=True) is None
