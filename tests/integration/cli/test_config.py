"""``handler-host config``: the values in force, their sources, and what is wrong with them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from handler_host.cli.options import CONFIG_OPTIONS, ConfigOption
from handler_host.config.loader import hash_key, load_config
from handler_host.config.values import SECTIONS, keys_of
from tests.integration.cli.harness import PARROT, Run, WriteToml
from tests.support import install_plugin

MANY = """\
data_dir = "/var/lib/\\u00fc \\"x\\""
[server]
max_body = "1500KB"
request_timeout = "1h0m30s"
keepalive_timeout = 0
[memory]
limit = "512MB"
headroom = "12.5%"
[workers]
heartbeat_interval = "250ms"
hang_after = 1.5
[defaults]
idle_after = "never"
preload = []
[catalog]
roots = ["/a", "/b c"]
pins = {"my gpt" = "mine"}
[models]
fast = "gpt_a"
"gpt-5.*" = "gpt_a/{model}"
[handlers.gpt_a]
idle_after = "90m"
isolation = "exec"
base_url = "http://127.0.0.1:8080/v1"
stop = ["\\n", "\\u007f"]
temperature = 0.25
big = 9007199254740993
since = 2026-01-02T03:04:05Z
deep = {a = {b = [true, {c = 1}]}, "d e" = ""}
[handlers."my gpt"]
pin = true
"""


class TestShow:
    def test_output_is_an_equal_file(
        self, write_toml: WriteToml, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("WORKERS__COMPILE_LEAN", "MEMORY__PRESSURE"):  # set for all tests
            monkeypatch.delenv(f"HANDLER_HOST_{name}")
        source = write_toml(MANY)
        result = run("config", "--config", source)
        assert result.status == 0, result.err
        shown = tmp_path / "shown.toml"
        shown.write_text(result.out)
        first, second = load_config(Path(source), {}).config, load_config(shown, {}).config
        for name in (*SECTIONS, "data_dir", "models", "handlers"):
            assert getattr(first, name) == getattr(second, name), name

    def test_every_key_has_its_source(self, write_toml: WriteToml, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HANDLER_HOST_LOG__LEVEL", "debug")
        source = write_toml('[server]\nhost = "127.0.0.2"\n')
        monkeypatch.setenv("HANDLER_HOST_CONFIG", source)
        result = run("config", "--port", "0")
        lines = [line.split() for line in result.out.splitlines()]
        shown = [(line[0], line[-1]) for line in lines if len(line) > 1]
        assert ("host", source) in shown
        assert ("port", "--port") in shown
        assert ("level", "HANDLER_HOST_LOG__LEVEL") in shown
        assert ("max_body", "default") in shown
        keys = {key for section in SECTIONS.values() for key in keys_of(section)}
        assert all(f"{key} =" in result.out or f"# {key}:" in result.out for key in keys)
        assert all(f"[{section}]" in result.out for section in SECTIONS)

    @pytest.mark.parametrize("form", [[], ["--json"]])
    def test_secrets_are_masked(
        self, form: list[str], write_toml: WriteToml, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HANDLER_HOST_API_KEYS", "s3cret-of-one,s3cret-of-two")
        monkeypatch.setenv("HANDLER_HOST_ADMIN_TOKEN", "s3cret-of-ops")
        monkeypatch.setenv("HANDLER_HOST_SECRET_GPT_A_OPENAI_API_KEY", "s3cret-of-openai")
        source = write_toml(
            '[handlers.gpt_a]\napi_key = "s3cret-in-file"\nmax_tokens = 17\nbase_url = "http://me:s3cret@x/v1"\n'
            'headers = {"X-Api-Key" = "s3cret", plain = "shown"}\nmore = [{password = "s3cret"}]\n'
        )
        result = run("config", "--config", source, *form)
        assert result.status == 0, result.err
        assert "s3cret" not in result.out
        assert hash_key("s3cret-of-ops")[7:] not in result.out
        assert "(2 set)" in result.out
        assert "17" in result.out
        assert "***@x/v1" in result.out
        assert "shown" in result.out

    def test_json_has_seconds_and_bytes(self, write_toml: WriteToml, run: Run) -> None:
        source = write_toml(MANY)
        shown = json.loads(run("config", "--config", source, "--json", "--port", "0").out)
        config = shown["config"]
        assert config["server"]["max_body"] == 1500 * 1024
        assert config["server"]["request_timeout"] == 3630.0
        assert config["defaults"]["idle_after"] is None
        assert config["handlers"]["gpt_a"]["deep"] == {"a": {"b": [True, {"c": 1}]}, "d e": ""}
        assert shown["sources"]["server.port"] == "--port"
        assert shown["sources"]["server.max_body"] == source
        assert "server.host" not in shown["sources"]


class TestErrors:
    @pytest.mark.parametrize("option", CONFIG_OPTIONS, ids=lambda option: option.name)
    def test_every_option_sets_its_key_and_is_named(self, option: ConfigOption, run: Run) -> None:
        result = run("config", option.name, "")
        assert result.status == 2
        assert result.err.startswith(f"handler-host: {option.name}: {option.key} = ")

    @pytest.mark.parametrize("command", ["serve", "config"])
    def test_all_are_in_one_message(self, command: str, write_toml: WriteToml, run: Run) -> None:
        source = write_toml('[server]\nprot = 80\n[memory]\nlimit = "lots"\n')
        result = run(command, "--config", source)
        assert (result.status, result.out) == (2, "")
        assert f"{source}:2: server.prot = 80: unknown key; did you mean 'port'?" in result.err
        assert f'{source}:4: memory.limit = "lots": must be' in result.err
        assert "Traceback" not in result.err

    def test_missing_file(self, run: Run) -> None:
        result = run("serve", "--config", "/no/such/host.toml")
        assert result.status == 2
        assert "/no/such/host.toml" in result.err


def test_check_compares_settings_with_manifests(write_toml: WriteToml, run: Run, tmp_path: Path) -> None:
    manifest = '[config.model]\ntype = "string"\n[secrets.MISSING_KEY]\n'
    root = tmp_path / "plugins"
    install_plugin(root, "parrot", PARROT, manifest=manifest)
    catalog = f'[catalog]\nroots = ["{root}"]\ninclude_sys_path = false\n'
    valid = run(
        "config", "check", "--config", write_toml(catalog + '[handlers.parrot]\nmodel = "x"\n[handlers.parot]\n')
    )
    assert valid.status == 0, valid.err
    assert valid.out.endswith("host.toml is valid\n")
    assert "warning: [handlers.parot]: no such handler is installed; did you mean 'parrot'?" in valid.err
    assert "warning: parrot cannot run: missing-secret: " in valid.err
    invalid = run("config", "check", "--config", write_toml(catalog + '[handlers.parrot]\nmodle = "x"\n'))
    assert (invalid.status, invalid.out) == (2, "")
    assert "modle" in invalid.err
    assert "'model'" in invalid.err


class TestHash:
    def test_is_valid_in_a_file(self, write_toml: WriteToml, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO("a-long-key-of-a-consumer\n"))
        result = run("config", "hash")
        assert result.out == f"{hash_key('a-long-key-of-a-consumer')}\n"
        assert run("config", "--config", write_toml(f'[auth]\napi_keys = ["{result.out.strip()}"]\n')).status == 0

    @pytest.mark.parametrize("key", ["", "short\n"])
    def test_short_key_is_refused(self, key: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(key))
        result = run("config", "hash")
        assert (result.status, result.out) == (2, "")
        assert "fewer than 20 characters" in result.err


class TestSchema:
    def test_has_the_settings_of_installed_handlers(self, write_toml: WriteToml, run: Run, tmp_path: Path) -> None:
        root = tmp_path / "plugins"
        install_plugin(root, "parrot", PARROT, manifest='[config.model]\ntype = "string"\n')
        source = write_toml(f'[catalog]\nroots = ["{root}"]\ninclude_sys_path = false\n')
        schema = json.loads(run("config", "schema", "--config", source).out)
        handlers = schema["properties"]["handlers"]["properties"]
        assert set(handlers) == {"parrot"}
        assert handlers["parrot"]["properties"]["model"] == {"type": "string"}

    def test_invalid_configuration_does_not_matter(self, write_toml: WriteToml, run: Run) -> None:
        result = run("config", "schema", "--config", write_toml("[servre]\n"))
        assert (result.status, result.err) == (0, "")
        assert "gpt_a" in json.loads(result.out)["properties"]["handlers"]["properties"]
