"""``config``: what is in force, from where, and what is wrong with it; ``serve`` with a wrong one."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from handler_host.cli.flags import FLAGS, Flag
from handler_host.config.loader import hash_key, load_config
from handler_host.config.values import SECTIONS, keys_of
from tests.integration.cli.running import PARROT, Run
from tests.support import install_plugin

Toml = Callable[[str], str]

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


def test_what_is_shown_says_the_same_as_a_file(toml: Toml, run: Run, tmp_path: Path) -> None:
    source = toml(MANY)
    result = run("config", "--config", source)
    assert result.status == 0, result.err
    shown = tmp_path / "shown.toml"
    shown.write_text(result.out)
    first, second = load_config(Path(source), {}).config, load_config(shown, {}).config
    for name in (*SECTIONS, "data_dir", "handlers"):
        assert getattr(first, name) == getattr(second, name), name


def test_every_key_is_shown_once_with_its_source(toml: Toml, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDLER_HOST_LOG__LEVEL", "debug")
    source = toml('[server]\nhost = "127.0.0.2"\n')
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
def test_secrets_are_masked(form: list[str], toml: Toml, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDLER_HOST_API_KEYS", "s3cret-of-one,s3cret-of-two")
    monkeypatch.setenv("HANDLER_HOST_ADMIN_TOKEN", "s3cret-of-ops")
    monkeypatch.setenv("HANDLER_HOST_SECRET_GPT_A_OPENAI_API_KEY", "s3cret-of-openai")
    source = toml(
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


def test_as_json_in_seconds_and_bytes(toml: Toml, run: Run) -> None:
    source = toml(MANY)
    shown = json.loads(run("config", "--config", source, "--json", "--port", "0").out)
    config = shown["config"]
    assert config["server"]["max_body"] == 1500 * 1024
    assert config["server"]["request_timeout"] == 3630.0
    assert config["defaults"]["idle_after"] is None
    assert config["handlers"]["gpt_a"]["deep"] == {"a": {"b": [True, {"c": 1}]}, "d e": ""}
    assert shown["sources"]["server.port"] == "--port"
    assert shown["sources"]["server.max_body"] == source
    assert "server.host" not in shown["sources"]


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_every_flag_sets_its_key_and_is_named_when_it_is_wrong(flag: Flag, run: Run) -> None:
    result = run("config", flag.name, "")
    assert result.status == 2
    assert result.err.startswith(f"handler-host: {flag.name}: {flag.key} = ")


@pytest.mark.parametrize("command", ["serve", "config"])
def test_a_wrong_configuration_is_one_message_and_2(command: str, toml: Toml, run: Run) -> None:
    source = toml('[server]\nprot = 80\n[memory]\nlimit = "lots"\n')
    result = run(command, "--config", source)
    assert (result.status, result.out) == (2, "")
    assert f"{source}: server.prot = 80: unknown key; did you mean 'port'?" in result.err
    assert f'{source}: memory.limit = "lots": must be' in result.err
    assert "Traceback" not in result.err


def test_a_file_that_is_not_there(run: Run) -> None:
    result = run("serve", "--config", "/no/such/host.toml")
    assert result.status == 2
    assert "/no/such/host.toml" in result.err


def test_check_compares_settings_with_manifests(toml: Toml, run: Run, tmp_path: Path) -> None:
    manifest = '[config.model]\ntype = "string"\n[secrets.KEY_OF_NOBODY]\n'
    root = tmp_path / "plugins"
    install_plugin(root, "parrot", PARROT, manifest=manifest)
    catalog = f'[catalog]\nroots = ["{root}"]\ninclude_sys_path = false\n'
    right = run("config", "check", "--config", toml(catalog + '[handlers.parrot]\nmodel = "x"\n[handlers.parot]\n'))
    assert right.status == 0, right.err
    assert right.out.endswith("host.toml is in order\n")
    assert "warning: [handlers.parot]: no such handler is installed; did you mean 'parrot'?" in right.err
    assert "warning: parrot cannot run: missing-secret: " in right.err
    wrong = run("config", "check", "--config", toml(catalog + '[handlers.parrot]\nmodle = "x"\n'))
    assert (wrong.status, wrong.out) == (2, "")
    assert "modle" in wrong.err
    assert "'model'" in wrong.err


def test_hash_makes_of_a_key_what_a_file_may_have(toml: Toml, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a-long-key-of-a-consumer\n"))
    result = run("config", "hash")
    assert result.out == f"{hash_key('a-long-key-of-a-consumer')}\n"
    assert run("config", "--config", toml(f'[auth]\napi_keys = ["{result.out.strip()}"]\n')).status == 0


@pytest.mark.parametrize("key", ["", "short\n"])
def test_a_short_key_is_refused(key: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(key))
    result = run("config", "hash")
    assert (result.status, result.out) == (2, "")
    assert "fewer than 16 characters" in result.err
