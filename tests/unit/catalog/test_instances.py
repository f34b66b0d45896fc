"""Instances: handlers that the configuration makes of an installed plugin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from handler_host.catalog.catalog import scan_config
from handler_host.catalog.catalog_entry import CatalogEntry
from handler_host.catalog.manifest import check_configured
from handler_host.catalog.secrets import read_secrets
from handler_host.config import CatalogConfig, Config
from handler_host.config.loader import load_config
from handler_host.plugin.errors import ConfigError
from tests.unit.catalog.conftest import Site

MANIFEST = """
title = "GPT: a provider"
[secrets.API_KEY]
[secrets.OTHER]
required = false
[config.model]
type = "string"
"""


def config(site: Site, **handlers: dict[str, Any]) -> Config:
    return Config(catalog=CatalogConfig(roots=(site.path,), include_sys_path=False), handlers=handlers)


def entries(site: Site, environ: dict[str, str], **handlers: dict[str, Any]) -> dict[str, CatalogEntry]:
    site.plugin("some-plugin", "gpt", version="2.1", manifest=MANIFEST)
    return dict(scan_config(config(site, **handlers), environ).entries)


def problem(entry: CatalogEntry) -> tuple[str, str] | None:
    return None if entry.problem is None else (entry.problem.state, entry.problem.reason)


def test_an_instance_is_the_plugin_under_its_own_name(site: Site) -> None:
    found = entries(site, {"API_KEY": "k"}, mistral={"plugin": "gpt"}, groq={"plugin": "gpt", "title": "Groq"})
    assert list(found) == ["gpt", "groq", "mistral"]
    assert [(entry.name, entry.plugin, entry.title) for entry in found.values()] == [
        ("gpt", None, "GPT: a provider"),
        ("groq", "gpt", "Groq"),
        ("mistral", "gpt", "mistral"),
    ]
    for entry in found.values():
        assert problem(entry) is None
        assert (entry.distribution, entry.version, entry.entry_point) == ("some-plugin", "2.1", "some_plugin:Plugin")
        assert entry.manifest == found["gpt"].manifest


def test_secrets_come_from_mapped_variables_only(site: Site) -> None:
    environ = {"API_KEY": "common", "MISTRAL_KEY": "own", "OTHER": "other"}
    found = entries(
        site,
        environ,
        mistral={"plugin": "gpt", "secrets": {"API_KEY": "MISTRAL_KEY"}},
        groq={"plugin": "gpt", "secrets": {"API_KEY": "GROQ_KEY"}},
        same={"plugin": "gpt"},
    )
    assert read_secrets(found["gpt"], environ) == {"API_KEY": "common", "OTHER": "other"}
    assert read_secrets(found["same"], environ) == {"API_KEY": "common", "OTHER": "other"}
    assert read_secrets(found["mistral"], environ) == {"API_KEY": "own", "OTHER": "other"}
    assert read_secrets(found["groq"], environ) == {"OTHER": "other"}
    assert problem(found["groq"]) == (
        "missing-secret",
        "set in the host's environment: GROQ_KEY (or, for this handler only, HANDLER_HOST_SECRET_GROQ_API_KEY)",
    )
    assert read_secrets(found["groq"], {"HANDLER_HOST_SECRET_GROQ_API_KEY": "g"}) == {"API_KEY": "g"}


def test_a_missing_secret_is_the_plugins_not_the_instances(site: Site) -> None:
    found = entries(site, {"MINE": "k"}, mistral={"plugin": "gpt", "secrets": {"API_KEY": "MINE"}})
    assert found["gpt"].problem is not None
    assert problem(found["mistral"]) is None


def test_an_installed_handler_may_map_its_secrets(site: Site) -> None:
    found = entries(site, {"MINE": "k"}, gpt={"plugin": "gpt", "title": "Mine", "secrets": {"API_KEY": "MINE"}})
    assert (found["gpt"].plugin, found["gpt"].title, problem(found["gpt"])) == (None, "Mine", None)
    assert read_secrets(found["gpt"], {"MINE": "k"}) == {"API_KEY": "k"}


@pytest.mark.parametrize(
    ("handlers", "name", "state", "reason"),
    [
        ({"x": {"plugin": "gpd"}}, "x", "invalid", "no installed plugin has a handler 'gpd'; did you mean 'gpt'?"),
        ({"gpt": {"plugin": "x"}}, "gpt", "conflict", "'gpt' is an installed handler itself; choose another name"),
        (
            {"x": {"plugin": "gpt"}, "y": {"plugin": "x"}},
            "y",
            "invalid",
            "'x' is an instance itself; write plugin = 'gpt'",
        ),
        ({"a/b": {"plugin": "gpt"}}, "a/b", "invalid", "'a/b' is not a valid handler name"),
        ({"../b": {"plugin": "gpt"}}, "../b", "invalid", "'../b' is not a valid handler name"),
    ],
)
def test_what_cannot_be_an_instance_has_its_reason(
    site: Site, handlers: dict[str, Any], name: str, state: str, reason: str
) -> None:
    entry = entries(site, {"API_KEY": "k"}, **handlers)[name]
    assert entry.problem is not None
    assert entry.problem.state == state
    assert reason in entry.problem.reason
    assert "[handlers." in entry.problem.reason


def test_disabled_plugins_and_instances(site: Site) -> None:
    handlers: dict[str, dict[str, Any]] = {"gpt": {"enabled": False}, "x": {"plugin": "gpt"}}
    found = entries(site, {"API_KEY": "k"}, **handlers)
    assert problem(found["x"]) == ("blocked", "disabled by the configuration: [handlers.gpt] enabled = false")
    found = entries(site, {"API_KEY": "k"}, x={"plugin": "gpt", "enabled": False})
    assert problem(found["x"]) == ("blocked", "disabled by the configuration: [handlers.x] enabled = false")
    assert problem(found["gpt"]) is None


def test_settings_and_names_of_secrets_are_checked(site: Site) -> None:
    manifest = entries(site, {})["gpt"].manifest
    good = config(site, x={"plugin": "gpt", "model": "m", "secrets": {"API_KEY": "MINE"}, "title": "X"})
    assert check_configured(manifest, good, "x") == {"model": "m"}
    wrong = config(site, x={"plugin": "gpt", "secrets": {"API_KYE": "MINE"}})
    with pytest.raises(ConfigError, match=r"\[handlers.x\]: secrets: unknown secret 'API_KYE'; did you mean 'API_KEY'"):
        check_configured(manifest, wrong, "x")
    with pytest.raises(ConfigError, match="the plugin declares no secrets"):
        check_configured(None, wrong, "x")


def test_a_list_withholds_the_other_secrets(site: Site) -> None:
    """Also from the instances of the plugin, unless they have secrets of their own."""
    environ = {"API_KEY": "k", "OTHER": "o"}
    found = entries(
        site,
        environ,
        gpt={"secrets": ("API_KEY",)},
        x={"plugin": "gpt"},
        y={"plugin": "gpt", "secrets": ("API_KEY", "OTHER")},
        z={"plugin": "gpt", "secrets": ()},
    )
    assert read_secrets(found["gpt"], environ) == read_secrets(found["x"], environ) == {"API_KEY": "k"}
    assert read_secrets(found["y"], environ) == environ
    assert read_secrets(found["z"], environ) == {}
    assert problem(found["gpt"]) is problem(found["x"]) is None
    state, reason = problem(found["z"]) or ("", "")
    assert state == "missing-secret"
    assert "its plugin requires API_KEY, which secrets of the configuration does not list" in reason


def test_the_list_of_secrets_in_file_and_environment(tmp_path: Path) -> None:
    """As a list, or as JSON."""
    path = tmp_path / "host.toml"
    path.write_text('[handlers.gpt_a]\nsecrets = ["OPENAI_API_KEY"]\n')
    assert load_config(path, {}).config.instance("gpt_a").secrets == ("OPENAI_API_KEY",)
    environ = {"HANDLER_HOST_HANDLERS__GPT_A__SECRETS": "[]"}
    assert load_config(path, environ).config.instance("gpt_a").secrets == ()
    path.write_text('[handlers.gpt_a]\nsecrets = ["sk-very-secret"]\n')
    with pytest.raises(ConfigError, match="the list of the only secrets") as raised:
        load_config(path, {})
    assert "sk-very-secret" not in raised.value.message


def test_the_file_and_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "host.toml"
    path.write_text('[handlers.mistral]\nplugin = "gpt_a"\nsecrets.OPENAI_API_KEY = "MISTRAL_KEY"\n')
    environ = {
        "HANDLER_HOST_HANDLERS__GROQ__PLUGIN": "gpt_a",
        "HANDLER_HOST_HANDLERS__GROQ__SECRETS": '{"OPENAI_API_KEY": "GROQ_KEY"}',
    }
    loaded = load_config(path, environ).config
    assert loaded.instance("mistral").secrets == {"OPENAI_API_KEY": "MISTRAL_KEY"}
    assert (loaded.instance("groq").plugin, loaded.instance("groq").secrets) == (
        "gpt_a",
        {"OPENAI_API_KEY": "GROQ_KEY"},
    )
    assert loaded.settings("mistral") == {}
    path.write_text('[handlers.mistral]\nplugin = 3\n[handlers.mistral.secrets]\nOPENAI_API_KEY = "sk-very-secret"\n')
    with pytest.raises(ConfigError) as raised:
        load_config(path, {})
    assert "handlers.mistral.plugin = 3: must be a text" in raised.value.message
    assert "handlers.mistral.secrets: must be a table of names of environment variables" in raised.value.message
    assert "sk-very" not in raised.value.message
