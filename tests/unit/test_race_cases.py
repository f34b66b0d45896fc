"""Each of the race and fault cases has a test that is named after it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
CASES = 45
"""As many are listed in docs/explanation/faults.md."""


def named() -> dict[int, list[str]]:
    """Return the tests of each case: ``test_case_8_and_9_…`` is one of both."""
    found: dict[int, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for name, numbers in re.findall(r"def (test_case_((?:\d+_(?:and_)?)+)\w+)", path.read_text(encoding="utf-8")):
            for number in re.findall(r"\d+(?=_)", numbers):
                found.setdefault(int(number), []).append(name)
    return found


NAMED = named()


@pytest.mark.parametrize("case", range(1, CASES + 1))
def test_the_case_has_a_test(case: int) -> None:
    assert NAMED.get(case), f"no test begins with test_case_{case}_"


def test_no_test_is_of_a_case_that_is_not_listed() -> None:
    assert set(NAMED) <= set(range(1, CASES + 1))
