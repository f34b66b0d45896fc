"""What a chat handler has to do about its provider: tools there and back, every fault, every way to leave."""

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
from handler_host.testing.script import Called, ProtocolName, Raw, Reply, Silence, Status
from handler_host.testing.upstream import Upstream

HI: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
PATIENCE = 37.0
"""Seconds that the provider asks for: more than a retry waits (``handler_host.plugin.provider_errors.Retries``)."""
AT_ONCE = 30.0
"""Seconds within which a provider's connection is closed when the client has left: the patience of a busy machine."""
PAGE = "<html><body>Bad Gateway, from a proxy</body></html>"
LOOK = Called("look", {"at": 'the ☀ "sun"', "for": 2}, parts=3)
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


class ProviderConformance(Conformance):
    """The part of the conformance class that needs a provider."""

    protocol: ClassVar[ProtocolName | None] = None
    """What the provider behind the handler speaks: ``openai``, ``anthropic`` or ``gemini``; None: there is none."""
    refuses: ClassVar[frozenset[str]] = frozenset()
    """Fields of a request (and ``images``) that the handler answers with a 400 that names them."""
    ignores: ClassVar[frozenset[str]] = frozenset()
    """Fields of a request (and ``images``) that are documented to have no effect.

    Of an answer, ``usage``, ``finish_reason`` and ``model`` may be named too.
    """
    impatient: ClassVar[Mapping[str, Any]] = {"timeout": 0.5}
    """Settings with which the handler gives a silent provider up soon; empty if it has none."""

    upstream: ClassVar[Upstream]
    """The provider, for tests that a subclass adds; not there without a ``protocol``."""
    _settings: ClassVar[Mapping[str, Any]]

    @classmethod
    def configure(cls, upstream: Upstream) -> Mapping[str, Any]:
        """Return the settings that point the handler at the provider; here: ``base_url``."""
        assert cls.protocol is not None, "there is no provider without a protocol"
        return {"base_url": upstream.base_url(cls.protocol)}

    @classmethod
    def _open(cls) -> None:
        cls._settings = cls.settings
        if cls.protocol is not None:
            cls.upstream = cls._stack.enter_context(Upstream().running())
            cls._settings = {**cls.settings, **cls.configure(cls.upstream)}
        cls.worker = cls._stack.enter_context(cls._run(cls._settings))
        cls.worker.activate()

    def setup_method(self) -> None:
        """Begin with a provider that says hello."""
        if self.protocol is not None:
            self.upstream.reset()

    def _lives(self) -> None:
        self.upstream.say(Reply())
        assert self.worker.chat("Hi").text == Reply().text

    def _fails(self, **request: Any) -> HostError:
        """Return the error of an answer, after having seen that a stream ends with the same."""
        errors = [self.worker.error_of("chat", {**HI, **request})]
        with pytest.raises(HostError) as caught:
            list(self.worker.stream("chat", {**HI, **request}))
        errors.append(caught.value)
        assert type(errors[0]) is type(errors[1]), f"whole: {errors[0]!r}, streamed: {errors[1]!r}"
        return errors[0]

    def test_the_key_arrives_in_the_protocols_own_header_and_nowhere_else(self) -> None:
        """Where the handler has one."""
        if not self.secrets:
            pytest.skip("the class names no secrets")
        self.worker.chat("Hi")
        received = self.upstream.last
        assert received.key in self.secrets.values()
        assert not any(secret in str(received.body) for secret in self.secrets.values())

    def test_calls_one_after_the_other_share_their_connection(self) -> None:
        """Each new one costs a handshake; an answer has to be read to its end for that."""
        # Idle ones of earlier calls, of several at a time, may be taken in turns.
        before = len(self.upstream.connections)
        for _ in range(3):
            self.worker.chat("Hi")
            list(self.worker.chat_chunks("Hi"))
        made = len(self.upstream.connections) - before
        assert made <= 2, f"{made} connections for {len(self.upstream.requests)} calls"

    def test_the_requests_model_is_the_one_that_is_asked(self) -> None:
        """``handler/model`` of the OpenAI routes ends up here."""
        self.worker.chat("Hi", model="another-model")
        assert self.upstream.last.asked.model.endswith("another-model")

    def test_a_tool_call_comes_through_whole_and_streamed(self) -> None:
        """Its name, its arguments, an id, and the finish reason."""
        self._needs_tools()
        self.upstream.say(Reply((), finish="tool_calls", calls=(LOOK,)))
        whole = self.worker.chat("Look!", tools=[TOOL])
        for response in (whole, accumulate(self.worker.chat_chunks("Look!", tools=[TOOL]))):
            assert response.finish_reason == "tool_calls"
            (call,) = response.tool_calls
            assert call.id
            assert call.function.name == LOOK.name
            assert msgspec.json.decode(call.function.arguments) == LOOK.arguments
        assert self.upstream.last.asked.tools == ("look",)

    def test_two_tool_calls_beside_text_are_told_apart(self) -> None:
        """Each keeps its name and its arguments."""
        self._needs_tools()
        second = Called("smell", {"at": "roses"}, id="call_2", parts=1)
        self.upstream.say(Reply(("I", " see"), finish="tool_calls", calls=(LOOK, second)))
        response = accumulate(self.worker.chat_chunks("Look!", tools=[TOOL]))
        assert response.text == "I see"
        found = [(call.function.name, msgspec.json.decode(call.function.arguments)) for call in response.tool_calls]
        assert found == [("look", LOOK.arguments), ("smell", {"at": "roses"})]
        assert len({call.id for call in response.tool_calls}) == 2

    def test_a_tools_result_arrives_with_the_call_it_answers(self) -> None:
        """The second turn of every tool loop."""
        self._needs_tools()
        call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "x"}'}}
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": "Look!"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
        ]
        assert self.worker.chat(messages, tools=[TOOL]).text == Reply().text
        user, assistant, tool = self.upstream.last.asked.turns
        assert (user.role, assistant.role, tool.role) == ("user", "assistant", "tool")
        assert [(made.name, made.arguments) for made in assistant.calls] == [("look", {"at": "x"})]
        assert "a cat" in tool.text
        assert tool.responses in ("c1", "look")

    def _needs_tools(self) -> None:
        if "tools" in self.refuses | self.ignores:
            pytest.skip("it is documented that there are no tools")

    def test_an_empty_answer_is_an_answer(self) -> None:
        """No text, whole or streamed."""
        self.upstream.say(Reply((), completion_tokens=0))
        assert not self.worker.chat("Hi").text
        chunks = list(self.worker.chat_chunks("Hi"))
        assert not accumulate(chunks).text
        assert sum(isinstance(chunk, FinishChunk) for chunk in chunks) == 1

    def test_a_huge_answer_comes_whole(self) -> None:
        """A megabyte in five hundred pieces."""
        reply = Reply(tuple(f"{number:05d} {'ä' * 1000}" for number in range(500)))
        self.upstream.say(reply)
        assert self.worker.chat("Hi").text == reply.text
        assert accumulate(self.worker.chat_chunks("Hi")).text == reply.text

    def test_the_first_piece_comes_before_the_provider_has_said_the_second(self) -> None:
        """And when the client leaves then, the provider's connection is closed at once."""
        self.upstream.say(Reply().breaking("stalled", after=1))
        chunks = self.worker.chat_chunks("Hi")
        first = next(chunk for chunk in chunks if isinstance(chunk, TextChunk))
        assert first.text == Reply().chunks[0]
        assert not self.upstream.left.done()
        chunks.close()
        self.upstream.left.result(AT_ONCE)
        self._lives()

    @pytest.mark.parametrize("step", [Silence(), Reply().breaking("stalled")], ids=["silent", "stalled"])
    def test_a_client_that_leaves_before_its_answer_closes_the_providers_connection(self, step: Any) -> None:
        """It asked for no stream, and has nothing yet."""
        self.upstream.say(step)
        asking = self.worker.begin("chat", HI)
        self.upstream.asked.result(AT_ONCE)
        asking.cancel()
        self.upstream.left.result(AT_ONCE)
        self._lives()

    def test_the_dispatchs_deadline_ends_the_call_of_the_provider(self) -> None:
        """Whatever the handler's own patience."""
        self.upstream.say(Silence())
        with pytest.raises((DeadlineExceeded, UpstreamTimeout)):
            self.worker.ask("chat", HI, timeout=0.3)
        self.upstream.left.result(AT_ONCE)
        self._lives()

    def test_a_wrong_key_is_told_without_the_key(self, caplog: pytest.LogCaptureFixture) -> None:
        """Providers repeat a part of it in their message."""
        secrets = " ".join(self.secrets.values())
        self.upstream.say(Status(401, f"Incorrect API key provided: {secrets}"))
        with caplog.at_level(logging.DEBUG):
            error = self._fails()
        assert isinstance(error, UpstreamAuth), error
        for secret in self.secrets.values():
            assert secret not in error.message
            assert secret not in caplog.text
        self._lives()

    def test_a_rate_limit_comes_with_the_providers_own_patience(self) -> None:
        """Its ``Retry-After``, in seconds; more than the handler itself would wait."""
        self.upstream.say(Status(429, "slow down", retry_after=PATIENCE))
        error = self._fails()
        assert isinstance(error, UpstreamRateLimited), error
        assert error.retry_after == PATIENCE
        self._lives()

    def test_a_bad_request_is_told_in_the_providers_words(self) -> None:
        """With status 400, and not tried again."""
        self.upstream.say(Status(400, "the moon is not full"))
        error = self._fails()
        assert isinstance(error, UpstreamBadRequest), error
        assert "the moon is not full" in error.message
        assert len(self.upstream.requests) == 2
        self._lives()

    @pytest.mark.parametrize(
        ("step", "kind"),
        [
            (Status(500, retry_after=PATIENCE), UpstreamError),
            (Status(503, retry_after=PATIENCE), UpstreamOverloaded),
            (Status(502, html=PAGE, retry_after=PATIENCE), UpstreamError),
            (Status(200, html=PAGE), UpstreamError),
        ],
        ids=["500", "503", "502 in HTML", "200 in HTML"],
    )
    def test_a_provider_that_fails_is_told(self, step: Status, kind: type[UpstreamError]) -> None:
        """As one of the few errors of the host, and without a proxy's page in it."""
        self.upstream.say(step)
        error = self._fails()
        assert isinstance(error, kind), error
        assert not isinstance(error, UpstreamBadRequest | UpstreamAuth), error
        assert "<html" not in error.message
        self._lives()

    @pytest.mark.parametrize("how", ["cut", "truncated", "malformed", "error"])
    def test_an_answer_that_breaks_off_is_an_error_and_no_short_answer(self, how: Any) -> None:
        """After its first piece, so that it is not tried again; what came before it was broken arrives."""
        self.upstream.say(Reply().breaking(how, after=1))
        chunks: list[Any] = []
        with pytest.raises(UpstreamError) as caught:
            chunks.extend(self.worker.chat_chunks("Hi"))
        assert not isinstance(caught.value, UpstreamBadRequest | UpstreamAuth), caught.value
        asked = len(self.upstream.requests)
        assert asked == 1, f"asked {asked} times, after the first piece had been sent"
        error = self.worker.error_of("chat", HI)
        assert isinstance(error, UpstreamError), error
        self._lives()

    def test_a_document_that_is_none_is_an_error(self) -> None:
        """Neither an answer nor a stream, but status 200 and half a JSON document."""
        self.upstream.say(Raw((b'{"id": "x", "choi',), content_type="application/json"))
        error = self._fails()
        assert isinstance(error, UpstreamError), error
        self._lives()

    @pytest.mark.parametrize("step", [Silence(), Reply().breaking("stalled")], ids=["silent", "stalled"])
    def test_a_provider_that_says_nothing_more_is_given_up(self, step: Any) -> None:
        """With ``impatient`` settings, in a worker of its own."""
        if not self.impatient:
            pytest.skip("the class names no impatient settings")
        self.upstream.say(step)
        with self._run({**self._settings, **self.impatient}) as worker:
            for work in (lambda: worker.ask("chat", HI), lambda: list(worker.stream("chat", HI))):
                with pytest.raises(UpstreamTimeout):
                    work()
            assert worker.status.generation == 1
        self.upstream.left.result(AT_ONCE)

    def test_a_provider_that_is_not_there_is_told(self) -> None:
        """Nobody listens on the address."""
        with Upstream().running() as gone:
            settings = self.configure(gone)
        with self._run({**self._settings, **settings}) as worker:
            error = worker.error_of("chat", HI)
            assert error.code == "upstream_unreachable", error
