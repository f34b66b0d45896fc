"""The settings of `docs/how-to/connect-clients.md`, which `make clients` runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from clients import how_to
from handler_host.config.loader import load_config

AGENTS = ("Claude Code", "Codex", "Gemini CLI", "opencode", "pi", "qwen-code", "cline", "aider", "llm", "llm-ollama")


@pytest.mark.parametrize("title", AGENTS)
def test_an_agent_needs_at_most_ten_lines(title: str, tmp_path: Path) -> None:
    blocks = how_to.read(title).blocks
    assert 2 <= sum(len(text.splitlines()) for text in blocks.values()) <= 10
    path = tmp_path / "host.toml"
    path.write_text(blocks["host.toml"])
    assert load_config(path, {}).config.models


def test_a_pattern_has_a_line_for_each_target() -> None:
    assert how_to.read("Claude Code").pairs("claude-*") == {
        "gpt_b": '"claude-*" = "gpt_b"',
        "gpt_a": '"claude-*" = "gpt_a/gpt-5.5"',
        "gpt_c": '"claude-*" = "gpt_c/{default}"',
    }
