"""The place of an error has a JSON, whatever kind of text it is."""

from __future__ import annotations

import msgspec
from multidict import istr

from handler_host.plugin.errors import InvalidInput


def test_header_as_param_can_be_encoded() -> None:
    """The name of a header is an istr, which msgspec refuses: the 400 was a 500."""
    error = InvalidInput("X-Unsupported-Fields: wrong", param=istr("X-Unsupported-Fields"))
    assert msgspec.json.encode(error.param) == b'"X-Unsupported-Fields"'
    assert msgspec.json.encode(error.copy().param) == b'"X-Unsupported-Fields"'
