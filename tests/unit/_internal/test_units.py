"""Durations and sizes: parsed from the notation of the configuration, and formatted so that they parse again."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler_host._internal.units import format_duration, format_size, parse_duration, parse_size


class TestDuration:
    @pytest.mark.parametrize(
        ("written", "seconds"),
        [
            ("120s", 120),
            ("5m", 300),
            ("1h30m", 5400),
            ("1h 30m", 5400),
            ("250ms", 0.25),
            ("1.5h", 5400),
            ("1d", 86400),
            ("30", 30),
            (" 30s ", 30),
            (0, 0),
            (2.5, 2.5),
        ],
    )
    def test_parse(self, written: object, seconds: float) -> None:
        assert parse_duration(written) == pytest.approx(seconds)

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "s",
            "5 minutes",
            "-5s",
            "1,5s",
            "5mm",
            "never",
            "٣s",
            "nan",
            "1e3s",
            True,
            None,
            [],
            {},
            -1,
            math.nan,
            math.inf,
            "9" * 400,
            10**400,
            "9" * 400 + "h",
        ],
        ids=lambda value: repr(value)[:20],
    )
    def test_invalid(self, value: object) -> None:
        with pytest.raises(ValueError, match=r"write it as 30s|a finite number of 0 or more"):
            parse_duration(value)

    @given(st.floats(0, 10**8))
    def test_formatted_text_parses(self, seconds: float) -> None:
        assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=0.06, abs=0.0006)

    @given(st.integers(0, 30), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
    def test_steps_add_up(self, days: int, hours: int, minutes: int, seconds: int) -> None:
        total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        assert parse_duration(f"{days}d{hours}h{minutes}m{seconds}s") == total

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(0, "0 ms"), (0.25, "250 ms"), (0.9996, "1.0 s"), (4.2, "4.2 s"), (59.97, "1m"), (300, "5m"), (5400, "1h30m")],
    )
    def test_format(self, seconds: float, text: str) -> None:
        assert format_duration(seconds) == text


class TestSize:
    @pytest.mark.parametrize(
        ("written", "size"),
        [
            ("4MB", 4 * 1024**2),
            ("512MiB", 512 * 1024**2),
            ("16 kb", 16 * 1024),
            ("1.5G", 1536 * 1024**2),
            ("2TB", 2 * 1024**4),
            ("100", 100),
            ("100B", 100),
            (0, 0),
            (4096, 4096),
            (str(2**62 + 1), 2**62 + 1),
        ],
    )
    def test_parse(self, written: object, size: int) -> None:
        assert parse_size(written) == size

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "MB",
            "4XB",
            "4 M B",
            "-4MB",
            "12i",
            "10%",
            "٣MB",
            True,
            None,
            [],
            -1,
            1.5,
            math.nan,
            "9" * 5000,
            "9" * 400 + ".5MB",
        ],
        ids=lambda value: repr(value)[:20],
    )
    def test_invalid(self, value: object) -> None:
        with pytest.raises(ValueError, match=r"write it as 512MB|size is too large"):
            parse_size(value)

    @given(st.integers(0, 2**50 - 2**40))
    def test_formatted_text_parses(self, size: int) -> None:
        text = format_size(size)
        assert parse_size(text) == pytest.approx(size, rel=0.05)
        assert not text.startswith("1024"), "the next unit is the right one"

    @given(st.integers(1, 10**6), st.sampled_from(["KB", "MB", "GB", "TB"]))
    def test_whole_sizes_are_exact(self, number: int, unit: str) -> None:
        factor = 1024 ** ("KB", "MB", "GB", "TB").index(unit) * 1024
        assert parse_size(f"{number}{unit}") == number * factor

    @pytest.mark.parametrize(
        ("size", "text"),
        [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KB"),
            (1024**2 - 1, "1.0 MB"),
            (43201331, "41.2 MB"),
            (-2048, "-2.0 KB"),
        ],
    )
    def test_format(self, size: int, text: str) -> None:
        assert format_size(size) == text


@given(st.text() | st.integers() | st.floats() | st.none() | st.binary())
def test_any_value_is_parsed_or_raises_value_error(value: object) -> None:
    for parse in (parse_duration, parse_size):
        with contextlib.suppress(ValueError):
            assert parse(value) >= 0
