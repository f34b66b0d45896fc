"""Durations and sizes are read as people write them, and shown so that they can be read again."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler_host._internal.units import format_duration, format_size, parse_duration, parse_size


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
def test_a_duration_is_read(written: object, seconds: float) -> None:
    assert parse_duration(written) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "wrong",
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
def test_what_is_no_duration_is_refused_with_the_right_form(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"write it as 30s|0 or more, and finite"):
        parse_duration(wrong)


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
def test_a_size_is_read(written: object, size: int) -> None:
    assert parse_size(written) == size


@pytest.mark.parametrize(
    "wrong",
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
def test_what_is_no_size_is_refused_with_the_right_form(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"write it as 512MB|so many digits"):
        parse_size(wrong)


@given(st.integers(0, 2**50))
def test_a_size_that_is_shown_can_be_read_again(size: int) -> None:
    shown = format_size(size)
    assert parse_size(shown) == pytest.approx(size, rel=0.05)
    assert not shown.startswith("1024"), "the next unit is there for that"


@given(st.floats(0, 10**8))
def test_a_duration_that_is_shown_can_be_read_again(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=0.06, abs=0.0006)


@given(st.integers(1, 10**6), st.sampled_from(["KB", "MB", "GB", "TB"]))
def test_whole_sizes_are_exact(number: int, unit: str) -> None:
    factor = 1024 ** ("KB", "MB", "GB", "TB").index(unit) * 1024
    assert parse_size(f"{number}{unit}") == number * factor


@given(st.integers(0, 30), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_steps_of_a_duration_add_up(days: int, hours: int, minutes: int, seconds: int) -> None:
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    assert parse_duration(f"{days}d{hours}h{minutes}m{seconds}s") == total


@given(st.text() | st.integers() | st.floats() | st.none() | st.binary())
def test_anything_is_either_read_or_refused(value: object) -> None:
    for parse in (parse_duration, parse_size):
        with contextlib.suppress(ValueError):
            assert parse(value) >= 0


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 ms"), (0.25, "250 ms"), (0.9996, "1.0 s"), (4.2, "4.2 s"), (59.97, "1m"), (300, "5m"), (5400, "1h30m")],
)
def test_durations_for_people(seconds: float, shown: str) -> None:
    assert format_duration(seconds) == shown


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KB"),
        (1024**2 - 1, "1.0 MB"),
        (43201331, "41.2 MB"),
        (-2048, "-2.0 KB"),
    ],
)
def test_sizes_for_people(size: int, shown: str) -> None:
    assert format_size(size) == shown
