"""Whole responses of native operations: only those that were cut off are refused."""

from __future__ import annotations

import pytest

from handler_host.plugin import UpstreamError
from handler_host.workers.runtime.native_calls import whole_body


@pytest.mark.parametrize("body", [b"", b"{}", b'{"a": NaN}', b'{"a": "\xff"}', b"{} x", b"[" * 5000 + b"]" * 5000])
def test_other_flaws_are_left_to_the_client(body: bytes) -> None:
    assert whole_body([body[:1], body[1:]]) == body


@pytest.mark.parametrize("body", [b"{", b'{"a": ', b'{"a": "b', b"[1, 2"])
def test_a_body_that_is_cut_off_is_an_error(body: bytes) -> None:
    with pytest.raises(UpstreamError, match=f"was cut off after {len(body)} bytes"):
        whole_body([body])
