"""Bodies of gpt_a's requests."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gpt_a.counting import count_body
from gpt_a.requests import request_body
from handler_host.chat import ChatRequest, ReasoningOptions


def request(message: dict[str, Any]) -> ChatRequest:
    return msgspec.convert({"messages": [message]}, ChatRequest)


@pytest.mark.parametrize("is_openai", [True, False])
def test_signatures_of_gemini_reach_compatible_servers_only(is_openai: bool) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}, "signature": "c2ln"}
    body = request_body(request({"role": "assistant", "tool_calls": [call]}), "m", is_openai=is_openai).content
    assert ("extra_content" in body["messages"][0]["tool_calls"][0]) is not is_openai


@pytest.mark.parametrize(
    ("url", "field"), [("https://example.com/a.pdf", "file_url"), ("data:application/pdf;base64,AAAA", "file_data")]
)
def test_documents_are_counted_by_data_or_url(url: str, field: str) -> None:
    body = count_body(request({"role": "user", "content": [{"type": "file", "file": {"url": url}}]}), "m")
    assert body["input"][0]["content"][0][field] == url


@pytest.mark.parametrize(("budget", "effort"), [(0, None), (-1, None), (2048, "low"), (2049, "medium"), (9**5, "high")])
def test_the_effort_of_a_budget(budget: int, effort: str | None) -> None:
    """None for a budget of 0: LiteLLM refuses the effort ``none`` for models that always reason."""
    assert ReasoningOptions(budget_tokens=budget).effort_or_budget == effort
