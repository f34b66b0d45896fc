"""Libraries: the script of each, and the handlers that it runs against."""

from __future__ import annotations

from dataclasses import dataclass

OPENAI = ("gpt_a", "gpt_b", "gpt_c")
ANTHROPIC = ("gpt_b", "gpt_a", "gpt_c")
GEMINI = ("gpt_c", "gpt_a", "gpt_b")


@dataclass(frozen=True)
class Library:
    """A library whose script runs with the URL of the host and a handler, and prints the result of each column."""

    name: str
    package: str
    """The npm package, or `pypi:NAME`."""
    script: str
    handlers: tuple[str, ...]
    """The first speaks the library's own protocol."""


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
    Library("pydantic-ai", "pypi:pydantic_ai_slim", "pydanticai.py", ("gpt_a", "gpt_b", "gpt_c")),
    Library("openai-agents (Python)", "pypi:openai_agents", "agents_sdk.py", ("gpt_a", "gpt_b")),
    Library("instructor", "pypi:instructor", "instructor_modes.py", ("gpt_a", "gpt_b", "gpt_c")),
]
