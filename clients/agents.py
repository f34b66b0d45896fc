"""Coding agents: how each is configured for the host, and started with a prompt."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

KEY = "a-consumer-key-of-some-length"
"""The host takes any key in these runs; a real one is in its place."""

GPT_PAIRS = {"gpt_a": '"gpt-*" = "gpt_a"', "gpt_b": '"gpt-*" = "gpt_b/{default}"'}
"""Of the agents that speak OpenAI's protocols and ask for a model `gpt-…`."""


@dataclass(frozen=True)
class Agent:
    """An agent that works in a directory; the functions get the URL of the host."""

    name: str
    package: str
    """The npm package, or `pypi:NAME`."""
    command: Callable[[str, str, list[Path]], list[str]]
    """Prompt, URL and attached files → command line."""
    pairs: Mapping[str, str]
    """Handler → lines of the host's `[models]`. The first is the agent's own protocol."""
    environ: Callable[[str], Mapping[str, str]] = lambda _: {}
    files: Callable[[str], Mapping[str, str]] = lambda _: {}
    """Settings files by their path below the home directory."""
    can_attach: bool = False
    """Whether images and documents are attached; otherwise the agent's own tool reads them."""
    lacks: frozenset[str] = field(default_factory=frozenset)
    """Columns that the agent itself has not."""
    environment: str = ""
    """Below `.venv-clients`, for an agent whose requirements conflict with those of the others."""


def _json(**settings: object) -> str:
    return json.dumps(settings, indent=2)


def _claude(prompt: str, url: str, attached: list[Path]) -> list[str]:
    permitted = ["--permission-mode", "acceptEdits", "--allowedTools", "Read,Write,Bash"]
    return ["claude", "-p", prompt, "--output-format", "json", *permitted]


def _codex(prompt: str, url: str, attached: list[Path]) -> list[str]:
    options = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "--json"]
    return ["codex", "exec", *options, prompt]


def _codex_settings(url: str) -> str:
    return f"""model_provider = "host"
[model_providers.host]
name = "handler-host"
base_url = "{url}/v1"
env_key = "HOST_KEY"
wire_api = "responses"
"""


def _gemini(prompt: str, url: str, attached: list[Path]) -> list[str]:
    return ["gemini", "-p", " ".join([prompt, *(f"@{path.name}" for path in attached)]), "-y", "-o", "json"]


def _opencode(model: str) -> Callable[[str, str, list[Path]], list[str]]:
    def command(prompt: str, url: str, attached: list[Path]) -> list[str]:
        files = [argument for path in attached for argument in ("-f", str(path))]
        return ["opencode", "run", prompt, "-m", model, "--auto", "--format", "json", *files]

    return command


def _opencode_settings(url: str) -> Mapping[str, str]:
    addresses = {"anthropic": f"{url}/v1", "openai": f"{url}/v1", "google": f"{url}/v1beta"}
    providers = {name: {"options": {"baseURL": base, "apiKey": KEY}} for name, base in addresses.items()}
    return {".config/opencode/opencode.json": _json(provider=providers, autoupdate=False, share="disabled")}


def _opencode_environ(url: str) -> Mapping[str, str]:
    names = ("MODELS_FETCH", "AUTOUPDATE", "LSP_DOWNLOAD", "SHARE")
    return {f"OPENCODE_DISABLE_{name}": "true" for name in names}


def _pi(prompt: str, url: str, attached: list[Path]) -> list[str]:
    return ["pi", "-p", "--provider", "host", "--model", "gpt-5", *(f"@{path}" for path in attached), prompt]


def _pi_settings(url: str) -> Mapping[str, str]:
    model = {"id": "gpt-5", "reasoning": True, "input": ["text", "image"], "contextWindow": 400000, "maxTokens": 8192}
    provider = {"baseUrl": f"{url}/v1", "api": "openai-completions", "apiKey": KEY, "models": [model]}
    return {".pi/agent/models.json": _json(providers={"host": provider})}


def _qwen(prompt: str, url: str, attached: list[Path]) -> list[str]:
    text = " ".join([prompt, *(f"@{path.name}" for path in attached)])
    return ["qwen", "-p", text, "-y", "-o", "json", "--auth-type", "openai", "--model", "gpt-5"]


def _cline(prompt: str, url: str, attached: list[Path]) -> list[str]:
    return ["cline", "--json", "-P", "openai-compatible", "-m", "gpt-5", prompt]


def _cline_settings(url: str) -> Mapping[str, str]:
    settings = {"provider": "openai-compatible", "apiKey": KEY, "model": "gpt-5", "baseUrl": f"{url}/v1"}
    provider = {"settings": settings, "updatedAt": "2026-11-26T00:00:00.000Z", "tokenSource": "manual"}
    providers = {"openai-compatible": provider}
    text = _json(version=1, lastUsedProvider="openai-compatible", modes={}, providers=providers)
    return {".cline/data/settings/providers.json": text}


def _aider(prompt: str, url: str, attached: list[Path]) -> list[str]:
    quiet = ["--no-git", "--no-analytics", "--no-check-update", "--no-show-model-warnings", "--no-show-release-notes"]
    files = [str(path) for path in attached]
    return ["aider", "--model", "openai/gpt-5", "--yes-always", "--no-pretty", *quiet, "--message", prompt, *files]


_FUNCTIONS = """
from pathlib import Path
def write(path: str, content: str) -> str:
    "Write a file."
    Path(path).write_text(content)
    return "written"
def read(path: str) -> str:
    "Read a file."
    return Path(path).read_text()
"""


def _llm(model: str) -> Callable[[str, str, list[Path]], list[str]]:
    def command(prompt: str, url: str, attached: list[Path]) -> list[str]:
        files = [argument for path in attached for argument in ("-a", str(path))]
        return ["llm", "-m", model, "--functions", _FUNCTIONS, "-u", prompt, *files]

    return command


def _llm_settings(url: str) -> Mapping[str, str]:
    features = "vision: true\n  supports_tools: true\n  supports_schema: true\n  reasoning: true"
    model = f"- model_id: host\n  model_name: gpt-5\n  api_base: {url}/v1\n  {features}\n"
    return {".config/io.datasette.llm/extra-openai-models.yaml": model}


AGENTS = [
    Agent(
        "Claude Code",
        "@anthropic-ai/claude-code",
        _claude,
        {
            "gpt_b": '"claude-*" = "gpt_b"',
            "gpt_a": '"claude-*" = "gpt_a/gpt-5.5"',
            "gpt_c": '"claude-*" = "gpt_c/{default}"',
        },
        lambda url: {
            "ANTHROPIC_BASE_URL": url,
            "ANTHROPIC_AUTH_TOKEN": KEY,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        },
    ),
    Agent(
        "Codex",
        "@openai/codex",
        _codex,
        {"gpt_a": '"gpt-*" = "gpt_a"', "gpt_b": '"gpt-*" = "gpt_b/claude-opus-4-8"'},
        lambda url: {"HOST_KEY": KEY},
        lambda url: {".codex/config.toml": _codex_settings(url)},
        lacks=frozenset({"document"}),
    ),
    Agent(
        "Gemini CLI",
        "@google/gemini-cli",
        _gemini,
        {
            "gpt_c": '"gemini-*" = "gpt_c"',
            "gpt_a": '"gemini-*" = "gpt_a/gpt-5.5"',
            "gpt_b": '"gemini-*" = "gpt_b/{default}"',
        },
        lambda url: {
            "GOOGLE_GEMINI_BASE_URL": url,
            "GEMINI_API_KEY": KEY,
            "GEMINI_CLI_TRUST_WORKSPACE": "true",
        },
        lambda url: {
            ".gemini/settings.json": _json(
                security={"auth": {"selectedType": "gemini-api-key"}}, privacy={"usageStatisticsEnabled": False}
            )
        },
        can_attach=True,
    ),
    *(
        Agent(
            f"opencode ({protocol})",
            "opencode-ai",
            _opencode(model),
            pairs,
            _opencode_environ,
            _opencode_settings,
            can_attach=True,
        )
        for protocol, model, pairs in (
            (
                "anthropic",
                "anthropic/claude-opus-4-8",
                {"gpt_b": '"claude-*" = "gpt_b"', "gpt_c": '"claude-*" = "gpt_c/{default}"'},
            ),
            ("openai", "openai/gpt-5", GPT_PAIRS),
            (
                "google",
                "google/gemini-2.5-pro",
                {"gpt_c": '"gemini-*" = "gpt_c"', "gpt_a": '"gemini-*" = "gpt_a/gpt-5.5"'},
            ),
        )
    ),
    Agent(
        "pi",
        "@earendil-works/pi-coding-agent",
        _pi,
        GPT_PAIRS,
        lambda url: {"PI_OFFLINE": "1", "PI_TELEMETRY": "0"},
        _pi_settings,
        can_attach=True,
        lacks=frozenset({"document"}),
    ),
    Agent(
        "qwen-code",
        "@qwen-code/qwen-code",
        _qwen,
        GPT_PAIRS,
        lambda url: {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": KEY},
        lambda url: {".qwen/settings.json": _json(privacy={"usageStatisticsEnabled": False})},
        can_attach=True,
        lacks=frozenset({"document"}),
    ),
    Agent(
        "cline",
        "cline",
        _cline,
        GPT_PAIRS,
        lambda url: {"CLINE_TELEMETRY_DISABLED": "1", "CLINE_NO_AUTO_UPDATE": "1"},
        _cline_settings,
        lacks=frozenset({"document"}),
    ),
    Agent(
        "aider",
        "pypi:aider_chat",
        _aider,
        GPT_PAIRS,
        lambda url: {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "OPENAI_API_BASE": f"{url}/v1", "OPENAI_API_KEY": KEY},
        can_attach=True,
        lacks=frozenset({"document"}),
        environment="aider",
    ),
    Agent(
        "llm",
        "pypi:llm",
        _llm("host"),
        GPT_PAIRS,
        lambda url: {"OPENAI_API_KEY": KEY},
        _llm_settings,
        can_attach=True,
    ),
    Agent(
        "llm-ollama",
        "pypi:llm_ollama",
        _llm("ollama/host"),
        {handler: f'"host" = "{handler}"' for handler in ("gpt_a", "gpt_b")},
        lambda url: {"OLLAMA_HOST": url},
        can_attach=True,
        lacks=frozenset({"document"}),
    ),
]
