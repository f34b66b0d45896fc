"""Sessions whose earlier turns another handler answered: after a fallback, or when the user changes the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from handler_host.testing import HostUnderTest, Upstream, host_under_test


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[HostUnderTest, Upstream]]:
    with Upstream().run() as upstream:
        config = f'[handlers.gpt_b]\nbase_url = "{upstream.url}"\nretries = 0\n'
        with host_under_test(config) as host:
            yield host, upstream


@pytest.mark.parametrize(
    ("signature", "is_passed"),
    [("EqMBCkYIB", True), ("hh1:s:gemini:c2ln", False), ("hh1:s::", False)],
    ids=["own", "signed elsewhere", "unsigned elsewhere"],
)
def test_a_provider_gets_no_reasoning_of_another_one(
    served: tuple[HostUnderTest, Upstream], signature: str, is_passed: bool
) -> None:
    """Anthropic refuses a signature that is not its own, and with it every later turn of the session."""
    host, upstream = served
    upstream.reset()
    thinking = {"type": "thinking", "thinking": "I look first.", "signature": signature}
    call = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "a cat"}
    body: dict[str, Any] = {
        "model": "gpt_b/claude-opus-4-8",
        "max_tokens": 2000,
        "thinking": {"type": "adaptive"},
        "tools": [{"name": "look", "input_schema": {"type": "object"}}],
        "messages": [
            {"role": "user", "content": "look"},
            {"role": "assistant", "content": [thinking, call]},
            {"role": "user", "content": [result]},
        ],
    }
    status, response = host.request("POST", "/v1/messages", body)
    assert status == 200, response
    sent = upstream.last_request.body["messages"][1]["content"]
    assert [block["type"] for block in sent] == (["thinking", "tool_use"] if is_passed else ["tool_use"])
