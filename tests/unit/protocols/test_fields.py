"""Fields that a chat request has no place for: the tables, and the treatment of fields."""

from __future__ import annotations

from pathlib import Path

import pytest

from handler_host.plugin.errors import InvalidInput
from handler_host.protocols import reference
from handler_host.protocols.fields import IgnoredFields, demand, hint
from handler_host.protocols.openai.requests import decode_request

PAGE = Path(__file__).parents[3] / "docs/reference/unsupported-fields.md"
REQUEST = b'{"model": "gpt_a", "messages": [{"role": "user", "content": "hi"}], '


def test_the_page_has_the_tables_of_the_code() -> None:
    text = PAGE.read_text()
    assert reference.page(text) == text, "run `make reference`"


@pytest.mark.parametrize(
    ("mode", "kind", "is_refused"),
    [
        ("refuse", "hint", True),
        ("refuse", "demand", True),
        ("ignore-hints", "hint", False),
        ("ignore-hints", "demand", True),
        ("ignore", "hint", False),
        ("ignore", "demand", False),
    ],
)
def test_the_mode_decides(mode: str, kind: str, is_refused: bool) -> None:
    ignored = IgnoredFields(mode)  # type: ignore[arg-type]
    field = hint() if kind == "hint" else demand()
    if is_refused:
        with pytest.raises(InvalidInput) as raised:
            ignored.leave_out(field, "a[].b", "a[1].b")
        assert raised.value.param == "a[1].b"
    else:
        ignored.leave_out(field, "a[].b", "a[1].b")
        ignored.leave_out(field, "a[].b", "a[2].b")
        assert ignored.names == ["a[].b"]


@pytest.mark.parametrize(
    ("field", "names"),
    [
        (b'"thread": {"id": "x"}', ["thread"]),
        (b'"thread": null', []),
        (b'"store": false', []),
        (b'"store": true', ["store"]),
        (b'"n": 1', []),
        (b'"web_search_options": {}', ["web_search_options"]),
        (b'"tools": [{"type": "web_search"}]', ["tools[].web_search"]),
        (b'"tools": [{"type": "function", "function": {"name": "f", "new": 1}}]', ["tools[].function.new"]),
    ],
)
def test_a_field_without_a_place_is_left_out_and_named(field: bytes, names: list[str]) -> None:
    ignored = IgnoredFields()
    decode_request(REQUEST + field + b"}", ignored)
    assert ignored.names == names


def test_the_indices_of_other_tools_stay() -> None:
    ignored = IgnoredFields()
    tools = b'"tools": [{"type": "web_search"}, {"type": "function", "function": {"name": "f"}}]}'
    translated = decode_request(REQUEST + tools, ignored).to_chat(ignored)
    assert translated.tools == ["tools[1]"]


def test_in_the_mode_ignore_a_demand_is_named() -> None:
    ignored = IgnoredFields("ignore")
    decode_request(REQUEST + b'"functions": [{}]}', ignored)
    assert ignored.names == ["functions"]
