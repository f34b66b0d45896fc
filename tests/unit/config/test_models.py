"""``[models]`` in the file and in the environment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from handler_host.config import Config
from handler_host.config.loader import load_config
from handler_host.config.reconfigure import compare, merge
from handler_host.plugin.errors import ConfigError

Write = Callable[[str], Path]


def test_file_and_environment_add_up(write: Write) -> None:
    path = write('[models]\nfast = "gpt_e"\n"claude-*" = "gpt_b"\n')
    loaded = load_config(path, {"HANDLER_HOST_MODELS": '{"claude-*": "gpt_a/{default}", "gpt-5.5": "gpt_a"}'})
    assert loaded.config.models == {"fast": "gpt_e", "claude-*": "gpt_a/{default}", "gpt-5.5": "gpt_a"}
    assert {key: str(origin) for key, origin in loaded.origins.items()} == {
        "models.fast": str(path),
        "models.claude-*": "environment variable HANDLER_HOST_MODELS",
        "models.gpt-5.5": "environment variable HANDLER_HOST_MODELS",
    }
    assert load_config(None, {"HANDLER_HOST_MODELS": " "}).config.models == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"claude-[45]*" = "gpt_b"', 'models.claude-[45]* = "gpt_b": brackets are not supported'),
        ('fast = "gpt_a/"', 'models.fast = "gpt_a/": must be "HANDLER" or "HANDLER/MODEL"'),
        ("fast = 3", "models.fast = 3: must be a text of one line, not empty"),
        ('gpt-5.5 = "gpt_a"', 'models.gpt-5: must be a text; write a name with dots in quotes: "gpt-5.5"'),
    ],
)
def test_invalid_lines_name_their_place(write: Write, text: str, message: str) -> None:
    path = write(f"[models]\n{text}\n")
    with pytest.raises(ConfigError) as raised:
        load_config(path, {})
    assert raised.value.message.startswith(f"{path}:2: {message}")


def test_invalid_section_and_variable(write: Write) -> None:
    for text in ("models = 3", "[model]\nfast = 'gpt_a'"):
        with pytest.raises(ConfigError, match=r"must be a table, \[models\]|did you mean 'models'"):
            load_config(write(text), {})
    with pytest.raises(ConfigError, match="environment variable HANDLER_HOST_MODELS: must be JSON, such as"):
        load_config(None, {"HANDLER_HOST_MODELS": "claude-*=gpt_b"})
    with pytest.raises(ConfigError, match=r"must be a table, \[models\], or JSON in HANDLER_HOST_MODELS"):
        load_config(None, {"HANDLER_HOST_MODELS__A__B": "gpt_a"})


def test_a_running_host_applies_changes() -> None:
    old, new = Config(models={"a": "x", "b": "x"}), Config(models={"a": "y"})
    assert compare(old, new) == (["models.a", "models.b"], [])
    assert merge(old, new).models == new.models
