"""Counters, histograms and the latency window of the last dispatches."""

from __future__ import annotations

import pytest

from handler_host.telemetry.counters import BOUNDS, WINDOW, Counters, Dispatch, Histogram, LatencyWindow


class TestHistogram:
    def test_counts_each_duration_in_one_bucket(self) -> None:
        histogram = Histogram()
        for seconds in (0.0, BOUNDS[0], BOUNDS[0] + 1e-9, BOUNDS[-1], BOUNDS[-1] + 1):
            histogram.observe(seconds)
        assert (histogram.counts[0], histogram.counts[1], histogram.counts[-2], histogram.counts[-1]) == (2, 1, 1, 1)
        assert sum(histogram.counts) == 5


class TestLatencyWindow:
    def test_covers_only_the_last_dispatches(self) -> None:
        window = LatencyWindow()
        assert (window.quantile(0.5), window.error_rate()) == (None, None)
        for _ in range(WINDOW):
            window.add(100.0, failed=True)
        for number in range(WINDOW):
            window.add(float(number), failed=number % 4 == 0)
        assert window.quantile(0.5) == WINDOW / 2
        assert window.quantile(0.99) == WINDOW - 3
        assert window.error_rate() == 0.25


class TestCounters:
    @pytest.mark.parametrize(
        ("result", "rate"),
        [
            ("ok", 0.0),
            ("cancelled", 0.0),
            ("invalid_input", 0.0),
            ("queue_full", 1.0),
            ("handler_error", 1.0),
            ("?", 1.0),
        ],
    )
    def test_errors_of_the_client_are_not_failures(self, result: str, rate: float) -> None:
        counters = Counters()
        counters.count_dispatch(
            Dispatch("a", "chat", result, queue=0.0, activate=0.0, handle=0.1, first_chunk=None, consumer="team")
        )
        assert counters.for_handler("a").window.error_rate() == rate
        assert counters.by_consumer == {("team", "a", result): 1}
