"""File, environment and flags make one configuration; each overrides the one before."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from handler_host.config import AuthConfig, Config, HandlerPolicy, looks_secret
from handler_host.config.loader import LoadedConfig, Origin, hash_key, load_config

Write = Callable[[str], Path]


def loaded(environ: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None) -> Config:
    return load_config(None, environ or {}, flags).config


class TestSources:
    def test_defaults(self) -> None:
        assert load_config(None, {}) == LoadedConfig(Config(), {})

    def test_flag_over_environment_over_file(self, write: Write) -> None:
        # given
        path = write('[server]\nhost = "127.0.0.2"\nport = 1\nmax_body = "1MB"')
        environ = {"HANDLER_HOST_SERVER__HOST": "127.0.0.3", "HANDLER_HOST_SERVER__PORT": "2", "PATH": "/bin"}
        # when
        config, origins = load_config(path, environ, {"server.port": "3"})
        # then
        assert (config.server.max_body, config.server.host, config.server.port) == (1024**2, "127.0.0.3", 3)
        assert config.source == path
        assert origins == {
            "server.max_body": Origin("file", str(path)),
            "server.host": Origin("environment", "HANDLER_HOST_SERVER__HOST"),
            "server.port": Origin("flag", "--port"),
        }

    def test_every_kind_of_value_in_the_file(self, write: Write) -> None:
        config = load_config(
            write("""
                data_dir = "/var/lib/host"
                [server]
                request_timeout = 2.5
                [memory]
                limit = "512MB"
                headroom = "64MB"
                [workers]
                window = 65536
                [defaults]
                idle_after = "1h30m"
                preload = ["pydantic", "httpx"]
                pin = true
                isolation = "exec"
                python = "/opt/venv/bin/python"
                [catalog]
                roots = ["/opt/plugins"]
                [catalog.pins]
                gpt_a = "acme-gpt"
                [log]
                format = "json"
            """),
            {},
        ).config
        assert config.data_dir == Path("/var/lib/host")
        assert config.server.request_timeout == 2.5
        assert (config.memory.limit, config.memory.headroom) == (512 * 1024**2, 64 * 1024**2)
        assert config.workers.window == 65536
        assert config.defaults.idle_after == 5400
        assert config.defaults.preload == ("pydantic", "httpx")
        assert (config.defaults.pin, config.defaults.isolation) == (True, "exec")
        assert config.defaults.python == Path("/opt/venv/bin/python")
        assert (config.catalog.roots, config.catalog.pins) == ((Path("/opt/plugins"),), {"gpt_a": "acme-gpt"})
        assert config.log.format == "json"

    def test_every_kind_of_value_in_the_environment(self) -> None:
        config = loaded(
            {
                "HANDLER_HOST_SERVER__PORT": "0",
                "HANDLER_HOST_SERVER__DRAIN_TIMEOUT": "250ms",
                "HANDLER_HOST_MEMORY__LIMIT": "536870912",
                "HANDLER_HOST_MEMORY__HEADROOM": "25%",
                "HANDLER_HOST_DEFAULTS__PRELOAD": '["pydantic", "httpx"]',
                "HANDLER_HOST_DEFAULTS__IDLE_AFTER": "never",
                "HANDLER_HOST_DEFAULTS__PIN": "1",
                "HANDLER_HOST_CATALOG__ROOTS": "/a, /b",
                "HANDLER_HOST_CATALOG__INCLUDE_SYS_PATH": "FALSE",
                "HANDLER_HOST_CATALOG__PINS__GPT_A": "acme-gpt",
                "HANDLER_HOST_DATA_DIR": "/data",
                "HANDLER_HOST_HANDLERS__GPT_A__MAX_QUEUE": "7",
                "HANDLER_HOST_HANDLERS__GPT_A__MODEL": "gpt-4o",
                "HANDLER_HOST_HANDLERS__GPT_A__RETRIES": "3",
                "HANDLER_HOST_HANDLERS__GPT_A__STOP": '["a", "b"]',
            }
        )
        assert (config.server.port, config.server.drain_timeout) == (0, 0.25)
        assert (config.memory.limit, config.memory.headroom) == (512 * 1024**2, 0.25)
        assert config.defaults.preload == ("pydantic", "httpx")
        assert (config.defaults.idle_after, config.defaults.pin) == (None, True)
        assert (config.catalog.roots, config.catalog.include_sys_path) == ((Path("/a"), Path("/b")), False)
        assert config.catalog.pins == {"gpt_a": "acme-gpt"}
        assert config.data_dir == Path("/data")
        assert config.policy("gpt_a").max_queue == 7
        assert config.settings("gpt_a") == {"model": "gpt-4o", "retries": 3, "stop": ["a", "b"]}

    def test_flag_as_value_or_text(self) -> None:
        assert loaded(flags={"server.port": 0}).server.port == loaded(flags={"server.port": "0"}).server.port == 0

    def test_words_for_none(self) -> None:
        flags = {"memory.limit": "auto", "defaults.idle_after": "never", "defaults.memory_estimate": "auto"}
        config = loaded({"HANDLER_HOST_MEMORY__LIMIT": "512MB"}, flags)
        assert (config.memory.limit, config.defaults.idle_after, config.defaults.memory_estimate) == (None, None, None)

    def test_other_variables_are_ignored(self) -> None:
        environ = {
            "HANDLER_HOST_URL": "http://127.0.0.1:1",
            "HANDLER_HOST_CONFIG": "/nowhere",
            "HANDLER_HOST_API_KEY": "a client's",
            "HANDLER_HOST_SECRET_GPT_A_OPENAI_API_KEY": "sk",
            "HANDLER_HOSTING": "something else",
        }
        assert load_config(None, environ) == LoadedConfig(Config(), {})

    def test_variables_of_a_kubernetes_service_are_ignored(self) -> None:
        environ = {
            "HANDLER_HOST_SERVICE_HOST": "10.0.0.1",
            "HANDLER_HOST_SERVICE_PORT": "8080",
            "HANDLER_HOST_SERVICE_PORT_HTTP": "8080",
            "HANDLER_HOST_PORT": "tcp://10.0.0.1:8080",
            "HANDLER_HOST_PORT_8080_TCP": "tcp://10.0.0.1:8080",
            "HANDLER_HOST_PORT_8080_TCP_ADDR": "10.0.0.1",
        }
        assert load_config(None, environ) == LoadedConfig(Config(), {})

    def test_byte_order_mark(self, tmp_path: Path) -> None:
        path = tmp_path / "host.toml"
        path.write_bytes(b"\xef\xbb\xbf[server]\r\nport = 1\r\n")
        assert load_config(path, {}).config.server.port == 1


class TestPaths:
    def test_in_the_file_start_at_its_directory(self, write: Write) -> None:
        path = write(
            'data_dir = "data"\n[catalog]\nroots = ["plugins", "/opt"]\n[defaults]\npython = "venv/bin/python"'
        )
        config = load_config(path, {}).config
        assert config.data_dir == path.parent / "data"
        assert config.catalog.roots == (path.parent / "plugins", Path("/opt"))
        assert config.defaults.python == path.parent / "venv/bin/python"

    def test_in_the_environment_start_at_the_working_directory(self, write: Write) -> None:
        config = load_config(write(""), {"HANDLER_HOST_DATA_DIR": "data"}).config
        assert config.data_dir == Path.cwd() / "data"

    def test_home_is_expanded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/user")
        assert loaded({"HANDLER_HOST_DATA_DIR": "~/data"}).data_dir == Path("/home/user/data")

    def test_links_stay(self, write: Write, tmp_path: Path) -> None:
        """The interpreter of a virtual environment is a link and finds its packages only by that path."""
        (tmp_path / "python").symlink_to(sys.executable)
        config = load_config(write('[defaults]\npython = "python"'), {}).config
        assert config.defaults.python == tmp_path / "python"


class TestHandlers:
    def test_policy_overlays_the_defaults(self, write: Write) -> None:
        # given
        config = load_config(
            write("""
                [defaults]
                idle_after = "1m"
                max_queue = 5
                [handlers.gpt_a]
                idle_after = "never"
                isolation = "inline"
                enabled = false
                model = "m"
            """),
            {},
        ).config
        # then
        assert config.policy("gpt_a") == HandlerPolicy(idle_after=None, max_queue=5, isolation="inline", enabled=False)
        assert config.policy("gpt_b") == config.defaults == HandlerPolicy(idle_after=60, max_queue=5)

    def test_settings(self, write: Write) -> None:
        config = load_config(
            write('[handlers.gpt_a]\npin = true\nmodel = "m"\n[handlers.gpt_a.headers]\nx = 1'), {}
        ).config
        assert config.settings("gpt_a") == {"model": "m", "headers": {"x": 1}}
        assert config.settings("gpt_b") == {}

    def test_preload_of_all_handlers(self, write: Write) -> None:
        config = load_config(
            write('[handlers.a]\npreload = ["httpx", "pydantic"]\n[handlers.b]\npin = true'), {}
        ).config
        assert config.preload() == ("pydantic", "aiohttp", "httpx")

    def test_empty_table_counts(self, write: Write) -> None:
        assert load_config(write("[handlers.gpt_a]"), {}).config.handlers == {"gpt_a": {}}

    def test_variable_finds_a_name_of_the_file(self, write: Write) -> None:
        path = write('[handlers."my-gpt.2"]\nmodel = "m"')
        environ = {"HANDLER_HOST_HANDLERS__MY_GPT_2__MODEL": "n", "HANDLER_HOST_CATALOG__PINS__MY_GPT_2": "acme"}
        config = load_config(path, environ).config
        assert config.handlers == {"my-gpt.2": {"model": "n"}}
        assert config.catalog.pins == {"my-gpt.2": "acme"}


class TestKeys:
    def test_in_the_environment_are_hashed(self) -> None:
        config, origins = load_config(
            None, {"HANDLER_HOST_API_KEYS": "first-key, second-key,", "HANDLER_HOST_ADMIN_TOKEN": "the-token"}
        )
        assert config.auth.api_keys == (hash_key("first-key"), hash_key("second-key"))
        assert config.auth.admin_token == hash_key("the-token")
        assert origins["auth.api_keys"].name == "HANDLER_HOST_API_KEYS"

    def test_in_the_file_are_hashes(self, write: Write) -> None:
        path = write(f'[auth]\napi_keys = ["{hash_key("a")}"]\nadmin_token = "{hash_key("b")}"')
        assert load_config(path, {}).config.auth == AuthConfig(api_keys=(hash_key("a"),), admin_token=hash_key("b"))

    def test_empty_variable_counts_as_unset(self, write: Write) -> None:
        path = write(f'[auth]\napi_keys = ["{hash_key("a")}"]\nadmin_token = "{hash_key("b")}"')
        environ = {"HANDLER_HOST_API_KEYS": " , ", "HANDLER_HOST_ADMIN_TOKEN": " "}
        assert load_config(path, environ) == load_config(path, {})

    def test_repr_has_none(self) -> None:
        config = loaded(
            {
                "HANDLER_HOST_API_KEYS": "first-key",
                "HANDLER_HOST_ADMIN_TOKEN": "the-token",
                "HANDLER_HOST_HANDLERS__GPT_A__API_KEY": "sk-plain",
                "HANDLER_HOST_HANDLERS__GPT_A__MODEL": "m",
            }
        )
        for secret in ("first-key", hash_key("first-key"), "the-token", hash_key("the-token"), "sk-plain"):
            assert secret not in repr(config)
            assert secret not in str(config.auth)
        assert "'model': 'm'" in repr(config)

    @pytest.mark.parametrize(
        ("key", "secret"), [("api_key", True), ("OPENAI_API_KEY", True), ("auth-token", True), ("max_tokens", False)]
    )
    def test_names_that_look_secret(self, key: str, secret: bool) -> None:
        assert looks_secret(key) is secret


def test_configuration_is_frozen() -> None:
    config = Config()
    for part in (config, config.server, config.auth, config.memory, config.workers, config.defaults, config.catalog):
        with pytest.raises(AttributeError):
            setattr(part, part.__struct_fields__[0], None)
