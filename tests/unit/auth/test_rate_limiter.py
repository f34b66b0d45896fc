"""Rate limiter: no minute has more requests than allowed, in bounded memory."""

from __future__ import annotations

import tracemalloc
from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from handler_host.auth.minute_window import MINUTE_S
from handler_host.auth.rate_limiter import RateLimiter


class TestCountRequest:
    def test_no_minute_exceeds_the_limit_even_after_a_change(self) -> None:
        limiter = RateLimiter()
        assert [limiter.count_request(3, now) for now in (0.0, 10.0, 20.0)] == [0.0, 0.0, 0.0]
        assert limiter.count_request(3, 30.0) == 30.0
        assert limiter.count_request(3, 60.0) == 0.0
        assert limiter.count_request(3, 61.0) == 9.0
        assert limiter.count_request(4, 61.0) == 0.0
        assert limiter.count_request(4, 62.0) == 8.0
        assert limiter.count_request(2, 62.0) == 58.0
        assert limiter.count_request(2, 120.5) == 0.0

    @given(
        limit=st.integers(1, 20),
        gaps=st.lists(st.floats(0.0, 40.0, allow_subnormal=False), min_size=1, max_size=200),
    )
    def test_agrees_with_a_list_of_times_to_the_second(self, limit: int, gaps: list[float]) -> None:
        limiter, allowed, now = RateLimiter(), deque[float](), 1000.0
        for gap in gaps:
            now += gap
            wait_s = limiter.count_request(limit, now)
            if wait_s == 0.0:
                allowed.append(now)
            within = [at for at in allowed if at > now - MINUTE_S]
            assert len(within) <= limit
            if wait_s:
                # Never refused while a whole second more would still be too few.
                assert sum(at > now - MINUTE_S - 1.0 for at in allowed) >= limit
                assert 0.0 < wait_s <= MINUTE_S

    def test_waiting_as_told_is_enough(self) -> None:
        limiter = RateLimiter()
        for number in range(50):
            assert limiter.count_request(50, number * 0.5) == 0.0
        wait_s = limiter.count_request(50, 25.0)
        assert limiter.count_request(50, 25.0 + wait_s) == 0.0

    def test_memory_does_not_grow_with_the_limit(self) -> None:
        limiter = RateLimiter()
        tracemalloc.start()
        try:
            for number in range(10_000):
                assert limiter.count_request(10_000, number * MINUTE_S / 10_000) == 0.0
            size_bytes, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert size_bytes < 32 * 1024
        assert limiter.count_request(10_000, MINUTE_S - 0.001) > 0.0
