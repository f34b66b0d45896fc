"""The failure ring: bounded, found by request ID, without secrets and prompts."""

from __future__ import annotations

import json
from typing import Any

from handler_host._internal.log import register_secrets
from handler_host.plugin.errors import QueueFull, UpstreamError
from handler_host.telemetry.failures import FailureRecord, FailureRing, describe_failure, without_echo

PROMPT = "Write a poem about my secret project Bluebird, which nobody knows"
BODY = json.dumps({"messages": [{"role": "user", "content": PROMPT}]}).encode()


def record(request_id: str, code: str, handler: str | None = "gpt_a") -> FailureRecord:
    return FailureRecord(
        request_id=request_id,
        at="2026-01-01T00:00:00.000Z",
        client="127.0.0.1",
        method="POST",
        route="/v1/chat/completions",
        protocol="openai",
        consumer=None,
        handler=handler,
        model=None,
        status=502,
        code=code,
        message="it failed",
        cause=None,
        attempts=[],
        queue_s=None,
        activate_s=None,
        first_chunk_s=None,
        total_s=0.1,
    )


def ids(ring: FailureRing, limit: int = 100, handler: str | None = None) -> list[str]:
    return [json.loads(bytes(raw))["request_id"] for raw in ring.last(limit, handler)]


def test_the_ring_is_bounded_and_refusals_displace_no_failures() -> None:
    ring = FailureRing(3)
    ring.add(record("failed", "upstream_error"))
    for number in range(10):
        ring.add(record(f"refused-{number}", "invalid_key", None))
    assert ids(ring) == ["refused-9", "refused-8", "refused-7", "failed"]
    assert ids(ring, limit=2) == ["refused-9", "refused-8"]
    assert ids(ring, handler="gpt_a") == ["failed"]
    assert len(ring) == 4


def test_an_id_that_was_used_twice_has_both_records_newest_first() -> None:
    ring = FailureRing()
    ring.add(record("same", "invalid_input"))
    ring.add(record("same", "upstream_error"))
    assert [json.loads(bytes(raw))["code"] for raw in ring.find("same")] == ["upstream_error", "invalid_input"]
    assert ring.find("unknown") == []


def test_the_providers_words_stay_but_parts_of_the_prompt_do_not() -> None:
    words = f"the provider refused the request (400): content {PROMPT} is against the rules"
    masked = without_echo(words, BODY)
    mark = f"<{len(PROMPT)} characters of the request>"
    assert masked == f"the provider refused the request (400): content {mark} is against the rules"
    assert "Bluebird" not in masked


def test_long_quotations_are_left_out_of_any_request() -> None:
    assert (
        without_echo(f"bad value {PROMPT!r}; use another", b"")
        == f"bad value '<{len(PROMPT)} characters>'; use another"
    )
    assert without_echo("messages[0].role: invalid value 'usr'", b"") == "messages[0].role: invalid value 'usr'"
    assert without_echo("invalid value 'usr'", b"x" * 300_000) == "invalid value '<3 characters>'"


def test_a_long_message_costs_no_more_than_its_start() -> None:
    body = bytes(range(32, 127)) * 2600
    counted = 0

    class Body(bytes):
        def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
            return Text(super().decode(encoding, errors))

    class Text(str):
        __slots__ = ()

        def find(self, *arguments: Any) -> int:
            nonlocal counted
            counted += 1
            return super().find(*arguments)

    message = without_echo("é" * 1_000_000, Body(body))
    assert message == "é" * 600
    assert counted == 50


def test_secrets_are_masked_in_message_and_cause() -> None:
    register_secrets(["sk-very-secret-1"])
    failure = describe_failure(UpstreamError("no sk-very-secret-1", cause="at http://sk-very-secret-1/"), "gpt_a")
    assert failure == ("upstream_error", 502, "no ***", "at http://***/", "gpt_a")


def test_the_cause_is_no_part_of_what_copies_lose() -> None:
    error = QueueFull("full", cause="why")
    assert error.copy().cause == "why"
