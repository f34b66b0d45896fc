"""gpt_b: the real Anthropic SDK in a real worker, over real HTTP, against a provider on loopback."""

from __future__ import annotations

from host.testing import ChatConformance

KEY = "sk-ant-a-very-secret-key"


class TestConformance(ChatConformance):
    handler = "gpt_b"
    protocol = "anthropic"
    settings = {"retries": 0}
    secrets = {"ANTHROPIC_API_KEY": KEY}
    refuses = frozenset({"seed", "presence_penalty", "frequency_penalty"})
