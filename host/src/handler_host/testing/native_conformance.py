"""Tests that every native operation must pass: the class that its author subclasses."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, NamedTuple, cast

import pytest

from handler_host.plugin.native_operations import NATIVE_OPERATIONS
from handler_host.testing.conformance import Conformance
from handler_host.testing.loop_thread import TIMEOUT_S
from handler_host.testing.native_cases import CASES, NativeCase, named
from handler_host.testing.processes import served_worker
from handler_host.testing.provider_conformance import DISCONNECT_TIMEOUT_S
from handler_host.testing.script import ProtocolName, Raw, RecordedRequest, Reply, Silence
from handler_host.testing.upstream import Upstream

JSON = "application/json; charset=utf-8"
EVENT_STREAM = "text/event-stream; charset=utf-8"
ERROR = (
    b'{"type": "error" ,"error": {"type": "invalid_request_error","code":"context_length_exceeded",'
    b'"message": "Gr\\u00fc\\u00dfe", "unheard_of": 1.0}}\n'
)
"""An error of a provider, in a shape that all protocols share."""
CLIENTS_KEY = "the-key-of-a-client"
PRIVATE_HEADERS = {"Cookie": "c=1", "X-Own": "1", "X-Forwarded-For": "192.0.2.1", "Authorization": CLIENTS_KEY}
"""Headers of a client that are not for the provider."""
FEATURE_QUERY = {"beta": "true", "alt": "json"}


class ClientResponse(NamedTuple):
    """A response as a client receives it."""

    status: int
    headers: Mapping[str, str]
    """Names are in lower case."""
    body: bytes


class NativeConformanceV1(Conformance):
    """Tests of native operations in a real worker process, between a real host and a scripted provider.

    Subclass it, name the handler and its operations. The tests compare the bytes on both sides.
    A later version of the class demands more; this one stays as it is.
    """

    operations: ClassVar[Sequence[str]]
    """The handler's native operations, such as ``openai.chat``; all of one protocol."""
    model: ClassVar[str] = "model-1"
    """Model that the tests request, as ``HANDLER/MODEL``."""
    provider_model: ClassVar[str | None] = None
    """The provider's name of ``model``; None: the same."""

    upstream: ClassVar[Upstream]
    """The provider, for tests that a subclass adds."""
    url: ClassVar[str]
    """URL of the host."""

    @classmethod
    def configure(cls, upstream: Upstream) -> Mapping[str, Any]:
        """Return the settings that connect the handler to the provider: ``base_url``, unless overridden."""
        return {"base_url": upstream.base_url(cast("ProtocolName", cls.operations[0].partition(".")[0]))}

    @classmethod
    def _open(cls) -> None:
        cls.upstream = cls._stack.enter_context(Upstream().run())
        settings = {**cls.settings, **cls.configure(cls.upstream)}
        cls.worker, cls.url = cls._stack.enter_context(
            served_worker(
                cls.handler, settings, secrets=cls.secrets, policy=cls.policy, roots=cls.roots, data_dir=cls.data_dir
            )
        )
        cls.worker.activate()

    def setup_method(self) -> None:
        """Reset the provider's script."""
        self.upstream.reset()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make a test of each operation; ``stream`` adds one for its stream (pytest's hook)."""
        cases = [CASES[name] for name in self.operations]
        if "stream" in metafunc.fixturenames:
            pairs = _with_streams(cases)
            ids = [f"{case.operation.name}-{'stream' if stream else 'whole'}" for case, stream in pairs]
            metafunc.parametrize(("case", "stream"), pairs, ids=ids)
        elif "streamed_case" in metafunc.fixturenames:
            streamed = [case for case in cases if case.events]
            metafunc.parametrize("streamed_case", streamed, ids=[case.operation.name for case in streamed])
        elif "case" in metafunc.fixturenames:
            metafunc.parametrize("case", cases, ids=[case.operation.name for case in cases])

    @property
    def _sent_model(self) -> str:
        return self.provider_model or self.model

    @contextmanager
    def _connect(
        self, path: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> Iterator[http.client.HTTPConnection]:
        """Send a request; leaving the block closes the connection."""
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=TIMEOUT_S)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json", **(headers or {})})
            yield connection
        finally:
            connection.close()

    def _call(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> ClientResponse:
        with self._connect(path, body, headers) as connection, connection.getresponse() as response:
            names = {name.lower(): value for name, value in response.getheaders()}
            return ClientResponse(response.status, names, response.read())

    def _request(self, case: NativeCase, *, stream: bool = False) -> ClientResponse:
        return self._call(*case.request(f"{self.handler}/{self.model}", stream=stream))

    def _respond_with(self, case: NativeCase, *, stream: bool = False, stays_open: bool = False) -> None:
        """Make the provider respond natively."""
        parts = case.events if stream else (case.response[:9], case.response[9:])
        parts = tuple(named(b"\0".join(parts), self._sent_model).split(b"\0"))
        content_type = EVENT_STREAM if stream else JSON
        headers = {"X-Own": "1", "X-Request-ID": "req-1"}
        self.upstream.respond_with(Raw(parts[:1] if stays_open else parts, 200, content_type, stays_open, headers))

    def test_every_native_operation_is_tested(self) -> None:
        """``operations`` names all that the handler has."""
        declared = {operation.name for operation in self.worker.status.operations or ()}
        assert declared & set(NATIVE_OPERATIONS) == set(self.operations)

    def test_the_body_reaches_the_provider_as_it_was_sent(self, case: NativeCase, stream: bool) -> None:
        """Byte by byte, but for the model's name, which is the provider's."""
        self._respond_with(case, stream=stream)
        self._request(case, stream=stream)
        (request,) = self.upstream.requests
        path, body = case.request(self._sent_model, stream=stream)
        assert (request.path, request.content) == (path, body)

    def test_the_handlers_model_is_sent_for_a_client_that_names_none(self, case: NativeCase) -> None:
        """Such a client names the handler only."""
        self._call(*case.request(self.handler, stream=False))
        (request,) = self.upstream.requests
        model = request.parsed.model
        assert model
        assert model != self.handler
        assert (request.path, request.content) == case.request(model, stream=False)

    def test_the_response_comes_back_as_it_came(self, case: NativeCase, stream: bool) -> None:
        """Byte by byte, whole or event by event, but for the model's name, which is the client's."""
        self._respond_with(case, stream=stream)
        response = self._request(case, stream=stream)
        expected = b"".join(case.events) if stream else case.response
        assert response.status == 200
        assert response.body == named(expected, f"{self.handler}/{self.model}")
        assert response.headers["content-type"] == (EVENT_STREAM if stream else JSON)
        assert response.headers["x-provider-request-id"] == "req-1"
        assert "x-own" not in response.headers

    @pytest.mark.parametrize("status", [400, 404, 413, 429, 500, 529])
    def test_an_error_keeps_its_status_and_body(self, case: NativeCase, stream: bool, status: int) -> None:
        """And its ``Retry-After``; ``settings`` must switch retries off."""
        self.upstream.respond_with(Raw((ERROR,), status, JSON, headers={"Retry-After": "97"}))
        response = self._request(case, stream=stream)
        assert (response.status, response.body) == (status, ERROR)
        assert response.headers["retry-after"] == "97"
        assert len(self.upstream.requests) == 1

    def test_a_refused_key_is_not_the_clients(self, case: NativeCase, stream: bool) -> None:
        """A 401 concerns the handler's key: the client gets a 502, without the provider's words."""
        self.upstream.respond_with(Raw((b'{"error": {"message": "sk-123 is wrong"}}',), 401, JSON))
        response = self._request(case, stream=stream)
        assert response.status == 502
        assert b"sk-123" not in response.body

    def test_a_page_in_place_of_an_error_is_an_error(self, case: NativeCase, stream: bool) -> None:
        """From a proxy in front of the provider."""
        self.upstream.respond_with(Raw((b"<html><body>Bad Gateway</body></html>",), 502, "text/html"))
        response = self._request(case, stream=stream)
        assert response.status >= 500
        assert response.headers["content-type"].startswith("application/json")
        assert b"<html>" not in response.body

    def test_the_first_event_does_not_wait_for_the_second(self, streamed_case: NativeCase) -> None:
        """And a client that leaves then closes the provider's connection."""
        self._respond_with(streamed_case, stream=True, stays_open=True)
        expected = named(streamed_case.events[0], f"{self.handler}/{self.model}")
        request = streamed_case.request(f"{self.handler}/{self.model}", stream=True)
        with self._connect(*request) as connection, connection.getresponse() as response:
            assert response.read(len(expected)) == expected
        self._assert_left()

    def test_clients_that_leave_close_the_providers_connections(self) -> None:
        """Before the provider responds; one client for each operation and stream."""
        self.upstream.respond_with(Silence())
        cases = [CASES[name] for name in self.operations]
        with ExitStack() as clients:
            for case, stream in _with_streams(cases):
                clients.enter_context(self._connect(*case.request(f"{self.handler}/{self.model}", stream=stream)))
            self.worker.wait_until(lambda _: len(self.upstream.requests) == len(_with_streams(cases)))
        self._assert_left()

    def _assert_left(self) -> None:
        for request in self.upstream.requests:
            request.disconnected.result(DISCONNECT_TIMEOUT_S)
        self.worker.wait_until(lambda status: not status.in_flight)

    def test_a_stream_that_is_cut_ends_in_an_error(self, streamed_case: NativeCase) -> None:
        """Without a retry: the client has a part of the response."""
        self.upstream.respond_with(Reply(("One", " two")).with_fault("cut"), Reply())
        response = self._request(streamed_case, stream=True)
        assert response.status == 200
        assert b'"One"' in response.body
        assert b'"error"' in response.body
        assert len(self.upstream.requests) == 1

    def test_only_headers_of_features_reach_the_provider(self, case: NativeCase) -> None:
        """Those that the protocol defines; so with the parameters of the query. The key is the handler's."""
        features = dict.fromkeys(case.operation.request_headers, "feature-1")
        query = {name: FEATURE_QUERY[name] for name in case.operation.query}
        path, body = case.request(f"{self.handler}/{self.model}", stream=False)
        path += "?" + "&".join(f"{name}={value}" for name, value in {**query, "own": "1"}.items())
        self._call(path, body, {**PRIVATE_HEADERS, **features})
        (request,) = self.upstream.requests
        assert not {"Cookie", "X-Own", "X-Forwarded-For"} & set(request.headers)
        assert not any(CLIENTS_KEY in value for value in request.headers.values())
        for name, value in features.items():
            assert value in request.headers.get(name, ""), f"the provider did not receive {name}"
        for name, value in query.items():
            assert f"{name}={value}" in request.path
        assert "own=" not in request.path
        if self.secrets:
            assert request.key in self.secrets.values()

    def test_concurrent_requests_get_their_own_responses(self, case: NativeCase) -> None:
        """Sixteen, eight at a time."""

        def echo(request: RecordedRequest) -> Raw:
            (question,) = re.findall(rb"question-\d+", request.content)
            return Raw((b'{"echo": "', question, b'"}'), 200, JSON)

        self.upstream.respond_with(echo)
        path, body = case.request(f"{self.handler}/{self.model}", stream=False)
        questions = [f"question-{number}".encode() for number in range(16)]
        bodies = [body.replace(b"question-0", question) for question in questions]
        with ThreadPoolExecutor(8) as pool:
            responses = list(pool.map(lambda content: self._call(path, content).body, bodies))
        assert responses == [b'{"echo": "' + question + b'"}' for question in questions]


def _with_streams(cases: Sequence[NativeCase]) -> list[tuple[NativeCase, bool]]:
    """Return each case, whole and streamed if it has a stream."""
    return [(case, stream) for case in cases for stream in (False, True) if case.events or not stream]


NativeConformance = NativeConformanceV1
"""The newest version."""
