"""gpt_c: the real SDKs of Google in real workers, over real HTTP, against a provider on loopback."""

from __future__ import annotations

from host.testing import ChatConformance

KEY = "AIza-a-very-secret-key"


class TestGoogleGenerativeAi(ChatConformance):
    """The SDK whose support has ended."""

    handler = "gpt_c"
    protocol = "gemini"
    secrets = {"GEMINI_API_KEY": KEY}
    refuses = frozenset({"seed", "parallel_tool_calls"})
    ignores = frozenset({"user"})


class TestGoogleGenAi(ChatConformance):
    """Its successor."""

    handler = "gpt_c"
    protocol = "gemini"
    secrets = {"GOOGLE_API_KEY": KEY}
    settings = {"sdk": "google-genai"}
    refuses = frozenset({"parallel_tool_calls"})
    ignores = frozenset({"user"})
