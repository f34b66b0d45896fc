"""Helpers of handlers that call a provider: errors by status, ``Retry-After``, retries, clients of SDKs."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler_host._internal.units import MAX_RETRY_AFTER_S
from handler_host.http.errors import error_response
from handler_host.plugin import (
    NativeResponse,
    aiohttp_client,
    error_from_document,
    error_from_response,
    find_error,
    provider_refusal,
)
from handler_host.plugin.errors import (
    InvalidInput,
    UpstreamAuth,
    UpstreamBadRequest,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRateLimited,
)
from handler_host.plugin.provider_errors import from_status, parse_retry_after, unreachable_error
from handler_host.plugin.rate_limits import seconds_until_reset
from handler_host.plugin.retry import Retries, retry_call, retry_stream
from tests.support import error_of

AT_ONCE = Retries(times=2, first_wait=0.0)
Attempt = Callable[[], AsyncIterator[str]]


def attempts(*outcomes: Sequence[str | Exception]) -> Attempt:
    """Return a function whose calls yield the texts, and raise the errors, of one outcome after the other."""
    remaining = list(outcomes)

    async def attempt() -> AsyncIterator[str]:
        for item in remaining.pop(0):
            if isinstance(item, Exception):
                raise item
            yield item

    return attempt


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('10.0.0.5', 80)"), "connection refused"),
        (OSError(errno.EHOSTUNREACH, "10.0.0.5"), "no route to host"),
        (socket.gaierror(socket.EAI_NONAME, "internal.example"), "unknown host name"),
        (ssl.SSLCertVerificationError(1, "certificate of internal.example"), "ValueError"),
        (OSError("Multiple exceptions: 10.0.0.5"), "ValueError"),
        (None, "ValueError"),
    ],
)
def test_a_failed_connection_has_the_reason_of_the_system_without_the_address(
    cause: Exception | None, reason: str
) -> None:
    error = ValueError("http://internal.example")
    error.__cause__ = RuntimeError("of the SDK")
    error.__cause__.__cause__ = cause
    assert unreachable_error(error).message == f"the connection to the provider failed: {reason}"


async def chunks_of(attempt: Attempt, *, deadline: float | None = None) -> list[str]:
    return [chunk async for chunk in retry_stream(attempt, AT_ONCE, deadline=deadline)]


class TestRetryStream:
    async def test_failure_before_the_first_chunk(self) -> None:
        busy = UpstreamOverloaded("busy")
        assert await chunks_of(attempts([busy], [busy], ["a", "b"])) == ["a", "b"]

    async def test_number_of_attempts_is_bounded(self) -> None:
        error = await error_of(chunks_of(attempts(*[[UpstreamOverloaded("busy")]] * 3)))
        assert isinstance(error, UpstreamOverloaded)

    async def test_failure_after_the_first_chunk(self) -> None:
        chunks: list[str] = []

        async def read() -> None:
            async for chunk in retry_stream(attempts(["a", UpstreamError("cut")], ["never"]), AT_ONCE):
                chunks.append(chunk)

        assert isinstance(await error_of(read()), UpstreamError)
        assert chunks == ["a"]

    @pytest.mark.parametrize("error", [UpstreamAuth("wrong key"), InvalidInput("no")])
    async def test_permanent_error(self, error: Exception) -> None:
        assert type(await error_of(chunks_of(attempts([error], ["never"])))) is type(error)

    async def test_retry_after_beyond_the_limit(self) -> None:
        limited = UpstreamRateLimited("slow down", retry_after=3600.0)
        assert (await error_of(chunks_of(attempts([limited], ["never"])))).retry_after == 3600

    async def test_retry_after_beyond_the_deadline(self) -> None:
        limited = UpstreamRateLimited("slow down", retry_after=5.0)
        error = await error_of(chunks_of(attempts([limited], ["never"]), deadline=time.monotonic() + 1))
        assert error.retry_after == 5.0

    async def test_cancelled_wait(self) -> None:
        limited = UpstreamRateLimited("x", retry_after=10.0)
        waiting = asyncio.ensure_future(chunks_of(attempts([limited], ["never"])))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled()


class TestRetryCall:
    @staticmethod
    async def result_of(*outcomes: str | Exception) -> str:
        attempt = attempts(*([outcome] for outcome in outcomes))

        async def call() -> str:
            return await anext(attempt())

        return await retry_call(call, AT_ONCE)

    async def test_failed_calls_are_repeated(self) -> None:
        busy = UpstreamOverloaded("busy")
        assert await self.result_of(busy, busy, "a", "never") == "a"

    async def test_permanent_error(self) -> None:
        assert type(await error_of(self.result_of(UpstreamAuth("wrong key"), "never"))) is UpstreamAuth


@given(st.integers(0, 60), st.none() | st.floats(0, 1e9))
def test_waits_are_bounded_and_retry_after_is_exact(attempt: int, retry_after: float | None) -> None:
    retries = Retries(times=50)
    wait = retries.wait(attempt, retry_after)
    if attempt >= 50 or (retry_after or 0) > retries.longest_retry_after:
        assert wait is None
    elif retry_after is not None:
        assert wait == retry_after
    else:
        assert wait is not None
        assert 0 < wait <= retries.longest_wait


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "upstream_bad_request"), (401, "upstream_auth"), (403, "upstream_auth"), (404, "upstream_bad_request"),
     (408, "upstream_timeout"), (422, "upstream_bad_request"), (429, "upstream_rate_limited"), (500, "upstream_error"),
     (503, "upstream_overloaded"), (529, "upstream_overloaded")],
)  # fmt: skip
def test_error_of_a_status(status: int, code: str) -> None:
    assert from_status(status, "text").code == code


WORDS: dict[str, tuple[bytes, str]] = {
    "OpenAI": (b'{"error": {"message": "too long", "type": "x", "code": null}}', "too long"),
    "Anthropic": (b'{"type": "error", "error": {"type": "x", "message": "too long"}}', "too long"),
    "Google": (b'[{"error": {"code": 400, "message": "too long", "status": "INVALID_ARGUMENT"}}]', "too long"),
    "text": (b'{"error": "too long"}', "too long"),
    "detail": (b'{"detail": "too long"}', "too long"),
    "FastAPI": (b'{"detail": [{"loc": ["body", "n"], "msg": "too long", "type": "x"}]}', "body.n: too long"),
    "message": (b'{"message": "too long"}', "too long"),
    "vLLM": (b'{"object": "error", "message": "too long", "code": 400}', "too long"),
    "errors": (b'{"errors": [{"message": "too long"}, {"message": "too old"}]}', "too long; too old"),
    "nested": (b'{"error": {"message": {"error": "too long"}}}', "too long"),
    "problem+json": (b'{"type": "about:blank", "title": "Bad", "detail": "too long"}', "too long"),
    "a string": (b'"too long"', "too long"),
    "another shape": (b'{"problem": {"text": "too long"}}', '{"problem": {"text": "too long"}}'),
    "a page with a title": (b"<html><head><title>Too\n&amp; long</title></head><body>x</body></html>", "Too & long"),
    "a page with a heading": (b"<html><h1>Too long</h1></html>", "Too long"),
    "a page without either": (b"<html><style>p {}</style><p>Too <b>long</b></p><!-- x --></html>", "Too long"),
    "a page in JSON": (b'{"error": {"message": "<html><title>Too long</title></html>"}}', "Too long"),
    "plain text": (b"too long\n", "too long"),
    "not UTF-8": (b'{"error": "too l\xffng"}', "too l\ufffdng"),
    "half a pair": (b'{"error": "too l\\ud83dng"}', "too l?ng"),
    "nothing": (b"", "no words"),
    "nested too deeply": (b"[" * 100_000, "[[["),
}


class TestProvidersWords:
    @pytest.mark.parametrize("name", WORDS)
    def test_words_with_status_and_content_type(self, name: str) -> None:
        body, words = WORDS[name]
        error = error_from_response(400, {"content-type": "text/x"}, body)
        assert error.code == "upstream_bad_request"
        assert error.message.startswith("the provider refused the request (400, text/x): ")
        assert words in error.message
        assert "<" not in error.message

    @pytest.mark.parametrize("name", ["text", "detail", "FastAPI", "message", "vLLM", "errors", "Google", "Anthropic"])
    def test_an_error_with_status_200(self, name: str) -> None:
        body, words = WORDS[name]
        error = error_from_document(json.loads(body), content_type="application/json")
        assert words in error.message
        assert "200, application/json" in error.message

    @pytest.mark.parametrize(
        "document",
        [{"choices": [], "message": "x"}, {"candidates": []}, {"id": "x"}, None, [], "error", {"error": None},
         {"type": "message", "content": [], "message": "x"}, {"error": {}}],
    )  # fmt: skip
    def test_a_document_without_an_error(self, document: object) -> None:
        assert find_error(document) is None

    @pytest.mark.parametrize("status", [401, 403])
    def test_a_key_is_not_repeated(self, status: int) -> None:
        body = b'{"error": {"message": "Incorrect API key: sk-abcdef123456 or sk-ab***56; see the docs"}}'
        message = error_from_response(status, {}, body).message
        assert "sk-" not in message
        assert ("see the docs" in message) == (status == 403)

    @pytest.mark.parametrize("wrap", [lambda error: error, lambda error: [error]])
    def test_googles_response_to_a_wrong_key_stays_with_the_host(self, wrap: Callable[[object], object]) -> None:
        details = [{"reason": "API_KEY_INVALID"}]
        document = wrap({"error": {"message": "API key not valid: AIza-secret", "code": 400, "details": details}})
        error = provider_refusal(NativeResponse(400, {}, json.dumps(document).encode()))
        assert (type(error), error.response) == (UpstreamAuth, None)
        assert "AIza" not in error.message

    @pytest.mark.parametrize(
        "details", [5, "API_KEY_INVALID", {"reason": "API_KEY_INVALID"}, ["API_KEY_INVALID"], None]
    )
    def test_details_of_another_shape_say_nothing_about_the_key(self, details: object) -> None:
        response = NativeResponse(400, {}, json.dumps({"error": {"message": "no", "details": details}}).encode())
        error = provider_refusal(response)
        assert (type(error), error.response) == (UpstreamBadRequest, response)

    def test_a_long_text_is_cut(self) -> None:
        body = json.dumps({"error": {"message": "x" * 1_000_000}}).encode()
        assert len(provider_refusal(NativeResponse(500, {}, body)).message) < 700
        assert len(error_from_response(500, {}, b"x" * 1_000_000).message) < 700

    @pytest.mark.parametrize("page", ["<h1>", "<title", "<", "<head>", "<!--", "<script>", "</h1>"])
    def test_time_for_a_page_is_bounded(self, page: str) -> None:
        start = time.process_time()
        error_from_response(500, {}, page.encode() * 200_000)
        assert time.process_time() - start < 2


class TestRetryAfter:
    @pytest.mark.parametrize("value", ["9" * 400, "1e999", "inf", "1e10", "Fri, 31 Dec 9999 23:59:59 GMT"])
    def test_too_long(self, value: str) -> None:
        expected = None if value == "inf" else MAX_RETRY_AFTER_S
        assert parse_retry_after({"retry-after": value}) == expected

    @pytest.mark.parametrize("value", ["-1", "-1e999", "nan", "+", ".", "1,5", "Mon, 99 Jan 1990 00:00:00 GMT"])
    def test_no_time(self, value: str) -> None:
        assert parse_retry_after({"retry-after": value}) is None
        assert parse_retry_after({"retry-after-ms": value}) is None

    @pytest.mark.parametrize(
        ("value", "seconds"),
        [(1e999, MAX_RETRY_AFTER_S), (10**400, MAX_RETRY_AFTER_S), (-1, 0), (float("nan"), None), (3, 3), (None, None)],
    )
    def test_errors_of_plugins_are_bounded(self, value: float | None, seconds: float | None) -> None:
        """Infinity has no JSON and no header: the response would be a 500."""
        error = UpstreamRateLimited("slow down", retry_after=value)
        assert error.retry_after == seconds
        response = error_response(error, "r")
        assert response.status == 429
        assert int(response.headers["Retry-After"]) <= MAX_RETRY_AFTER_S
        assert isinstance(response.body, bytes)
        assert json.loads(response.body)["error"].get("retry_after") == seconds

    def test_seconds_and_milliseconds(self) -> None:
        assert parse_retry_after({"retry-after": "2"}) == 2
        assert parse_retry_after({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5

    def test_date(self) -> None:
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
        assert parse_retry_after({"retry-after": date}) == pytest.approx(60, abs=2)
        assert parse_retry_after({"retry-after": "Mon, 01 Jan 1990 00:00:00 GMT"}) == 0

    @pytest.mark.parametrize("value", ["", "soon", "-1x", "2 days"])
    def test_invalid(self, value: str) -> None:
        assert parse_retry_after({"retry-after": value}) is None

    def test_missing(self) -> None:
        assert parse_retry_after({}) is None

    @pytest.mark.parametrize("milliseconds", ["", "soon", "-1", "nan", "1,5"])
    def test_invalid_milliseconds_do_not_hide_the_seconds(self, milliseconds: str) -> None:
        assert parse_retry_after({"retry-after-ms": milliseconds, "retry-after": "9"}) == 9


class TestRateLimitReset:
    @pytest.mark.parametrize(
        ("value", "seconds"),
        [
            ("120ms", 0.12),
            ("7.66s", 7.66),
            ("6m0s", 360),
            ("1h2m3.5s", 3_723.5),
            ("0s", 0),
            ("30", 30),
            ("1e999", MAX_RETRY_AFTER_S),
            ("9" * 400 + "h", MAX_RETRY_AFTER_S),
            ("1990-01-01T00:00:00Z", 0),
            ("9999-12-31T23:59:59Z", MAX_RETRY_AFTER_S),
            ("1000000001", 0),
            ("-1", None),
            ("nan", None),
            ("soon", None),
            ("", None),
            ("1990-01-99T00:00:00Z", None),
        ],
    )
    def test_forms(self, value: str, seconds: float | None) -> None:
        for name in ("x-ratelimit-reset-tokens", "anthropic-ratelimit-tokens-reset", "ratelimit-reset"):
            assert seconds_until_reset({name: value}) == (None if seconds is None else pytest.approx(seconds))

    def test_times_since_1970(self) -> None:
        now = time.time()
        assert seconds_until_reset({"x-ratelimit-reset": f"{now + 60:.0f}"}) == pytest.approx(60, abs=5)
        assert seconds_until_reset({"x-ratelimit-reset": f"{(now + 60) * 1000:.0f}"}) == pytest.approx(60, abs=5)

    def test_the_limit_that_is_used_up_counts(self) -> None:
        headers = {"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "20s"}
        assert seconds_until_reset(headers) == 1
        assert seconds_until_reset({**headers, "x-ratelimit-remaining-tokens": "0"}) == 20
        assert seconds_until_reset({**headers, "x-ratelimit-remaining-requests": "0"}) == 1

    def test_a_limit_with_something_left_does_not_count(self) -> None:
        """OpenAI's 429 for tokens has the reset of the requests, 59 of which remain, in 120 ms."""
        headers = {"x-ratelimit-reset-requests": "120ms", "x-ratelimit-remaining-requests": "59"}
        assert seconds_until_reset(headers) is None
        assert seconds_until_reset({**headers, "x-ratelimit-reset-tokens": "20s"}) == 20

    def test_a_long_value_costs_its_length(self) -> None:
        started = time.process_time()
        assert seconds_until_reset({"x-ratelimit-reset": "9" * 100_000 + "x"}) is None
        assert time.process_time() - started < 5

    @pytest.mark.parametrize("body", [b'{"error": {"message": "slow down"}}', b"slow down"])
    def test_only_a_429_without_retry_after_uses_it(self, body: bytes) -> None:
        reset = {"x-ratelimit-reset-tokens": "20s"}
        for status, headers, seconds in (
            (429, reset, 20),
            (429, {**reset, "retry-after": "3"}, 3),
            (429, {**reset, "retry-after": "x"}, 20),
            (500, reset, None),
            (503, reset, None),
        ):
            assert error_from_response(status, headers, body).retry_after == seconds
            assert provider_refusal(NativeResponse(status, headers, body)).retry_after == seconds


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("context_length_exceeded", "This model's maximum context length is 8192 tokens."),
        (None, "prompt is too long: 208310 tokens > 200000 maximum"),
        (None, "The input token count (1048577) exceeds the maximum number of tokens allowed (1048576)."),
        ("exceed_context_size_error", "the request exceeds the available context size"),
        (None, "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000"),
    ],
)
def test_a_chat_that_is_too_long_has_one_code_for_all_providers(code: str | None, message: str) -> None:
    error = from_status(400, message, code=code)
    assert error.code == "context_length_exceeded"
    assert message in error.message
    assert from_status(400, "messages: must not be empty").code == "upstream_bad_request"


def client(library: str, **options: Any) -> tuple[str, dict[str, Any]]:
    return library, options


SDK = SimpleNamespace(DefaultAioHttpClient=partial(client, "aiohttp"), DefaultAsyncHttpxClient=partial(client, "httpx"))


@pytest.mark.parametrize(("proxy", "library"), [("socks5://127.0.0.1:9", "httpx"), ("http://127.0.0.1:9", "aiohttp")])
def test_no_redirects_behind_any_proxy(proxy: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    assert aiohttp_client(SDK, 1.0) == (library, {"timeout": 1.0, "follow_redirects": False})
