"""Any file, environment and flags give a configuration or one ConfigError."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from handler_host.config.loader import load_config
from handler_host.config.values import SECTIONS, keys_of
from handler_host.plugin.errors import ConfigError

SECTION_KEYS = {section: sorted(keys_of(kind)) for section, kind in SECTIONS.items()}
ALL_KEYS = sorted({key for keys in SECTION_KEYS.values() for key in keys})

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12)
scalars = (
    texts
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.sampled_from(["5m", "4MB", "10%", "auto", "never", "process", "exec", "text", "info", "127.0.0.1", "a,b", "~"])
    | st.sampled_from([0, 1, 2, 60, 1024**2])
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=5
)
names = st.sampled_from([*SECTIONS, "handlers", "data_dir", *ALL_KEYS[:5]]) | texts
tables = st.dictionaries(st.sampled_from(ALL_KEYS) | texts, values, max_size=4)
valid_tables = st.sampled_from(sorted(SECTION_KEYS)).flatmap(
    lambda section: st.dictionaries(st.sampled_from(SECTION_KEYS[section]), values, max_size=2).map(
        lambda table: {section: table}
    )
)
trees = valid_tables | st.dictionaries(names, tables | values | st.dictionaries(texts, tables, max_size=2), max_size=3)
parts = st.lists(st.sampled_from([*SECTIONS, "handlers", "pins", *ALL_KEYS, "gpt_a", ""]), max_size=4)


def toml_literal(value: Any) -> str:
    """Return a value as TOML has it in one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return f"[{', '.join(map(toml_literal, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml_literal(key)} = {toml_literal(item)}" for key, item in value.items()) + "}"
    return repr(value)


def read(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "host.toml")
        path.write_bytes(data)
        with contextlib.suppress(ConfigError):
            config = load_config(path, {}).config
            for name in config.handlers:
                config.policy(name)
                config.settings(name)
            assert repr(config)


class TestLoading:
    @given(trees)
    def test_any_table(self, tree: Mapping[str, Any]) -> None:
        read("\n".join(f"{toml_literal(key)} = {toml_literal(value)}" for key, value in tree.items()).encode())

    @given(st.binary(max_size=60) | st.text(alphabet='[]=".{},#ab\n1', max_size=60).map(str.encode))
    def test_any_bytes(self, data: bytes) -> None:
        read(data)

    @given(st.dictionaries(parts.map("__".join).map(str.upper) | texts, texts | scalars.map(str), max_size=4))
    def test_any_environment(self, variables: Mapping[str, str]) -> None:
        with contextlib.suppress(ConfigError):
            load_config(None, {f"HANDLER_HOST_{name}": value for name, value in variables.items()})

    @given(st.dictionaries(parts.map(".".join) | texts, values, max_size=3))
    def test_any_flag(self, flags: Mapping[str, Any]) -> None:
        with contextlib.suppress(ConfigError):
            load_config(None, {}, flags)
