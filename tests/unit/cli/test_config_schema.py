"""The JSON Schema of the configuration file is held to the types, by the loader."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from handler_host.catalog.catalog_entry import CatalogEntry
from handler_host.catalog.manifest import parse_manifest
from handler_host.cli.config_schema import config_schema
from handler_host.config import POLICY_KEYS
from handler_host.config.loader import load_config
from handler_host.config.toml_text import toml_literal
from handler_host.config.values import SECTIONS
from handler_host.plugin.errors import ConfigError

ROOT = Path(__file__).parents[3]
MANIFEST = """\
title = "A parrot"
[config.volume]
type = "integer"
minimum = 1
[config.words]
type = "array"
items = "string"
[config.mood]
type = "string"
enum = ["good", "bad"]
default = "good"
"""
PARROT = CatalogEntry(
    name="parrot", distribution="parrot", version="1", manifest=parse_manifest(MANIFEST, "handler.toml")
)
BARE = CatalogEntry(name="bare", distribution="bare", version="1")
SCHEMA = config_schema({"parrot": PARROT, "bare": BARE})
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

TEXTS = ["", "x", "0", "5m", "1h30m", "250 ms", "512MB", "1.5 GiB", "10%", "0%", "auto", "never", "off", "none"]
TEXTS += ["text", "json", "info", "process", "exec", "deploy", "continue", "unix:/run/x.sock", "5x", "1h 5q", "MB"]
OTHERS: list[Any] = [True, False, 0, 1, -1, 3.5, 10**6, 2**60, [], ["x"], [1], [["x"]], {}, {"a": "info"}, {"a": 1}]
KEYS = [(section, key) for section, owner in SECTIONS.items() for key in owner.__struct_fields__]
CHECKED_FURTHER = {
    ("auth", "api_keys"),  # must be hashes
    ("server", "listen"),  # must be addresses
    ("workers", "hang_after"),  # depends on heartbeat_interval
    ("workers", "heartbeat_interval"),
    ("defaults", "min_workers"),  # depends on max_workers
}


def schema_accepts(document: dict[str, Any]) -> bool:
    return VALIDATOR.is_valid(document)


def loader_accepts(section: str, key: str, value: Any, directory: Path) -> bool:
    path = directory / "host.toml"
    path.unlink(missing_ok=True)  # ext4 flushes a file that is emptied and written again
    path.write_text(f"[{section}]\n{key} = {toml_literal(value)}\n")
    try:
        load_config(path, {})
    except ConfigError:
        return False
    return True


def test_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


class TestKeys:
    def test_are_those_of_the_types(self) -> None:
        properties = SCHEMA["properties"]
        assert properties.keys() == {"data_dir", "models", "handlers", "launchers", *SECTIONS}
        for name, owner in SECTIONS.items():
            assert properties[name]["properties"].keys() == set(owner.__struct_fields__)
            assert properties[name]["additionalProperties"] is False

    def test_have_descriptions_and_valid_defaults(self) -> None:
        for section, key in KEYS:
            schema = SCHEMA["properties"][section]["properties"][key]
            assert schema["description"]
            if "default" in schema:
                assert schema_accepts({section: {key: schema["default"]}}), (section, key)

    @pytest.mark.parametrize(("section", "key"), KEYS, ids=str)
    def test_accept_what_the_loader_accepts(self, section: str, key: str, tmp_path: Path) -> None:
        rejected = 0
        for value in TEXTS:
            is_accepted = schema_accepts({section: {key: value}})
            rejected += not is_accepted
            # A schema cannot check the range of a text such as "5m".
            assert is_accepted or not loader_accepts(section, key, value, tmp_path), value
        for value in OTHERS:
            is_accepted = schema_accepts({section: {key: value}})
            rejected += not is_accepted
            if (section, key) not in CHECKED_FURTHER:
                assert is_accepted is loader_accepts(section, key, value, tmp_path), value
        assert rejected > 10


class TestDocuments:
    @pytest.mark.parametrize("name", ["examples/host.toml", "examples/demo.toml", "examples/deploy/host.toml"])
    def test_examples_are_valid(self, name: str) -> None:
        assert schema_accepts(tomllib.loads((ROOT / name).read_text()))

    @pytest.mark.parametrize("text", ["prot = 1", "[servre]\nport = 1", "[server]\nprot = 1", "handlers = 1"])
    def test_misspelt_keys_are_refused(self, text: str) -> None:
        assert not schema_accepts(tomllib.loads(text))


class TestHandlers:
    @pytest.mark.parametrize(
        "text",
        [
            "[handlers.parrot]\nvolume = 3\nwords = ['a']\nmood = 'bad'\nidle_after = '5m'",
            "[handlers.bare]\nanything = 1",
            "[handlers.other]\nanything = 1\npin = true",
            "[handlers.parrot]\nplugin = 'parrot'\ntitle = 'Polly'\nsecrets.KEY = 'MY_KEY'",
        ],
        ids=["declared", "without manifest", "not installed", "instance"],
    )
    def test_valid(self, text: str) -> None:
        assert schema_accepts(tomllib.loads(text))

    @pytest.mark.parametrize(
        "setting",
        ["volume = 0", "volume = 'x'", "words = [1]", "mood = 'mad'", "volumes = 1", "plugin = 1", "secrets = ['a']"],
    )
    def test_own_settings_are_those_of_the_manifest(self, setting: str) -> None:
        assert not schema_accepts(tomllib.loads(f"[handlers.parrot]\n{setting}"))

    @pytest.mark.parametrize("name", ["parrot", "bare", "other"])
    @pytest.mark.parametrize("key", sorted(POLICY_KEYS))
    def test_policy_keys_are_checked(self, name: str, key: str) -> None:
        assert not schema_accepts({"handlers": {name: {key: {"a": {}}}}})
