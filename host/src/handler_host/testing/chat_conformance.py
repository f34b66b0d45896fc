"""Tests that every chat handler must pass: the class that its author subclasses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from handler_host.chat.conversion import accumulate
from handler_host.chat.types import ChatChunk, ChatResponse, Citation, FinishChunk, TextChunk, UsageChunk
from handler_host.plugin.errors import HostError, InvalidInput, UpstreamBadRequest
from handler_host.testing.conformance import assert_refused
from handler_host.testing.provider_conformance import ProviderConformance
from handler_host.testing.script import Reply

UNICODE = "Grüße, 世界 🎈 \u202e\u05e9\u05dc\u05d5\u05dd \\ \"quoted\" \n\t'end'"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
INVALID_IMAGE = {"type": "image_url", "image_url": {"url": "a cat"}}
LOOK = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look somewhere.",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
    },
}
WAIT = {"type": "function", "function": {"name": "wait", "description": "Wait a moment."}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FIELDS: Mapping[str, Mapping[str, Any]] = {
    "temperature": {"temperature": 0.5},
    "top_p": {"top_p": 0.75},
    "max_tokens": {"max_tokens": 7},
    "stop": {"stop": ["###"]},
    "seed": {"seed": 11},
    "tools": {"tools": [LOOK]},
    "tool_choice": {"tools": [LOOK], "tool_choice": "required"},
    "parallel_tool_calls": {"tools": [LOOK, WAIT], "parallel_tool_calls": False},
    "response_format": {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}},
    "presence_penalty": {"presence_penalty": 0.5},
    "frequency_penalty": {"frequency_penalty": 0.5},
    "user": {"user": "user-1"},
}
"""Every optional field of a request, each with the other fields that it needs."""


class ChatConformanceV1(ProviderConformance):
    """Tests of a chat handler in a real worker process: subclass it and name the handler.

    With a ``protocol`` the handler calls a scripted provider. The tests compare requests and responses on both sides,
    and the tests of ``handler_host.testing.provider_conformance`` run as well. Without a protocol (a local model, a
    handler that invents its responses) the tests check the form of responses only.

    A later version of the class demands more; this one stays as it is.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        """Remove the provider's tests if the handler has no provider."""
        super().__init_subclass__(**options)
        for name, test in vars(ProviderConformance).items():
            if not name.startswith("test_") or name in vars(cls):
                continue
            if cls.protocol is None:
                setattr(cls, name, None)
            elif getattr(cls, name) is None:
                setattr(cls, name, test)  # removed by a base class without a protocol

    def _respond_with(self, reply: Reply) -> None:
        if self.protocol is not None:
            self.upstream.respond_with(reply)

    def _chat(self, text: Any = "What is this?", **fields: Any) -> ChatResponse:
        return self.worker.chat(text, **fields)

    def _chunks(self, text: Any = "What is this?", **fields: Any) -> list[ChatChunk]:
        return list(self.worker.chat_chunks(text, **fields))

    def test_a_response_is_complete(self) -> None:
        """It has text, a finish reason, and the name of the model."""
        response = self._chat()
        assert response.text
        assert response.refusal is None
        assert response.tool_calls == []
        if "finish_reason" not in self.ignores:
            assert response.finish_reason in ("stop", "length")
        if self.protocol is not None:
            reply = Reply()
            assert response.text == reply.text
            assert response.finish_reason == reply.finish
            assert "model" in self.ignores or response.model == reply.model

    def test_the_chunks_of_a_stream_accumulate_to_the_same_response(self) -> None:
        """With one finish reason, after the content, and one usage; a provider's chunks are passed on one by one."""
        self._respond_with(Reply(("One", " two", " three", " four")))
        chunks = self._chunks()
        texts = [chunk for chunk in chunks if isinstance(chunk, TextChunk)]
        assert any(chunk.text for chunk in texts)
        ends = [number for number, chunk in enumerate(chunks) if isinstance(chunk, FinishChunk)]
        assert len(ends) == 1, f"{len(ends)} finish reasons"
        later = accumulate(chunks[ends[0] + 1 :])
        assert not later.text, "text after the finish reason"
        assert not later.tool_calls, "a tool call after the finish reason"
        assert sum(isinstance(chunk, UsageChunk) for chunk in chunks) == (0 if "usage" in self.ignores else 1)
        if self.protocol is not None:
            assert len(texts) > 1, "the response came in one chunk"
            assert accumulate(chunks) == self._chat()

    def test_every_response_has_its_usage(self) -> None:
        """The same, whole and streamed."""
        if "usage" in self.ignores:
            pytest.skip("the handler documents that it has no usage")
        self._respond_with(Reply(prompt_tokens=11, completion_tokens=31))
        usage = self._chat().usage
        assert usage is not None
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
        assert usage.prompt_tokens > 0
        if self.protocol is not None:
            assert (usage.prompt_tokens, usage.completion_tokens) == (11, 31)
            assert [chunk.usage for chunk in self._chunks() if isinstance(chunk, UsageChunk)] == [usage]

    def test_messages_keep_their_order(self) -> None:
        """System, user, assistant, user."""
        turns = [("system", "Be brief."), ("user", "I am Ann."), ("assistant", "Hello Ann."), ("user", "Who am I?")]
        assert self._chat([{"role": role, "content": text} for role, text in turns]).text
        if self.protocol is not None:
            assert [(turn.role, turn.text) for turn in self.upstream.last_request.parsed.turns] == turns

    def test_content_may_have_several_parts(self) -> None:
        """OpenAI's clients may send it so."""
        parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": " this?"}]
        assert self._chat([{"role": "system", "content": parts[:1]}, {"role": "user", "content": parts}]).text
        if self.protocol is not None:
            assert self.upstream.last_request.parsed.system == "What is"
            assert self.upstream.last_request.parsed.turns[-1].text == "What is this?"

    @pytest.mark.parametrize("field", FIELDS)
    def test_no_field_is_dropped_in_silence(self, field: str) -> None:
        """The handler sends it, refuses it with a 400 that names it, or documents that it has no effect."""
        request = FIELDS[field]
        if self.refuses & {field, *request}:
            messages = [{"role": "user", "content": "Hi"}]
            # Hints are left out, and named in the response, unless the request asks for a refusal.
            error = self.worker.error_of("chat", {"messages": messages, "unsupported": "refuse", **request})
            assert_refused(error, field, *request)
            return
        self._respond_with(Reply(('{"city": ', '"Paris"}')))
        without = {key: value for key, value in request.items() if key != field}
        if self.protocol is None or self.ignores & {field, *request}:
            self._chat(**request)
            return
        self._chat(**without)
        self._chat(**request)
        before, after = self.upstream.requests
        assert after.body != before.body, f"the provider did not receive {field}"
        if hasattr(after.parsed, field):
            sent = getattr(after.parsed, field)
            expected = {"stop": ("###",), "tools": ("look",)}.get(field, request[field])
            assert sent == expected, f"the provider received {field} as {sent!r}"

    def test_max_tokens_gives_the_finish_reason_length(self) -> None:
        """Whole and streamed."""
        if self.protocol is None and (self.refuses | self.ignores) & {"max_tokens", "finish_reason"}:
            pytest.skip("the handler documents that max_tokens has no effect")
        self._respond_with(Reply(finish="length"))
        assert self._chat("Tell me a long story.", max_tokens=3).finish_reason == "length"
        chunks = self._chunks("Tell me a long story.", max_tokens=3)
        assert [chunk.reason for chunk in chunks if isinstance(chunk, FinishChunk)] == ["length"]

    def test_an_image_is_sent_or_refused_with_its_path(self) -> None:
        """A ``data:`` URL."""
        messages = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, IMAGE]}]
        if "images" in self.refuses:
            assert_refused(self.worker.error_of("chat", {"messages": messages}), "messages[0].content[1]")
        else:
            self._chat(messages)
            if self.protocol is not None and "images" not in self.ignores:
                assert self.upstream.last_request.parsed.turns[-1].images == 1

    def test_unicode_is_kept_in_both_directions(self) -> None:
        """Whole and streamed, also if a chunk ends between two halves of a character."""
        self._respond_with(Reply((UNICODE[:9], UNICODE[9:])))
        responses = [self._chat(UNICODE), accumulate(self._chunks(UNICODE))]
        if self.protocol is not None:
            assert [response.text for response in responses] == [UNICODE, UNICODE]
            assert self.upstream.last_request.parsed.turns[-1].text == UNICODE

    def test_empty_content_gets_a_response_or_a_400(self) -> None:
        """The worker survives."""
        try:
            self._chat("")
        except HostError as error:
            assert isinstance(error, InvalidInput | UpstreamBadRequest), error
        assert self._chat().text

    def test_a_huge_request_is_sent_or_refused(self) -> None:
        """A megabyte of text; the worker survives."""
        text = "All work and no play. " * 50_000
        try:
            self._chat(text)
        except HostError as error:
            assert isinstance(error, InvalidInput), error
            assert error.param == "messages"
        else:
            if self.protocol is not None:
                assert self.upstream.last_request.parsed.turns[-1].text == text
        assert self._chat().text

    @pytest.mark.parametrize(
        ("request_", "field"),
        [
            ({"messages": []}, "messages"),
            ({}, "messages"),
            ({"messages": [{"role": "usr", "content": "Hi"}]}, "messages[0].role"),
            ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
            ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "c9"}]}, "messages[0].tool_call_id"),
            ({"messages": [{"role": "user", "content": [INVALID_IMAGE]}]}, "messages[0].content[0].image_url"),
            ({"messages": [{"role": "user", "content": "Hi"}], "temperature": "hot"}, "temperature"),
            ({"messages": [{"role": "user", "content": "Hi"}], "temprature": 1}, "temprature"),
        ],
    )
    def test_bad_input_is_a_400_that_names_the_field(self, request_: dict[str, Any], field: str) -> None:
        """Without a request to the provider."""
        error = self.worker.error_of("chat", request_)
        assert isinstance(error, InvalidInput), error
        assert (error.param or "").startswith(field) or field in error.message, error
        if self.protocol is not None:
            assert self.upstream.requests == []

    def test_concurrent_requests_get_their_own_responses(self) -> None:
        """Sixteen at a time."""
        if self.protocol is not None:
            self.upstream.respond_with(lambda request: Reply((request.parsed.turns[-1].text, "!"), pause=0.01))
        short = {} if "max_tokens" in self.refuses else {"max_tokens": 2}
        texts = [f"question {number}" for number in range(16)]
        requests = [{"messages": [{"role": "user", "content": text}], **short} for text in texts]
        running = [self.worker.start_dispatch("chat", request) for request in requests]
        responses = [msgspec.convert(future.result(60), ChatResponse).text for future in running]
        if self.protocol is not None:
            assert responses == [f"{text}!" for text in texts]

    def test_a_client_that_disconnects_frees_its_place(self) -> None:
        """The next request gets its response."""
        chunks = self.worker.chat_chunks("Tell me a very long story.")
        next(chunks)
        chunks.close()
        assert self._chat().text
        assert self.worker.status.in_flight == 0


class ChatConformanceV2(ChatConformanceV1):
    """The tests of version 1, and those of stop sequences, citations, and several responses to one request.

    ``ignores`` may also name ``stop_sequence`` and ``citations``, of a handler whose SDK drops them.
    """

    def test_the_stop_sequence_that_ended_a_response_is_named(self) -> None:
        """Whole and streamed, if the provider names it; Gemini does not."""
        if self.protocol in (None, "gemini") or "stop_sequence" in self.ignores:
            pytest.skip("the provider does not name it")
        self._respond_with(Reply(stop_sequence="###"))
        for response in (self._chat(stop=["###"]), accumulate(self._chunks(stop=["###"]))):
            assert (response.finish_reason, response.stop_sequence) == ("stop", "###")

    def test_the_sources_of_a_text_are_its_citations(self) -> None:
        """Whole and streamed: URL and title, and the place in characters if the handler knows it."""
        if self.protocol is None or "citations" in self.ignores:
            pytest.skip("the handler has no provider that names sources")
        source = Citation(url="https://a.example/bears", title="Bears")
        reply = Reply(("Grüne ", "Bären."), citations=(source,))
        self._respond_with(reply)
        for response in (self._chat(), accumulate(self._chunks())):
            (citation,) = response.citations or []
            assert (citation.url, citation.title) == (source.url, source.title)
            assert (citation.start_index, citation.end_index) in ((0, len(reply.text)), (None, None))

    def test_a_request_for_two_responses_gets_both_or_a_400(self) -> None:
        """``n``, whole and streamed."""
        self._respond_with(Reply(choices=2))
        try:
            responses = [self._chat(n=2), accumulate(self._chunks(n=2))]
        except InvalidInput as error:
            assert_refused(error, "n")
            return
        for response in responses:
            texts = [choice.text for choice in response.choices]
            assert len(texts) == 2, f"{len(texts)} responses"
            assert all(texts)
            assert self.protocol is None or texts == [Reply().text] * 2


ChatConformance = ChatConformanceV2
"""The newest version."""
