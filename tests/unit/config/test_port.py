"""The port of the platform's variable ``PORT``."""

from __future__ import annotations

from pathlib import Path

import pytest

from handler_host.config.loader import load_config
from handler_host.plugin.errors import ConfigError


def test_port_is_the_default_of_the_port(tmp_path: Path) -> None:
    loaded = load_config(None, {"PORT": "5000"})
    assert loaded.config.server.port == 5000
    assert str(loaded.origins["server.port"]) == "environment variable PORT"
    assert load_config(None, {"PORT": ""}).config.server.port == 8080


def test_the_own_variable_the_file_and_flags_override_it(tmp_path: Path) -> None:
    file = tmp_path / "host.toml"
    file.write_text("[server]\nport = 7000\n")
    assert load_config(file, {"PORT": "5000"}).config.server.port == 7000
    assert load_config(None, {"PORT": "5000", "HANDLER_HOST_SERVER__PORT": "6000"}).config.server.port == 6000
    assert load_config(None, {"PORT": "5000"}, {"server.port": "9000"}).config.server.port == 9000


def test_an_invalid_port_names_the_variable() -> None:
    with pytest.raises(ConfigError, match=r'environment variable PORT: server\.port = "http"'):
        load_config(None, {"PORT": "http"})
