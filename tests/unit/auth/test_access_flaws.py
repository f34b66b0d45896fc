"""Keys and addresses: what `serve` refuses, and what `doctor` and `config check` report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from handler_host.auth.access_flaws import find_address_flaws, find_unknown_handlers
from handler_host.config import AdminConfig, AuthConfig, Config, ServerConfig
from handler_host.config.loader import hash_key
from handler_host.plugin.errors import ConfigError

GOOD = "0123456789-a-long-key"


def flaws(host: str = "0.0.0.0", admin: str | None = None, environ: Any = None, **auth: Any) -> list[str]:
    auth_config = AuthConfig(**{"api_keys": (hash_key("x"),), **auth})
    config = Config(server=ServerConfig(host=host), admin=AdminConfig(listen=admin), auth=auth_config)
    return list(find_address_flaws(config, environ or {}))


def test_an_open_address_needs_keys() -> None:
    (flaw,) = flaws(api_keys=())
    assert "without API keys the host serves 127.0.0.1 only" in flaw
    assert flaws("127.0.0.1", api_keys=()) == []


@pytest.mark.parametrize("key", ["tiny", "x" * 19, "ababababababababababab"])
def test_weak_key_is_refused_on_reachable_addresses_only(key: str) -> None:
    environ = {"HANDLER_HOST_API_KEYS": f"{GOOD},{key}"}
    (flaw,) = flaws(environ=environ)
    assert flaw.startswith("HANDLER_HOST_API_KEYS: a key is too easy to guess")
    assert key not in flaw
    assert flaws("127.0.0.1", environ=environ) == []
    assert flaws(environ=environ, allow_short_keys=True) == []
    assert flaws(environ={"HANDLER_HOST_API_KEYS": f"{GOOD}, {GOOD}2 ,"}) == []


def test_further_addresses_count() -> None:
    config = Config(server=ServerConfig(listen=("unix:/run/http.sock", "10.0.0.1:80")))
    (flaw,) = find_address_flaws(config, {})
    assert flaw.startswith("server.listen = '10.0.0.1:80': without API keys")
    assert list(find_address_flaws(Config(server=ServerConfig(listen=("unix:/run/http.sock",))), {})) == []


def test_the_admin_token_counts_where_the_admin_routes_are() -> None:
    environ = {"HANDLER_HOST_ADMIN_TOKEN": "short"}
    assert len(flaws(environ=environ)) == 1
    assert flaws(environ=environ, admin="unix:/run/admin.sock") == []
    assert flaws(environ=environ, admin="127.0.0.1:9090") == []
    assert len(flaws("127.0.0.1", environ=environ, admin="0.0.0.0:9090")) == 1


def test_unknown_handlers_of_keys_are_named_with_their_place(tmp_path: Path) -> None:
    file = tmp_path / "consumers.toml"
    file.write_text(f'[consumers.a]\nhash = "{hash_key("a")}"\nhandlers = ["gpt_a", "gpt_bb"]\n')
    assert list(find_unknown_handlers(AuthConfig(consumers_file=file), ["gpt_a", "gpt_b"])) == [
        f"{file}: [consumers.a] handlers: unknown handler 'gpt_bb'; did you mean 'gpt_b'?"
    ]
    with pytest.raises(ConfigError, match="cannot be read"):
        list(find_unknown_handlers(AuthConfig(consumers_file=tmp_path / "none"), []))
