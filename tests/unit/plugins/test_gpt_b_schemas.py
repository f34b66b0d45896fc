"""Spelling of JSON Schemas for the SDK of gpt_b."""

from __future__ import annotations

from typing import Any

import pytest

from gpt_b.schemas import respell

NULLABLE = {"type": ["string", "null"]}
SPELLED = {"anyOf": [{"type": "string"}, {"type": "null"}]}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"additionalProperties": NULLABLE}, {"additionalProperties": SPELLED}),
        ({"prefixItems": [NULLABLE]}, {"prefixItems": [SPELLED]}),
        ({"not": NULLABLE}, {"not": SPELLED}),
        ({"$defs": {"a": NULLABLE}, "definitions": {"b": NULLABLE}}, {"$defs": {"a": SPELLED, "b": SPELLED}}),
        ({"additionalProperties": False}, {"additionalProperties": False}),
    ],
)
def test_subschemas(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    assert respell({"type": "object", **schema}) == {"type": "object", **expected}
