"""Coding agents: how each is configured for the host, and started with a prompt."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clients import how_to
from clients.how_to import KEY


@dataclass(frozen=True)
class Agent:
    """An agent that works in a directory; the functions get the URL of the host."""

    name: str
    package: str
    """The npm package, or `pypi:NAME`."""
    command: Callable[[str, list[Path]], list[str]]
    """Prompt and attached files → command line."""
    section: str
    """The section of the how-to with its settings."""
    pattern: str
    """The line of `[models]` there. Its first target is the agent's own protocol."""
    quiet: Mapping[str, str] = field(default_factory=dict)
    """Variables that turn off what needs a network: telemetry, updates, lists of prices."""
    quiet_files: Callable[[str], Mapping[str, str]] = lambda _: {}
    """Settings files by their path below the home directory, for the same, and for settings that a command writes."""
    can_attach: bool = False
    """Whether images and documents are attached; otherwise the agent's own tool reads them."""
    has_search: bool = False
    """Whether it offers the provider's own web search."""
    resume: tuple[str, ...] = ()
    """The start of the command that continues the last session of the directory."""
    lacks: frozenset[str] = field(default_factory=frozenset)
    """Columns that the agent itself has not."""
    odd_files: Mapping[str, str] = field(default_factory=dict)
    """Files of the working directory that add the MCP server with odd schemas."""
    odd_arguments: tuple[str, ...] = ()
    """Arguments that add it."""
    compact_files: Mapping[str, str] = field(default_factory=dict)
    """Files of the working directory for which the agent compacts its session in the middle of a task."""
    compact_arguments: tuple[str, ...] = ()
    """Arguments for the same."""
    compact_prompt: str = ""
    """Prompt for which the agent compacts a resumed session."""
    environment: str = ""
    """Below `.venv-clients`, for an agent whose requirements conflict with those of the others."""
    faults: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Handler and column of a check that fails because of the agent → its fault."""

    @property
    def pairs(self) -> Mapping[str, str]:
        """Handler → line of the host's `[models]`."""
        return how_to.read(self.section).pairs(self.pattern)

    @property
    def handlers(self) -> Sequence[str]:
        """The handlers that it runs against; the first speaks its own protocol."""
        return list(self.pairs)

    def environ(self, url: str) -> Mapping[str, str]:
        """Return the variables of the how-to and the quiet ones."""
        return {**how_to.read(self.section).environ(url), **self.quiet}

    def files(self, url: str) -> Mapping[str, str]:
        """Return the settings files of the how-to and the quiet ones."""
        return {**how_to.read(self.section).files(url), **self.quiet_files(url)}


def _json(**settings: object) -> str:
    return json.dumps(settings, indent=2)


ODD_SERVER = [sys.executable, str(Path(__file__).parent / "scripts" / "odd_mcp.py")]
"""The command of the MCP server with odd schemas."""
_ODD = {"command": ODD_SERVER[0], "args": ODD_SERVER[1:]}


def _claude(prompt: str, attached: list[Path]) -> list[str]:
    permitted = ["--permission-mode", "acceptEdits", "--allowedTools", "Read,Write,Bash,WebSearch,mcp__odd"]
    return ["claude", "-p", prompt, "--output-format", "json", *permitted]


def _codex(prompt: str, attached: list[Path]) -> list[str]:
    options = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "--json"]
    return ["codex", "exec", *options, prompt]


def _gemini(prompt: str, attached: list[Path]) -> list[str]:
    return ["gemini", "-p", " ".join([prompt, *(f"@{path.name}" for path in attached)]), "-y", "-o", "json"]


def _opencode(model: str) -> Callable[[str, list[Path]], list[str]]:
    def command(prompt: str, attached: list[Path]) -> list[str]:
        files = [argument for path in attached for argument in ("-f", str(path))]
        return ["opencode", "run", prompt, "-m", model, "--auto", "--format", "json", *files]

    return command


def _pi(prompt: str, attached: list[Path]) -> list[str]:
    return ["pi", "-p", "--provider", "host", "--model", "gpt-5", *(f"@{path}" for path in attached), prompt]


def _qwen(prompt: str, attached: list[Path]) -> list[str]:
    text = " ".join([prompt, *(f"@{path.name}" for path in attached)])
    return ["qwen", "-p", text, "-y", "-o", "json", "--auth-type", "openai", "--model", "gpt-5"]


def _cline(prompt: str, attached: list[Path]) -> list[str]:
    return ["cline", "--json", "-P", "openai-compatible", "-m", "gpt-5", prompt]


def _cline_settings(url: str) -> Mapping[str, str]:
    settings = {"provider": "openai-compatible", "apiKey": KEY, "model": "gpt-5", "baseUrl": f"{url}/v1"}
    provider = {"settings": settings, "updatedAt": "2026-11-26T00:00:00.000Z", "tokenSource": "manual"}
    providers = {"openai-compatible": provider}
    text = _json(version=1, lastUsedProvider="openai-compatible", modes={}, providers=providers)
    return {".cline/data/settings/providers.json": text}


def _aider(prompt: str, attached: list[Path]) -> list[str]:
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


def _llm(model: str) -> Callable[[str, list[Path]], list[str]]:
    def command(prompt: str, attached: list[Path]) -> list[str]:
        files = [argument for path in attached for argument in ("-a", str(path))]
        return ["llm", "-m", model, "--functions", _FUNCTIONS, "--chain-limit", "0", "-u", prompt, *files]

    return command


AGENTS = [
    Agent(
        "Claude Code",
        "@anthropic-ai/claude-code",
        _claude,
        "Claude Code",
        "claude-*",
        {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"},
        has_search=True,
        resume=("claude", "-c"),
        odd_files={"odd.json": _json(mcpServers={"odd": _ODD})},
        odd_arguments=("--mcp-config", "odd.json"),
        compact_prompt="/compact",
    ),
    Agent(
        "Codex",
        "@openai/codex",
        _codex,
        "Codex",
        "gpt-*",
        lacks=frozenset({"document"}),
        resume=("codex", "exec", "resume", "--last"),
        odd_arguments=(
            *("-c", f"mcp_servers.odd.command={json.dumps(ODD_SERVER[0])}"),
            *("-c", f"mcp_servers.odd.args={json.dumps(ODD_SERVER[1:])}"),
        ),
        compact_arguments=("-c", "model_auto_compact_token_limit=4000"),
    ),
    Agent(
        "Gemini CLI",
        "@google/gemini-cli",
        _gemini,
        "Gemini CLI",
        "gemini-*",
        {"GEMINI_CLI_TRUST_WORKSPACE": "true"},
        can_attach=True,
        has_search=True,
        resume=("gemini", "--resume", "latest"),
        odd_files={".gemini/settings.json": _json(mcpServers={"odd": _ODD})},
        compact_files={".gemini/settings.json": _json(model={"compressionThreshold": 0.001})},
        faults={
            ("gpt_b", "resume"): "its sessions store no signatures",
            ("gpt_c", "resume"): "it sends each result of a resumed session twice",
        },
    ),
    *(
        Agent(
            f"opencode ({model.partition('/')[0]})",
            "opencode-ai",
            _opencode(model),
            "opencode",
            pattern,
            {f"OPENCODE_DISABLE_{name}": "true" for name in ("MODELS_FETCH", "AUTOUPDATE", "LSP_DOWNLOAD", "SHARE")},
            can_attach=True,
            resume=("opencode", "run", "-c"),
            odd_files={"opencode.json": _json(mcp={"odd": {"type": "local", "command": ODD_SERVER}})},
            faults={("gpt_c", "schemas"): "it sends enumerations of numbers as Google refuses them"}
            if pattern == "gemini-*"
            else {},
        )
        for model, pattern in (
            ("anthropic/claude-opus-4-8", "claude-*"),
            ("openai/gpt-5", "gpt-*"),
            ("google/gemini-2.5-pro", "gemini-*"),
        )
    ),
    Agent(
        "pi",
        "@earendil-works/pi-coding-agent",
        _pi,
        "pi",
        "gpt-*",
        {"PI_OFFLINE": "1", "PI_TELEMETRY": "0"},
        can_attach=True,
        resume=("pi", "-c"),
        faults={("gpt_c", "reasoning"): "it drops the `extra_content` of tool calls"},
        lacks=frozenset({"document"}),
    ),
    Agent(
        "qwen-code",
        "@qwen-code/qwen-code",
        _qwen,
        "qwen-code",
        "gpt-*",
        quiet_files=lambda url: {".qwen/settings.json": _json(privacy={"usageStatisticsEnabled": False})},
        can_attach=True,
        resume=("qwen", "-c"),
        lacks=frozenset({"document"}),
    ),
    Agent(
        "cline",
        "cline",
        _cline,
        "cline",
        "gpt-*",
        {"CLINE_TELEMETRY_DISABLED": "1", "CLINE_NO_AUTO_UPDATE": "1"},
        _cline_settings,
        lacks=frozenset({"document"}),
    ),
    Agent(
        "aider",
        "pypi:aider_chat",
        _aider,
        "aider",
        "gpt-*",
        {"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        can_attach=True,
        lacks=frozenset({"document", "parallel", "history"}),
        environment="aider",
    ),
    Agent(
        "llm",
        "pypi:llm",
        _llm("host"),
        "llm",
        "gpt-*",
        can_attach=True,
        resume=("llm", "-c"),
        faults={("gpt_c", "resume"): "it drops the `extra_content` of tool calls"},
    ),
    Agent(
        "llm-ollama",
        "pypi:llm_ollama",
        _llm("ollama/host"),
        "llm-ollama",
        "host",
        can_attach=True,
        resume=("llm", "-c"),
        lacks=frozenset({"document"}),
        faults={
            ("gpt_c", "resume"): "Ollama's API has no signatures of tool calls",
            **{(handler, "retry"): "its library does not retry" for handler in ("gpt_a", "gpt_b", "gpt_c")},
        },
    ),
]
