"""``handler.toml``: parsing, and one clear message for each mistake."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from handler_host.catalog.manifest import Manifest, ManifestError, check_settings, parse_manifest, read_manifest
from handler_host.plugin.errors import ConfigError

FULL = """
title = "GPT A"
description = "Chats"
requires_host = ">=0.1,<9"

[operations.chat]
summary = "Answer a chat request"
[operations."log.append"]

[secrets.OPENAI_API_KEY]
required = false
description = "The provider's key"
[secrets.OTHER_KEY]

[config.model]
type = "string"
default = "small"
description = "Which model"
enum = ["small", "large"]
[config.temperature]
type = "number"
minimum = 0
maximum = 2
[config.tags]
type = "array"
items = "string"
default = ["a"]
[config.sheet]
type = "string"
required = true
[config.extra]
type = "object"
[config.verbose]
type = "boolean"
[config.retries]
type = "integer"
[config.level]
type = "integer"
enum = [1, 2]

[memory]
estimate = "80MB"

[timeouts]
activate = "90s"
gap = 5
"""


def parse_error(text: str | bytes) -> str:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(text, "/x/handler.toml")
    assert caught.value.message.startswith("/x/handler.toml")
    return caught.value.message


def parse(text: str) -> Manifest:
    return parse_manifest(text, "handler.toml")


def settings_error(values: dict[str, Any], text: str = FULL) -> str:
    with pytest.raises(ConfigError) as caught:
        check_settings(parse(text), values, "[handlers.gpt_a]")
    assert caught.value.message.startswith("[handlers.gpt_a]: ")
    return caught.value.message


class TestParse:
    def test_full(self) -> None:
        manifest = parse(FULL)
        assert (manifest.title, manifest.description, manifest.requires_host) == ("GPT A", "Chats", ">=0.1,<9")
        assert manifest.operations is not None
        assert {name: operation.summary for name, operation in manifest.operations.items()} == {
            "chat": "Answer a chat request",
            "log.append": "",
        }
        assert {name: secret.required for name, secret in manifest.secrets.items()} == {
            "OPENAI_API_KEY": False,
            "OTHER_KEY": True,
        }
        assert manifest.config["model"].default == "small"
        assert manifest.config["model"].enum == ("small", "large")
        assert manifest.memory_estimate == 80 * 1024**2
        assert (manifest.timeouts.activate, manifest.timeouts.gap, manifest.timeouts.drain) == (90.0, 5.0, None)

    def test_empty(self) -> None:
        assert parse("") == Manifest()
        assert parse("").operations is None


class TestErrors:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("titel = 'x'", ["'titel'", "did you mean 'title'?"]),
            ("[operation.chat]", ["'operation'", "'operations'?"]),
            ("[operations.chat]\nsumary = ''", ["[operations.chat]", "'summary'?"]),
            ("[secrets.KEY]\nrequire = true", ["[secrets.KEY]", "'required'?"]),
            ("[config.model]\ntype = 'string'\nmin = 1", ["[config.model]", "'min'"]),
            ("[memory]\nestimated = '1MB'", ["[memory]", "'estimate'?"]),
            ("[timeouts]\nfirst-byte = 1", ["[timeouts]", "'first_byte'?"]),
        ],
    )
    def test_unknown_key_has_a_suggestion(self, text: str, words: list[str]) -> None:
        message = parse_error(text)
        assert all(word in message for word in ["unknown key", *words]), message

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("title = 5", ["title", "5"]),
            ("operations = 'chat'", ["operations", "'chat'", "section"]),
            ("operations.chat = 'x'", ["operations.chat", "'x'"]),
            ("[operations.'a b']", ["operations", "'a b'"]),
            ("[secrets.api-key]", ["secrets", "'api-key'"]),
            ("[secrets.HANDLER_HOST_ADMIN_TOKEN]", ["HANDLER_HOST_ADMIN_TOKEN", "belong to the host"]),
            ("[secrets.KEY]\nrequired = 'no'", ["secrets.KEY.required", "'no'"]),
            (
                "[secrets.KEY]\nrequired_unless = ['base_ur']\n[config.base_url]\ntype = 'string'",
                ["secrets.KEY.required_unless", "'base_ur'", "did you mean 'base_url'?"],
            ),
            ("[config.a]\ntype = 'string'\nformat = 'uri'", ["config.a.format", "'uri' is not one of url"]),
            ("[config.a]\ntype = 'integer'\nformat = 'url'", ["config.a.format", "only with type string"]),
            ("[config.model]", ["config.model.type", "missing"]),
            ("[config.model]\ntype = 'strng'", ["config.model.type", "'strng'", "'string'?"]),
            ("[config.model]\ntype = 5", ["config.model.type", "5"]),
            ("[config.n]\ntype = 'integer'\ndefault = 'x'", ["config.n.default", "'x'", "whole number"]),
            ("[config.n]\ntype = 'integer'\ndefault = true", ["config.n.default", "True", "whole number"]),
            ("[config.n]\ntype = 'integer'\nminimum = 3\ndefault = 2", ["config.n.default", "less than 3"]),
            ("[config.n]\ntype = 'string'\nminimum = 3", ["config.n.minimum", "'string'"]),
            ("[config.n]\ntype = 'number'\nmaximum = 'x'", ["config.n.maximum", "'x'"]),
            ("[config.n]\ntype = 'string'\nenum = ['a', 1]", ["config.n.enum", "value 1", "1 is not a text"]),
            ("[config.n]\ntype = 'string'\nenum = 'a'", ["config.n.enum", "'a' is not a list"]),
            ("[config.n]\ntype = 'string'\nenum = ['a']\ndefault = 'b'", ["config.n.default", "'b' is not one of 'a'"]),
            ("[config.n]\ntype = 'string'\nitems = 'string'", ["config.n.items", "array or object"]),
            (
                "[config.n]\ntype = 'object'\nitems = 'string'\ndefault = { a = 'b', c = 2 }",
                ["config.n.default", "'c': int"],
            ),
            ("[config.n]\ntype = 'array'\nitems = 'texts'", ["config.n.items", "'texts'"]),
            ("[config.n]\ntype = 'array'\nitems = 'string'\ndefault = ['a', 2]", ["config.n.default", "item 1"]),
            ("[memory]\nestimate = 'much'", ["memory.estimate", "much"]),
            ("[memory]\nestimate = true", ["memory.estimate", "True"]),
            (f"[memory]\nestimate = '{'9' * 400}GB'", ["memory.estimate"]),
            (f"[timeouts]\ngap = {'9' * 400}", ["timeouts.gap"]),
            (f"[timeouts]\ngap = {'9' * 5000}", ["not valid TOML"]),
            ("[timeouts]\ngap = 'soon'", ["timeouts.gap", "soon"]),
            ("requires_host = '0.1'", ["requires_host", "'0.1'", ">=0.1,<1"]),
        ],
    )
    def test_invalid_value_has_its_place(self, text: str, words: list[str]) -> None:
        message = parse_error(text)
        assert all(word in message for word in words), message

    def test_invalid_toml_has_line_and_column(self) -> None:
        assert "line 2, column" in parse_error("title = 'x'\n= 5")

    def test_invalid_utf8_has_the_byte(self) -> None:
        assert "byte 9 is not UTF-8" in parse_error(b"title = '\xff'")

    def test_setting_with_the_name_of_a_policy_key(self) -> None:
        message = parse_error("[config.pin]\ntype = 'boolean'")
        assert "config.pin" in message

    @pytest.mark.parametrize("value", ["0", "true", '"2"', "1.5"])
    def test_workers_max_is_a_whole_number(self, value: str) -> None:
        with pytest.raises(ManifestError, match=r"x\.toml:2: workers\.max: .* is not a whole number of at least 1"):
            parse_manifest(f"[workers]\nmax = {value}\n", "x.toml")

    def test_an_edit_is_read_whatever_its_time(self, tmp_path: Path) -> None:
        path = tmp_path / "handler.toml"
        titles = []
        for title in ("old", "old", "new"):
            path.write_text(f'title = "{title}"\n')
            os.utime(path, (1, 1))
            titles.append(read_manifest(str(path)).title)
        assert titles == ["old", "old", "new"]

    def test_file_is_too_long(self, tmp_path: Path) -> None:
        path = tmp_path / "handler.toml"
        path.write_bytes(b"#" * (300 * 1024))
        with pytest.raises(ManifestError, match="longer than 256 KiB"):
            read_manifest(str(path))

    @pytest.mark.parametrize(
        "text",
        [
            ".".join("a" * 5_000) + " = 1",
            "title = {" + ".".join("a" * 5_000) + " = 1}",
            ".".join(['"\\""'] * 5_000) + " = 1",
            f"[{'.'.join('a' * 500)}]\n" + "b = 1\n" * 10_000,
        ],
        ids=["key", "inline table", "quoted", "table of many keys"],
    )
    def test_name_of_many_parts_is_not_parsed(self, text: str) -> None:
        """The parser takes quadratic time and memory for it: 10 GB for 100 KB."""
        with pytest.raises(ManifestError, match=r"x\.toml: not valid TOML: a line has too many dots"):
            parse_manifest(text, "x.toml")

    def test_a_long_line_with_dots_is_read(self) -> None:
        """Texts and lists of models have many."""
        text = 'description = "' + "One. " * 1_000 + '"'
        assert parse_manifest(text, "x.toml").description.count(".") == 1_000

    def test_file_cannot_be_read(self, tmp_path: Path) -> None:
        with pytest.raises(ManifestError, match="cannot be read"):
            read_manifest(str(tmp_path))


class TestSettings:
    def test_defaults(self) -> None:
        values = check_settings(parse(FULL), {"sheet": "s", "temperature": 1}, "[handlers.gpt_a]")
        assert values == {"sheet": "s", "temperature": 1, "model": "small", "tags": ["a"]}

    def test_defaults_are_copies(self) -> None:
        manifest = parse(FULL)
        check_settings(manifest, {"sheet": "s"}, "here")["tags"].append("b")
        assert check_settings(manifest, {"sheet": "s"}, "here")["tags"] == ["a"]

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"modle": "small"}, ["'modle'", "'model'?"]),
            ({"idle_aftr": "5m"}, ["'idle_aftr'", "'idle_after'?"]),
            ({"zzz": 1}, ["'zzz'", "level, model, retries"]),
            ({"model": 5}, ["model", "5 is not a text"]),
            ({"model": "smal"}, ["model", "'smal'", "'small'?"]),
            ({"temperature": 3}, ["temperature", "3 is more than 2"]),
            ({"temperature": float("nan")}, ["temperature", "nan is not a number"]),
            ({"temperature": True}, ["temperature", "True is not a number"]),
            ({"tags": ["a", 1]}, ["tags", "item 1", "1 is not a text"]),
            ({"extra": []}, ["extra", "not a table"]),
            ({"level": 5}, ["level", "5 is not one of 1, 2"]),
            ({"verbose": 1}, ["verbose", "not true or false"]),
            ({"retries": 1.5}, ["retries", "not a whole number"]),
            ({}, ["missing key sheet"]),
        ],
    )
    def test_invalid_value_has_place_and_key(self, values: dict[str, Any], words: list[str]) -> None:
        message = settings_error(values)
        assert all(word in message for word in words), message

    def test_secret_belongs_in_the_environment(self) -> None:
        message = settings_error({"openai_api_key": "sk-very-secret"})
        assert "environment variable OPENAI_API_KEY" in message
        assert "sk-very-secret" not in message

    def test_without_a_manifest_all_are_valid(self) -> None:
        assert check_settings(None, {"anything": [1]}, "here") == {"anything": [1]}

    def test_manifest_without_settings(self) -> None:
        with pytest.raises(ConfigError, match="the settings of this handler are: none"):
            check_settings(Manifest(), {"model": "x"}, "here")
