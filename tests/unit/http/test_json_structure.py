"""The guard at the door counts depth and values as a decoder would, however the body is cut."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler_host.http.json_structure import COUNT_BYTES, MAX_DEPTH, StructureScanner, check_in_steps, check_structure
from handler_host.plugin.errors import BodyTooLarge, InvalidInput

TEXTS = st.text(alphabet='ab"\\[]{},\n☃', max_size=8)
VALUES = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=40,
)


def depth_of(value: Any) -> int:
    """Return the levels of arrays and objects."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if items is None else 1 + max(map(depth_of, items), default=0)


@given(value=VALUES, cuts=st.lists(st.integers(0, 200), max_size=6), extra=st.integers(-3, 3), ascii=st.booleans())
def test_a_document_is_refused_exactly_beyond_the_depth(value: Any, cuts: list[int], extra: int, ascii: bool) -> None:
    """Strings with brackets, quotes and backslashes count for nothing, and cuts may be anywhere."""
    wanted = MAX_DEPTH + extra
    depth = depth_of(value)
    while depth < wanted:
        value, depth = [value, "]"], depth + 1
    body = json.dumps(value, ensure_ascii=ascii).encode()
    bounds = sorted({0, *(cut for cut in cuts if cut < len(body)), len(body)})
    scanner = StructureScanner()
    refused = False
    try:
        for start, end in itertools.pairwise(bounds):
            scanner.feed(body[start:end])
    except InvalidInput:
        refused = True
    assert refused == (depth > MAX_DEPTH)


def test_brackets_of_a_long_text_are_counted_in_parts() -> None:
    text = b'"' + b"[" * MAX_DEPTH + b"a" * 3 * COUNT_BYTES + b'"'
    assert len(list(check_in_steps(text))) == 3
    with pytest.raises(InvalidInput):
        check_structure(text + b"[" * (MAX_DEPTH + 1))


def test_many_levels_one_after_the_other_are_no_depth() -> None:
    """Only levels inside of each other count."""
    check_structure(json.dumps([[[]]] * 10_000).encode())


@pytest.mark.parametrize("body", [b"[" * 1_000_000, b'{"a":' * 200_000, b'["\\"[",' * 200_000])
def test_a_deep_document_is_refused(body: bytes) -> None:
    """Documents that never close are refused as well."""
    with pytest.raises(InvalidInput, match="nested too deeply; JSON may have 128 levels"):
        check_structure(body)


def test_document_of_too_many_values_is_refused() -> None:
    """Text with commas does not count."""
    check_structure(json.dumps([",,,,,"] * 1000).encode(), max_values=1000)
    with pytest.raises(BodyTooLarge, match="more than 1000 values"):
        check_structure(json.dumps([",,,,,"] * 1001).encode(), max_values=1000)
