"""What handlers on a provider's SDK share: the meaning of a status, the provider's patience, the one retry loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
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
from handler_host.plugin.provider_errors import from_status, retry_after_of
from handler_host.plugin.retry import Retries, retried
from tests.support import error_of

AT_ONCE = Retries(times=2, first_wait=0.0)


def attempts(*outcomes: object) -> Callable[[], AsyncIterator[str]]:
    """Make attempts that yield texts, and raise errors, in their order; each outcome is one attempt's list."""
    rest = list(outcomes)

    async def attempt() -> AsyncIterator[str]:
        for item in rest.pop(0):  # type: ignore[attr-defined]
            if isinstance(item, Exception):
                raise item
            yield item

    return attempt


async def said(attempt: Callable[[], AsyncIterator[str]], retries: Retries = AT_ONCE, **more: float) -> list[str]:
    return [chunk async for chunk in retried(attempt, retries, **more)]


async def test_a_failure_before_the_first_piece_is_tried_again() -> None:
    busy = UpstreamOverloaded("busy")
    assert await said(attempts([busy], [busy], ["a", "b"])) == ["a", "b"]


async def test_the_number_of_attempts_is_bounded() -> None:
    error = await error_of(said(attempts(*[[UpstreamOverloaded("busy")]] * 3)))
    assert isinstance(error, UpstreamOverloaded)


async def test_nothing_is_tried_again_after_the_first_piece() -> None:
    seen: list[str] = []

    async def read() -> None:
        async for chunk in retried(attempts(["a", UpstreamError("cut")], ["never"]), AT_ONCE):
            seen.append(chunk)

    assert isinstance(await error_of(read()), UpstreamError)
    assert seen == ["a"]


@pytest.mark.parametrize("error", [UpstreamAuth("wrong key"), InvalidInput("no")])
async def test_what_cannot_pass_is_not_tried_again(error: Exception) -> None:
    assert type(await error_of(said(attempts([error], ["never"])))) is type(error)


async def test_more_patience_than_allowed_or_left_is_told_to_the_client_at_once() -> None:
    limited = UpstreamRateLimited("slow down", retry_after=3600.0)
    assert (await error_of(said(attempts([limited], ["never"])))).retry_after == 3600
    soon = UpstreamRateLimited("slow down", retry_after=5.0)
    ended = await error_of(said(attempts([soon], ["never"]), deadline=time.monotonic() + 1))
    assert ended.retry_after == 5.0


async def test_a_cancelled_wait_is_cancelled() -> None:
    waiting = asyncio.ensure_future(said(attempts([UpstreamRateLimited("x", retry_after=10.0)], ["never"])))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()


@given(st.integers(0, 60), st.none() | st.floats(0, 1e9))
def test_waits_are_bounded_and_a_providers_patience_is_kept_exactly(attempt: int, retry_after: float | None) -> None:
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
def test_a_providers_status_has_one_meaning(status: int, code: str) -> None:
    assert from_status(status, "text").code == code


def test_retry_after_is_read_in_all_its_forms_and_garbage_is_none() -> None:
    assert retry_after_of({"retry-after": "2"}) == 2
    assert retry_after_of({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert retry_after_of({"retry-after": date}) == pytest.approx(60, abs=2)
    assert retry_after_of({"retry-after": "Mon, 01 Jan 1990 00:00:00 GMT"}) == 0
    for garbage in ("", "soon", "-1x", "2 days"):
        assert retry_after_of({"retry-after": garbage}) is None
    assert retry_after_of({}) is None
