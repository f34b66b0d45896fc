"""The reference page and the example are generated from the types, complete and valid."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from handler_host.config import Config
from handler_host.config.loader import load_config
from handler_host.config.reference import OTHERS, WIDTH, Key, example, keys, page
from handler_host.config.values import SECTIONS, keys_of

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "host.toml"
PAGE = ROOT / "docs" / "reference" / "configuration.md"
ALL_KEYS = [key for section in (OTHERS, *SECTIONS) for key in keys(section)]

each_key = pytest.mark.parametrize("key", ALL_KEYS, ids=lambda key: key.variable)


class TestGeneratedFiles:
    """``make reference`` writes both; each test fails on a stale file."""

    def test_page(self) -> None:
        text = PAGE.read_text(encoding="utf-8")
        assert text == page(text), "run `make reference`"

    def test_page_has_every_table(self) -> None:
        blocks = re.findall(r"^<!-- keys: (\w+) -->$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
        assert sorted(blocks) == sorted([OTHERS, *SECTIONS])

    def test_example(self) -> None:
        assert EXAMPLE.read_text(encoding="utf-8") == example(), "run `make reference`"


class TestKeys:
    @each_key
    def test_docstring_is_a_sentence_that_fits_beside_the_key(self, key: Key) -> None:
        assert key.summary.endswith(".")
        assert len(key.summary) <= WIDTH - 30

    @each_key
    def test_has_a_default_or_an_example(self, key: Key) -> None:
        assert key.default is not None or key.example is not None

    @pytest.mark.parametrize(
        "key", [key for key in ALL_KEYS if key.default and key.section != "auth"], ids=lambda key: key.variable
    )
    def test_variable_sets_it(self, key: Key) -> None:
        config, origins = load_config(None, {key.variable: (key.default or "").strip('"')})
        assert config == Config()
        assert origins.keys() == {f"{key.section}.{key.name}"}


class TestExample:
    def test_has_the_defaults_and_one_handler(self) -> None:
        config = load_config(EXAMPLE, {}).config
        assert msgspec.structs.replace(config, source=None, handlers={}) == Config()
        assert config.policy("gpt_a").idle_after == 600
        assert config.settings("gpt_a") == {"model": "gpt-4o-mini"}

    @pytest.mark.parametrize("section", SECTIONS)
    def test_has_every_key(self, section: str) -> None:
        """A key without a default stands there as a comment."""
        text = EXAMPLE.read_text(encoding="utf-8")
        begin = text.index(f"\n[{section}]")
        block = text[begin : text.find("\n[", begin + 2)]
        written = set(re.findall(r"^(?:# )?(\w+) = ", block, re.MULTILINE))
        assert written == set(keys_of(SECTIONS[section]))

    def test_lines_that_are_comments_are_valid(self, tmp_path: Path) -> None:
        # given: "sha256:..." and "..." of [auth] stand for secrets
        text = re.sub(
            r"^# (?=\w+ = (?!\"(?:sha256:)?\.\.\.\"))", "", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE
        )
        path = tmp_path / "host.toml"
        path.write_text(text, encoding="utf-8")
        # when
        config, origins = load_config(path, {})
        # then
        assert config.data_dir == Path("/var/lib/handler-host")
        assert config.defaults.python == Path("/opt/venv/bin/python")
        assert config.catalog.pins == {"gpt_a": "handler-host-gpt-a"}
        assert config.log.levels == {"gpt_a": "debug"}
        keys = {f"{key.section}.{key.name}".lstrip(".") for key in ALL_KEYS}
        assert keys - origins.keys() == {"auth.admin_token", "auth.consumers"}
