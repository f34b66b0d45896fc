"""The file, the environment and the flags make one configuration, the later one stronger."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from handler_host.config import AuthConfig, Config, HandlerPolicy, looks_secret
from handler_host.config.loader import Loaded, Origin, hash_key, load_config

Write = Callable[[str], Path]


def loaded(environ: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None) -> Config:
    return load_config(None, environ or {}, flags).config


def test_with_nothing_given_everything_has_a_default() -> None:
    assert load_config(None, {}) == Loaded(Config(), {})


def test_the_file_gives_way_to_the_environment_and_that_to_flags(write: Write) -> None:
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


def test_each_kind_of_value_is_read_from_the_file(write: Write) -> None:
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


def test_texts_of_the_environment_are_read_as_the_key_wants_them() -> None:
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


def test_flags_may_be_values_as_well_as_texts() -> None:
    assert loaded(flags={"server.port": 0}).server.port == loaded(flags={"server.port": "0"}).server.port == 0


def test_the_words_for_none() -> None:
    flags = {"memory.limit": "auto", "defaults.idle_after": "never", "defaults.memory_estimate": "auto"}
    config = loaded({"HANDLER_HOST_MEMORY__LIMIT": "512MB"}, flags)
    assert (config.memory.limit, config.defaults.idle_after, config.defaults.memory_estimate) == (None, None, None)


def test_variables_that_are_no_keys_are_left_alone() -> None:
    environ = {
        "HANDLER_HOST_URL": "http://127.0.0.1:1",
        "HANDLER_HOST_CONFIG": "/nowhere",
        "HANDLER_HOST_API_KEY": "a client's",
        "HANDLER_HOST_SECRET_GPT_A_OPENAI_API_KEY": "sk",
        "HANDLER_HOSTING": "something else",
    }
    assert load_config(None, environ) == Loaded(Config(), {})


def test_what_kubernetes_adds_for_a_service_of_our_name_is_left_alone() -> None:
    environ = {
        "HANDLER_HOST_SERVICE_HOST": "10.0.0.1",
        "HANDLER_HOST_SERVICE_PORT": "8080",
        "HANDLER_HOST_SERVICE_PORT_HTTP": "8080",
        "HANDLER_HOST_PORT": "tcp://10.0.0.1:8080",
        "HANDLER_HOST_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "HANDLER_HOST_PORT_8080_TCP_ADDR": "10.0.0.1",
    }
    assert load_config(None, environ) == Loaded(Config(), {})


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "host.toml"
    path.write_bytes(b"\xef\xbb\xbf[server]\r\nport = 1\r\n")
    assert load_config(path, {}).config.server.port == 1


class TestPaths:
    def test_of_the_file_start_at_its_directory(self, write: Write) -> None:
        path = write(
            'data_dir = "data"\n[catalog]\nroots = ["plugins", "/opt"]\n[defaults]\npython = "venv/bin/python"'
        )
        config = load_config(path, {}).config
        assert config.data_dir == path.parent / "data"
        assert config.catalog.roots == (path.parent / "plugins", Path("/opt"))
        assert config.defaults.python == path.parent / "venv/bin/python"

    def test_of_the_environment_start_where_the_host_does(self, write: Write) -> None:
        config = load_config(write(""), {"HANDLER_HOST_DATA_DIR": "data"}).config
        assert config.data_dir == Path.cwd() / "data"

    def test_may_start_at_home(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/of/somebody")
        assert loaded({"HANDLER_HOST_DATA_DIR": "~/data"}).data_dir == Path("/home/of/somebody/data")

    def test_keep_their_links(self, write: Write, tmp_path: Path) -> None:
        """The interpreter of a virtual environment is a link, and knows its packages only by that name."""
        (tmp_path / "python").symlink_to(sys.executable)
        config = load_config(write('[defaults]\npython = "python"'), {}).config
        assert config.defaults.python == tmp_path / "python"


class TestHandlers:
    def test_policy_is_the_defaults_overlaid(self, write: Write) -> None:
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

    def test_settings_are_its_own_keys(self, write: Write) -> None:
        config = load_config(
            write('[handlers.gpt_a]\npin = true\nmodel = "m"\n[handlers.gpt_a.headers]\nx = 1'), {}
        ).config
        assert config.settings("gpt_a") == {"model": "m", "headers": {"x": 1}}
        assert config.settings("gpt_b") == {}

    def test_the_fork_server_preloads_for_all(self, write: Write) -> None:
        config = load_config(
            write('[handlers.a]\npreload = ["httpx", "pydantic"]\n[handlers.b]\npin = true'), {}
        ).config
        assert config.preload() == ("pydantic", "httpx")

    def test_an_empty_table_is_none_the_less_one(self, write: Write) -> None:
        assert load_config(write("[handlers.gpt_a]"), {}).config.handlers == {"gpt_a": {}}

    def test_a_name_that_no_variable_can_carry_is_found_in_the_file(self, write: Write) -> None:
        path = write('[handlers."my-gpt.2"]\nmodel = "m"')
        environ = {"HANDLER_HOST_HANDLERS__MY_GPT_2__MODEL": "n", "HANDLER_HOST_CATALOG__PINS__MY_GPT_2": "acme"}
        config = load_config(path, environ).config
        assert config.handlers == {"my-gpt.2": {"model": "n"}}
        assert config.catalog.pins == {"my-gpt.2": "acme"}


class TestKeys:
    def test_of_the_environment_are_hashed_at_once(self) -> None:
        config, origins = load_config(
            None, {"HANDLER_HOST_API_KEYS": "first-key, second-key,", "HANDLER_HOST_ADMIN_TOKEN": "the-token"}
        )
        assert config.auth.api_keys == (hash_key("first-key"), hash_key("second-key"))
        assert config.auth.admin_token == hash_key("the-token")
        assert origins["auth.api_keys"].name == "HANDLER_HOST_API_KEYS"

    def test_of_the_file_are_hashes(self, write: Write) -> None:
        path = write(f'[auth]\napi_keys = ["{hash_key("a")}"]\nadmin_token = "{hash_key("b")}"')
        assert load_config(path, {}).config.auth == AuthConfig(api_keys=(hash_key("a"),), admin_token=hash_key("b"))

    def test_an_empty_variable_does_not_open_what_the_file_locks(self, write: Write) -> None:
        path = write(f'[auth]\napi_keys = ["{hash_key("a")}"]\nadmin_token = "{hash_key("b")}"')
        environ = {"HANDLER_HOST_API_KEYS": " , ", "HANDLER_HOST_ADMIN_TOKEN": " "}
        assert load_config(path, environ) == load_config(path, {})

    def test_do_not_show(self) -> None:
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
    def test_are_known_by_their_names(self, key: str, secret: bool) -> None:
        assert looks_secret(key) is secret


def test_the_configuration_is_frozen() -> None:
    config = Config()
    for part in (config, config.server, config.auth, config.memory, config.workers, config.defaults, config.catalog):
        with pytest.raises(AttributeError):
            setattr(part, part.__struct_fields__[0], None)


def test_loading_brings_nothing_heavy() -> None:
    """The server loads its configuration at every start, and keeps what that has imported."""
    heavy = {"argparse", "ctypes", "difflib", "importlib.metadata", "json", "psutil", "pydantic", "tomllib"}
    script = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "import handler_host.config, handler_host._internal.units, handler_host._internal.log\n"
        "import handler_host.config.loader, handler_host.memory.procfs\n"
        "from handler_host.config.loader import load_config\n"
        "load_config(None, {'HANDLER_HOST_SERVER__PORT': '1'}, {'server.host': '127.0.0.1'})\n"
        f"print('loaded', *sorted({heavy!r} & set(sys.modules)))"
    )
    # Without site, whose own imports would be counted.
    command = [sys.executable, "-S", "-W", "error", "-c", script, *filter(None, sys.path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("loaded\n", "")
