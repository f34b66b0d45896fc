"""Tests of a chat handler with its provider: tools, faults of the provider, clients that disconnect."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec
import pytest

from handler_host.chat.conversion import accumulate
from handler_host.chat.types import FinishChunk, TextChunk
from handler_host.plugin.errors import (
    DeadlineExceeded,
    HostError,
    UpstreamAuth,
    UpstreamBadRequest,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamTimeout,
)
from handler_host.testing.conformance import Conformance
from handler_host.testing.script import ProtocolName, Raw, Reply, ScriptedToolCall, Silence, Status
from handler_host.testing.upstream import Upstream

HI: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
RETRY_AFTER_S = 97.0
"""The provider's ``Retry-After``: longer than a retry waits, be it ``handler_host.plugin.retry.Retries`` (20 s) or an
SDK's own (openai, anthropic: 60 s), so that no test sleeps for it."""
DISCONNECT_TIMEOUT_S = 30.0
"""Seconds within which the provider's connection must be closed: far more than it takes on a busy machine."""
DEADLINES_S = (0.3, 3.0, 30.0)
"""Deadlines of a dispatch to a silent provider, each for a machine on which its request did not come in the one
before."""
PAGE = "<html><body>Bad Gateway, from a proxy</body></html>"
LOOK = ScriptedToolCall("look", {"at": 'the ☀ "sun"', "for": 2}, chunk_count=3)
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


class ProviderConformance(Conformance):
    """The tests that need a provider."""

    protocol: ClassVar[ProtocolName | None] = None
    """Protocol of the provider: ``openai``, ``anthropic`` or ``gemini``; None: the handler has no provider."""
    refuses: ClassVar[frozenset[str]] = frozenset()
    """Fields of a request (and ``images``) that the handler refuses with a 400 that names them."""
    ignores: ClassVar[frozenset[str]] = frozenset()
    """Fields of a request (and ``images``) that have no effect, as the handler documents.

    It may also name ``usage``, ``finish_reason`` and ``model`` of a response.
    """
    impatient: ClassVar[Mapping[str, Any]] = {"timeout": 0.5}
    """Settings with a short timeout for a silent provider; empty if the handler has none."""

    upstream: ClassVar[Upstream]
    """The provider, for tests that a subclass adds; missing without a ``protocol``."""
    _settings: ClassVar[Mapping[str, Any]]

    @classmethod
    def configure(cls, upstream: Upstream) -> Mapping[str, Any]:
        """Return the settings that connect the handler to the provider: ``base_url``, unless overridden."""
        assert cls.protocol is not None, "a handler without a protocol has no provider"
        return {"base_url": upstream.base_url(cls.protocol)}

    @classmethod
    def _open(cls) -> None:
        cls._settings = cls.settings
        if cls.protocol is not None:
            cls.upstream = cls._stack.enter_context(Upstream().run())
            cls._settings = {**cls.settings, **cls.configure(cls.upstream)}
        cls.worker = cls._stack.enter_context(cls._run(cls._settings))
        cls.worker.activate()

    def setup_method(self) -> None:
        """Reset the provider's script."""
        if self.protocol is not None:
            self.upstream.reset()

    def _assert_alive(self) -> None:
        self.upstream.respond_with(Reply())
        assert self.worker.chat("Hi").text == Reply().text

    def _error(self, **request: Any) -> HostError:
        """Return the error of a response, which must be the same for a stream."""
        errors = [self.worker.error_of("chat", {**HI, **request})]
        with pytest.raises(HostError) as caught:
            list(self.worker.dispatch_stream("chat", {**HI, **request}))
        errors.append(caught.value)
        assert type(errors[0]) is type(errors[1]), f"whole: {errors[0]!r}, streamed: {errors[1]!r}"
        return errors[0]

    def test_the_key_is_sent_in_the_protocols_header_only(self) -> None:
        """If the handler has one."""
        if not self.secrets:
            pytest.skip("the class names no secrets")
        self.worker.chat("Hi")
        request = self.upstream.last_request
        assert request.key in self.secrets.values()
        assert not any(secret in str(request.body) for secret in self.secrets.values())

    def test_sequential_calls_share_a_connection(self) -> None:
        """A new connection costs a handshake. To keep one, the handler must read the response to its end."""
        # The handler may alternate between two idle connections of earlier concurrent calls.
        before = len(self.upstream.connections)
        for _ in range(3):
            self.worker.chat("Hi")
            list(self.worker.chat_chunks("Hi"))
        made = len(self.upstream.connections) - before
        assert made <= 2, f"{made} connections for {len(self.upstream.requests)} calls"

    def test_the_model_of_the_request_is_sent(self) -> None:
        """It comes from ``handler/model`` of the OpenAI routes."""
        self.worker.chat("Hi", model="another-model")
        assert self.upstream.last_request.parsed.model.endswith("another-model")

    def test_a_tool_call_is_complete(self) -> None:
        """It has its name, its arguments, an ID, and the finish reason, whole and streamed."""
        self._needs_tools()
        self.upstream.respond_with(Reply((), finish="tool_calls", calls=(LOOK,)))
        whole = self.worker.chat("Look!", tools=[TOOL])
        for response in (whole, accumulate(self.worker.chat_chunks("Look!", tools=[TOOL]))):
            assert response.finish_reason == "tool_calls"
            (call,) = response.tool_calls
            assert call.id
            assert call.function.name == LOOK.name
            assert msgspec.json.decode(call.function.arguments) == LOOK.arguments
        assert self.upstream.last_request.parsed.tools == ("look",)

    def test_text_and_two_tool_calls_stay_apart(self) -> None:
        """Each call keeps its name and its arguments."""
        self._needs_tools()
        second = ScriptedToolCall("smell", {"at": "roses"}, id="call_2", chunk_count=1)
        self.upstream.respond_with(Reply(("I", " see"), finish="tool_calls", calls=(LOOK, second)))
        response = accumulate(self.worker.chat_chunks("Look!", tools=[TOOL]))
        assert response.text == "I see"
        calls = [(call.function.name, msgspec.json.decode(call.function.arguments)) for call in response.tool_calls]
        assert calls == [("look", LOOK.arguments), ("smell", {"at": "roses"})]
        assert len({call.id for call in response.tool_calls}) == 2

    def test_the_result_of_a_tool_is_sent_with_its_call(self) -> None:
        """The second request of every tool loop."""
        self._needs_tools()
        call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "x"}'}}
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": "Look!"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
        ]
        assert self.worker.chat(messages, tools=[TOOL]).text == Reply().text
        user, assistant, tool = self.upstream.last_request.parsed.turns
        assert (user.role, assistant.role, tool.role) == ("user", "assistant", "tool")
        assert [(made.name, made.arguments) for made in assistant.calls] == [("look", {"at": "x"})]
        assert "a cat" in tool.text
        assert tool.result_of in ("c1", "look")

    def _needs_tools(self) -> None:
        if "tools" in self.refuses | self.ignores:
            pytest.skip("the handler documents that it has no tools")

    def test_an_empty_response_is_valid(self) -> None:
        """No text, whole or streamed."""
        self.upstream.respond_with(Reply((), completion_tokens=0))
        assert not self.worker.chat("Hi").text
        chunks = list(self.worker.chat_chunks("Hi"))
        assert not accumulate(chunks).text
        assert sum(isinstance(chunk, FinishChunk) for chunk in chunks) == 1

    def test_a_huge_response_is_complete(self) -> None:
        """A megabyte in five hundred chunks."""
        reply = Reply(tuple(f"{number:05d} {'ä' * 1000}" for number in range(500)))
        self.upstream.respond_with(reply)
        assert self.worker.chat("Hi").text == reply.text
        assert accumulate(self.worker.chat_chunks("Hi")).text == reply.text

    def test_the_first_chunk_does_not_wait_for_the_second(self) -> None:
        """A client that disconnects after it closes the provider's connection."""
        self.upstream.respond_with(Reply().with_fault("stalled", after=1))
        chunks = self.worker.chat_chunks("Hi")
        first = next(chunk for chunk in chunks if isinstance(chunk, TextChunk))
        assert first.text == Reply().chunks[0]
        assert not self.upstream.disconnected.done()
        chunks.close()
        self.upstream.disconnected.result(DISCONNECT_TIMEOUT_S)
        self._assert_alive()

    @pytest.mark.parametrize("step", [Silence(), Reply().with_fault("stalled")], ids=["silent", "stalled"])
    def test_a_client_that_disconnects_closes_the_providers_connection(self, step: Any) -> None:
        """Before it had any part of its response."""
        self.upstream.respond_with(step)
        dispatch = self.worker.start_dispatch("chat", HI)
        self.upstream.first_request.result(DISCONNECT_TIMEOUT_S)
        dispatch.cancel()
        self.upstream.disconnected.result(DISCONNECT_TIMEOUT_S)
        self._assert_alive()

    def test_the_deadline_of_the_dispatch_ends_the_call(self) -> None:
        """Before any timeout of the handler."""
        self.upstream.respond_with(Silence())
        for timeout_s in DEADLINES_S:
            with pytest.raises((DeadlineExceeded, UpstreamTimeout)):
                self.worker.dispatch("chat", HI, timeout=timeout_s)
            if self.upstream.requests:
                break
        self.upstream.disconnected.result(DISCONNECT_TIMEOUT_S)
        self._assert_alive()

    def test_a_wrong_key_is_reported_without_the_key(self, caplog: pytest.LogCaptureFixture) -> None:
        """Some providers repeat a part of it in their message."""
        secrets = " ".join(self.secrets.values())
        self.upstream.respond_with(Status(401, f"Incorrect API key provided: {secrets}"))
        with caplog.at_level(logging.DEBUG):
            error = self._error()
        assert isinstance(error, UpstreamAuth), error
        for secret in self.secrets.values():
            assert secret not in error.message
            assert secret not in caplog.text
        self._assert_alive()

    def test_a_rate_limit_keeps_the_providers_retry_after(self) -> None:
        """If it is longer than the handler itself would wait."""
        self.upstream.respond_with(Status(429, "slow down", retry_after=RETRY_AFTER_S))
        error = self._error()
        assert isinstance(error, UpstreamRateLimited), error
        assert error.retry_after == RETRY_AFTER_S
        self._assert_alive()

    def test_a_bad_request_keeps_the_providers_message(self) -> None:
        """With status 400, and without a retry."""
        self.upstream.respond_with(Status(400, "the moon is not full"))
        error = self._error()
        assert isinstance(error, UpstreamBadRequest), error
        assert "the moon is not full" in error.message
        assert len(self.upstream.requests) == 2
        self._assert_alive()

    @pytest.mark.parametrize(
        ("step", "kind"),
        [
            (Status(500, retry_after=RETRY_AFTER_S), UpstreamError),
            (Status(503, retry_after=RETRY_AFTER_S), UpstreamOverloaded),
            (Status(502, html=PAGE, retry_after=RETRY_AFTER_S), UpstreamError),
            (Status(200, html=PAGE), UpstreamError),
        ],
        ids=["500", "503", "502 in HTML", "200 in HTML"],
    )
    def test_a_failure_of_the_provider_is_an_upstream_error(self, step: Status, kind: type[UpstreamError]) -> None:
        """Without the page of a proxy in its message."""
        self.upstream.respond_with(step)
        error = self._error()
        assert isinstance(error, kind), error
        assert not isinstance(error, UpstreamBadRequest | UpstreamAuth), error
        assert "<html" not in error.message
        self._assert_alive()

    @pytest.mark.parametrize("how", ["cut", "truncated", "malformed", "error"])
    def test_a_response_that_breaks_off_is_an_error(self, how: Any) -> None:
        """It is not retried after its first chunk; the chunks before the fault reach the client."""
        self.upstream.respond_with(Reply().with_fault(how, after=1))
        chunks: list[Any] = []
        with pytest.raises(UpstreamError) as caught:
            chunks.extend(self.worker.chat_chunks("Hi"))
        assert not isinstance(caught.value, UpstreamBadRequest | UpstreamAuth), caught.value
        requests = len(self.upstream.requests)
        assert requests == 1, f"{requests} requests, although the client had the first chunk"
        error = self.worker.error_of("chat", HI)
        assert isinstance(error, UpstreamError), error
        self._assert_alive()

    def test_half_a_document_is_an_error(self) -> None:
        """With status 200."""
        self.upstream.respond_with(Raw((b'{"id": "x", "choi',), content_type="application/json"))
        error = self._error()
        assert isinstance(error, UpstreamError), error
        self._assert_alive()

    @pytest.mark.parametrize("step", [Silence(), Reply().with_fault("stalled")], ids=["silent", "stalled"])
    def test_a_silent_provider_is_a_timeout(self, step: Any) -> None:
        """With the settings ``impatient``, in a worker of its own."""
        if not self.impatient:
            pytest.skip("the class names no impatient settings")
        self.upstream.respond_with(step)
        with self._run({**self._settings, **self.impatient}) as worker:
            for work in (lambda: worker.dispatch("chat", HI), lambda: list(worker.dispatch_stream("chat", HI))):
                with pytest.raises(UpstreamTimeout):
                    work()
            assert worker.status.generation == 1
        self.upstream.disconnected.result(DISCONNECT_TIMEOUT_S)

    def test_an_unreachable_provider_is_reported(self) -> None:
        """Nothing listens on its address."""
        with Upstream().run() as stopped:
            settings = self.configure(stopped)
        with self._run({**self._settings, **settings}) as worker:
            error = worker.error_of("chat", HI)
            assert error.code == "upstream_unreachable", error
