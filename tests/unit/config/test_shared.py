"""The URL of the shared server: what is wrong with it, never the URL itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from handler_host.cli.config_view import toml_lines
from handler_host.config.loader import load_config
from handler_host.plugin.errors import ConfigError

VARIABLE = "HANDLER_HOST_SHARED__URL"


@pytest.mark.parametrize(
    "url",
    [
        "redis://redis:6379/0",
        "rediss://redis",
        "valkey://:word@[::1]:6379",
        "valkeys://u:p@redis/1",
        "unix:///run/redis",
    ],
)
def test_urls_that_are_valid(url: str) -> None:
    assert load_config(None, {VARIABLE: url}).config.shared.url == url


@pytest.mark.parametrize(
    "url", ["http://:the-word@redis", "redis://", "redis:6379", "redis://:the-word@redis:99999", "redis://[", "unix://"]
)
def test_url_that_is_invalid_is_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match=f"variable {VARIABLE}: shared.url: must be like redis://") as error:
        load_config(None, {VARIABLE: url})
    assert "the-word" not in error.value.message


def test_password_in_a_file_is_refused_and_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "host.toml"
    file.write_text('[shared]\nurl = "redis://:the-word@redis"\n')
    with pytest.raises(ConfigError, match=r"contains a password; set the URL in HANDLER_HOST_SHARED__URL") as error:
        load_config(file, {})
    assert "the-word" not in error.value.message
    loaded = load_config(None, {VARIABLE: "redis://:the-word@redis"})
    assert "the-word" not in repr(loaded.config)
    assert "the-word" not in "\n".join(toml_lines(loaded))
