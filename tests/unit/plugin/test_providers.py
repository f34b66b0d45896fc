"""Helpers of handlers that call a provider: errors by status, ``Retry-After``, retries."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler_host.plugin.errors import (
    InvalidInput,
    UpstreamAuth,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRateLimited,
)
from handler_host.plugin.provider_errors import from_status, parse_retry_after
from handler_host.plugin.retry import Retries, retry_stream
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


class TestRetryAfter:
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
