"""The example is the reference of all keys: complete, right, and made of the defaults."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from handler_host.config import Config
from handler_host.config.loader import load_config
from handler_host.config.values import SECTIONS, keys_of

EXAMPLE = Path(__file__).parents[3] / "examples" / "host.toml"


def test_it_holds_the_defaults_and_one_handler() -> None:
    config = load_config(EXAMPLE, {}).config
    assert msgspec.structs.replace(config, source=None, handlers={}) == Config()
    assert config.policy("gpt_a").idle_after == 600
    assert config.settings("gpt_a") == {"model": "gpt-4o-mini"}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_is_in_it(section: str) -> None:
    """A key whose default is none stands there as a comment."""
    text = EXAMPLE.read_text(encoding="utf-8")
    begin = text.index(f"\n[{section}]")
    block = text[begin : text.find("\n[", begin + 2)]
    written = set(re.findall(r"^(?:# )?\[?(?:catalog\.)?(\w+)(?: = |\])", block, re.MULTILINE)) - {"gpt_a"}
    assert written - {section} == set(keys_of(SECTIONS[section]))


def test_what_is_commented_out_is_right_too(tmp_path: Path) -> None:
    # given
    text = re.sub(
        r"^# (?=data_dir|state_file|python|gpt_a|\[catalog)",
        "",
        EXAMPLE.read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    path = tmp_path / "host.toml"
    path.write_text(text, encoding="utf-8")
    # when
    config = load_config(path, {}).config
    # then
    assert config.data_dir == Path("/var/lib/handler-host")
    assert config.defaults.python == Path("/opt/venv/bin/python")
    assert config.catalog.pins == {"gpt_a": "handler-host-gpt-a"}
