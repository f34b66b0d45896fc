"""Libraries: the script of each, and the handlers that it runs against."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

OPENAI = ("gpt_a", "gpt_b", "gpt_c")
ANTHROPIC = ("gpt_b", "gpt_a", "gpt_c")
GEMINI = ("gpt_c", "gpt_a", "gpt_b")


@dataclass(frozen=True)
class Library:
    """A library whose script runs with the URL of the host and a handler, and prints the result of each column."""

    name: str
    package: str
    """The npm package, or `pypi:NAME`; of several, joined by `+`, each version is shown."""
    script: str
    handlers: tuple[str, ...]
    """The first speaks the library's own protocol."""
    arguments: tuple[str, ...] = ()
    """Further arguments of the script."""
    environment: str = ""
    """Below `.venv-clients`, for a library whose requirements conflict with those of the others."""


def _vercel(major: int, provider: str, handlers: tuple[str, ...]) -> Library:
    """Return a provider of Vercel's `ai`; `ai` 7 and the providers of version 6 are installed under other names."""
    package = provider.partition(".")[0]
    packages = f"ai+ai6-{package}" if major == 6 else f"ai7+@ai-sdk/{package}"
    return Library(f"ai {major}, {provider}", packages, "node/vercel_ai.mjs", handlers, (str(major), provider))


PAIRS = {
    "openai": ("OpenAI", ("gpt_a", "gpt_b")),
    "anthropic": ("Anthropic", ("gpt_b", "gpt_a")),
    "gemini": ("Gemini", ("gpt_c", "gpt_b")),
    "ollama": ("Ollama", ("gpt_a", "gpt_b")),
}
"""The name of each protocol, its native pair and a cross pair; Ollama's is translated on every handler."""


def several(
    name: str, package: str, script: str, protocols: tuple[str, ...] = tuple(PAIRS), environment: str = ""
) -> Iterator[Library]:
    """Yield an entry for each protocol of a library."""
    for protocol in protocols:
        title, handlers = PAIRS[protocol]
        yield Library(f"{name}, {title}", package, script, handlers, (protocol,), environment)


LIBRARIES = [
    Library("openai, chat completions (Python)", "pypi:openai", "openai_chat.py", OPENAI),
    Library("openai, responses (Python)", "pypi:openai", "openai_responses.py", OPENAI),
    Library("anthropic (Python)", "pypi:anthropic", "anthropic_messages.py", ANTHROPIC),
    Library("google-genai (Python)", "pypi:google_genai", "google_genai.py", GEMINI),
    Library("LangChain, OpenAI (Python)", "pypi:langchain_openai", "lc_openai.py", ("gpt_a", "gpt_b")),
    Library("LangChain, Anthropic (Python)", "pypi:langchain_anthropic", "lc_anthropic.py", ("gpt_b", "gpt_a")),
    Library("LangChain, Google (Python)", "pypi:langchain_google_genai", "lc_google.py", ("gpt_c", "gpt_b")),
    Library("LangChain, Ollama (Python)", "pypi:langchain_ollama", "lc_ollama.py", ("gpt_a", "gpt_b")),
    Library("ollama (Python)", "pypi:ollama", "ollama_chat.py", ("gpt_a", "gpt_b")),
    Library(
        "pydantic-ai", "pypi:pydantic_ai_slim", "pydanticai.py", ("gpt_a", "gpt_b", "gpt_c"), environment="pydantic-ai"
    ),
    Library("openai-agents (Python)", "pypi:openai_agents", "agents_sdk.py", ("gpt_a", "gpt_b")),
    Library(
        "instructor", "pypi:instructor", "instructor_modes.py", ("gpt_a", "gpt_b", "gpt_c"), environment="instructor"
    ),
    Library("openai, chat completions (npm)", "openai", "node/openai_chat.mjs", OPENAI),
    Library("openai, responses (npm)", "openai", "node/openai_responses.mjs", OPENAI),
    Library("anthropic (npm)", "@anthropic-ai/sdk", "node/anthropic_messages.mjs", ANTHROPIC),
    Library("google-genai (npm)", "@google/genai", "node/google_genai.mjs", GEMINI),
    Library("ollama (npm)", "ollama", "node/ollama_chat.mjs", OPENAI),
    Library("LangChain, OpenAI (npm)", "@langchain/openai", "node/lc_openai.mjs", OPENAI),
    Library("LangChain, Anthropic (npm)", "@langchain/anthropic", "node/lc_anthropic.mjs", ANTHROPIC),
    Library("LangChain, Google (npm)", "@langchain/google", "node/lc_google.mjs", GEMINI),
    Library("LangChain, Google GenAI (npm)", "@langchain/google-genai", "node/lc_google_genai.mjs", GEMINI),
    Library("LangChain, Ollama (npm)", "@langchain/ollama", "node/lc_ollama.mjs", OPENAI),
    *(
        _vercel(major, provider, handlers)
        for major in (7, 6)
        for provider, handlers in (
            ("openai", OPENAI),
            ("openai.chat", OPENAI),
            ("openai-compatible", OPENAI),
            ("anthropic", ANTHROPIC),
            ("google", GEMINI),
        )
    ),
    *several("LiteLLM", "pypi:litellm", "litellm_sdk.py"),
    *several("smolagents", "pypi:smolagents", "smolagents_checks.py", ("openai", "anthropic")),
    *several("DSPy", "pypi:dspy", "dspy_checks.py", ("openai", "anthropic")),
    *several("Haystack", "pypi:haystack_ai", "haystack_checks.py"),
    *several("AutoGen", "pypi:autogen_ext", "autogen_checks.py", ("openai", "anthropic", "ollama"), "llama-index"),
    *several("LlamaIndex", "pypi:llama_index_core", "llama_index_checks.py", environment="llama-index"),
    *several("Strands", "pypi:strands_agents", "strands_checks.py", environment="llama-index"),
    *several("CrewAI", "pypi:crewai", "crewai_checks.py", ("openai", "anthropic", "gemini"), environment="crewai"),
    *several("Semantic Kernel", "pypi:semantic_kernel", "semantic_kernel_checks.py", environment="crewai"),
]
