"""What is wrong with a configuration is said in one line: where, which key, which value, and what is right."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from handler_host.config.loader import hash_key, load_config
from handler_host.plugin.errors import ConfigError

Write = Callable[[str], Path]


def message(path: Path | None, environ: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ or {}, flags)
    return caught.value.message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server]\nprot = 8080", "server.prot = 8080: unknown key; did you mean 'port'?"),
        ("[sever]\nport = 1", "sever: unknown section; did you mean 'server'?"),
        ("port = 8080", "port = 8080: unknown key; did you mean 'port' in [server]?"),
        ("[handler.gpt_a]\nmodel = 1", "handler: unknown section; did you mean 'handlers'?"),
        (
            '[server]\nidle_after = "5m"',
            "server.idle_after = \"5m\": unknown key; did you mean 'idle_after' in [defaults] or [handlers.NAME]?",
        ),
        (
            '[handlers.gpt_a]\nfallback = ["gpt_e", "gpt_a"]',
            'handlers.gpt_a.fallback = ["gpt_e","gpt_a"]: gpt_a cannot stand in for itself; name other handlers',
        ),
        (
            '[handlers.gpt_a]\nfallback = ["gpt_e", "gpt_e"]',
            'handlers.gpt_a.fallback = ["gpt_e","gpt_e"]: names a handler twice; each is asked once',
        ),
        (
            '[handlers.gpt_a]\nfallback = "gpt_e"',
            'handlers.gpt_a.fallback = "gpt_e": has to be a list, with brackets',
        ),
        ('[server]\nport = "8080"', 'server.port = "8080": has to be a whole number, without quotes'),
        ("[server]\nport = 80800", "server.port = 80800: has to be 65535 or less"),
        ("[server]\nport = -1", "server.port = -1: has to be 0 or more"),
        ("[server]\nport = true", "server.port = true: has to be a whole number"),
        ("[server]\nport = 80.5", "server.port = 80.5: has to be a whole number"),
        ("[server]\nhost = 1", "server.host = 1: has to be a text, not empty and of one line"),
        ('[server]\nhost = "a\\nb"', 'server.host = "a\\nb": has to be a text, not empty and of one line'),
        (
            '[server]\nmax_body = "4XB"',
            'server.max_body = "4XB": has to be a size: 512MB, 1.5GB or a whole number of bytes',
        ),
        ('[server]\nrequest_timeout = "0s"', 'server.request_timeout = "0s": has to be 1 ms or more'),
        (
            "[server]\nrequest_timeout = nan",
            "server.request_timeout = null: has to be a duration: 30s, 5m, 1h30m or 250ms",
        ),
        (
            "[memory]\nlimit = 512",
            "memory.limit = 512: has to be 16.0 MB or more; without a unit it is bytes",
        ),
        (
            '[memory]\nlimit = "50%"',
            'memory.limit = "50%": has to be a size: 512MB, 1.5GB or a whole number of bytes, or "auto"',
        ),
        (
            '[memory]\nheadroom = "120%"',
            'memory.headroom = "120%": has to be a share such as "10%", or a size: 512MB, 1.5GB or a ',
        ),
        (
            '[memory]\nlimit = "512MB"\nheadroom = "1GB"',
            "memory.headroom is 1.0 GB: has to be less than memory.limit (512.0 MB)",
        ),
        (
            '[workers]\nheartbeat_interval = "20s"',
            "workers.hang_after is 30.0 s: has to be at least twice workers.heartbeat_interval (20.0 s), or ",
        ),
        (
            '[defaults]\nidle_after = "nevr"',
            'defaults.idle_after = "nevr": has to be a duration: 30s, 5m, 1h30m or 250ms, or "never"',
        ),
        (
            '[defaults]\nisolation = "proces"',
            "defaults.isolation = \"proces\": has to be one of process, exec, inline; did you mean 'process'?",
        ),
        ('[defaults]\npin = "true"', 'defaults.pin = "true": has to be true or false, without quotes'),
        ('[defaults]\npreload = "pydantic"', 'defaults.preload = "pydantic": has to be a list, with brackets'),
        ("[defaults]\npreload = [1]", "defaults.preload = [1]: has to be a text, not empty and of one line"),
        ("[handlers]\ngpt_a = 1", "handlers.gpt_a = 1: has to be a table, [handlers.gpt_a]"),
        ("handlers = 1", "handlers = 1: has to be tables, [handlers.NAME]"),
        ("server = 1", "server = 1: has to be a table, [server]"),
        ("[handlers.gpt_a]\nmax_queue = -1", "handlers.gpt_a.max_queue = -1: has to be 0 or more"),
        ("[catalog]\npins = 1", "catalog.pins = 1: has to be a table"),
        ("[catalog.pins]\ngpt_a = 1", "catalog.pins.gpt_a = 1: has to be a text, not empty and of one line"),
        ("[log]\nlevel = 1979-05-27", 'log.level = "1979-05-27": has to be one of debug, info, warning, error'),
        ("data_dir = 1", "data_dir = 1: has to be a path"),
        ('data_dir = "\\u0000"', 'data_dir = "\\u0000": has to be a path'),
    ],
)
def test_a_mistake_in_the_file(write: Write, text: str, said: str) -> None:
    path = write(text)
    assert message(path).startswith(f"{path}: {said}")


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("SERVER__PROT", "1", "server.prot = \"1\": unknown key; did you mean 'port'?"),
        ("SERVR__PORT", "1", "servr.port = \"1\": unknown section; did you mean 'server'?"),
        ("SERVER__PORT", "80a", 'server.port = "80a": has to be a whole number'),
        ("SERVER__PORT", "", 'server.port = "": has to be a whole number'),
        ("SERVER__", "1", 'server. = "1": unknown key; known: body_timeout, '),
        ("DEFAULTS__PIN", "maybe", 'defaults.pin = "maybe": has to be true or false'),
        ("SERVER__HOST", "\udcff", "server.host = '\\udcff': has to be a text, not empty and of one line"),
        ("HANDLERS__GPT_A", "1", 'handlers.gpt_a = "1": has to be HANDLER_HOST_HANDLERS__NAME__KEY'),
        ("HANDLERS__A__B__C", "1", 'handlers.a.b.c = "1": has to be HANDLER_HOST_HANDLERS__NAME__KEY'),
        ("HANDLERS__GPT_A__PIN", "2", 'handlers.gpt_a.pin = "2": has to be true or false'),
        ("PORT", "9000", "unknown variable; did you mean 'HANDLER_HOST_SERVER__PORT'?"),
        ("LOG_LEVL", "info", "unknown variable; did you mean 'HANDLER_HOST_LOG__LEVEL'?"),
        ("ADMIN_TOKN", "secret", "unknown variable; did you mean 'HANDLER_HOST_ADMIN_TOKEN'?"),
        (
            "BANANA",
            "1",
            "unknown variable; keys are written as HANDLER_HOST_SERVER__PORT, with two underscores after the section",
        ),
    ],
)
def test_a_mistake_in_the_environment(variable: str, value: str, said: str) -> None:
    found = message(None, {f"HANDLER_HOST_{variable}": value})
    assert found.startswith(f"environment variable HANDLER_HOST_{variable}: {said}")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("server.port", "80a", '--port: server.port = "80a": has to be a whole number'),
        ("memory.limit", "lots", '--memory-limit: memory.limit = "lots": has to be a size'),
        (
            "log.level",
            "inf",
            "--log-level: log.level = \"inf\": has to be one of debug, info, warning, error; did you mean 'info'?",
        ),
    ],
)
def test_a_mistake_in_a_flag(key: str, value: str, said: str) -> None:
    assert message(None, {}, {key: value}).startswith(said)


def test_all_mistakes_are_told_at_once(write: Write) -> None:
    path = write("[server]\nprot = 1\nport = 0\n[log]\nlevel = 2")
    found = message(path, {"HANDLER_HOST_SERVER__PORT": "x"}, {"memory.limit": "y"})
    assert [line.partition(": ")[0] for line in found.splitlines()] == [
        str(path),
        str(path),
        "environment variable HANDLER_HOST_SERVER__PORT",
        "--memory-limit",
    ]


class TestSecrets:
    """A key that was written in the wrong place is not repeated in the log."""

    @pytest.mark.parametrize(
        "text",
        [
            'api_keys = ["sk-secret"]',
            '[auth]\napi_keys = ["sk-secret"]',
            '[auth]\napi_keys = "sk-secret"',
            '[auth]\nadmin_token = "sk-secret"',
            '[auth]\nadmin_tokn = "sk-secret"',
            '[auht]\nwhatever = "sk-secret"',
            '[server]\napi_key = "sk-secret"',
            'auth = "sk-secret"',
            '[handlers]\napi_key = "sk-secret"',
        ],
    )
    def test_of_the_file(self, write: Write, text: str) -> None:
        assert "sk-secret" not in message(write(text))

    def test_of_the_environment(self) -> None:
        environ = {
            "HANDLER_HOST_AUTH__ADMIN_TOKEN": "sk-secret",
            "HANDLER_HOST_AUTH__API_KEYS": "sk-secret",
            "HANDLER_HOST_ADMIN_TOKN": "sk-secret",
            "HANDLER_HOST_SERVER__API_KEY": "sk-secret",
        }
        assert "sk-secret" not in message(None, environ)

    def test_say_how_it_is_done(self, write: Write) -> None:
        path = write('[auth]\nadmin_token = "sk-secret"')
        assert message(path) == (
            f"{path}: auth.admin_token: a value is no hash; keys stand here only as sha256:HEX "
            "(`handler-host config hash` makes one); in clear they belong into HANDLER_HOST_ADMIN_TOKEN"
        )

    @pytest.mark.parametrize("wrong", ["sha256:", "sha256:" + "x" * 64, "SHA256:" + "a" * 64, hash_key("a") + "0"])
    def test_only_a_whole_hash_is_one(self, write: Write, wrong: str) -> None:
        assert "is no hash" in message(write(f'[auth]\napi_keys = ["{wrong}"]'))


def test_a_long_value_is_shortened(write: Write) -> None:
    found = message(write(f'[server]\nport = "{"x" * 5000}"'))
    assert len(found) < 300
    assert "xxx...: has to be a whole number" in found


class TestFiles:
    def test_broken_toml_names_line_and_column(self, write: Write) -> None:
        path = write("[server]\nport 8080")
        assert message(path).startswith(f"{path}: is no TOML: ")
        assert "line 2, column 6" in message(path)

    def test_that_is_not_there(self, tmp_path: Path) -> None:
        path = tmp_path / "host.toml"
        assert message(path) == f"{path}: cannot be read: No such file or directory; name another file with --config"

    def test_that_is_a_directory(self, tmp_path: Path) -> None:
        assert "Is a directory" in message(tmp_path)

    def test_that_may_not_be_read(self, write: Write) -> None:
        path = write("")
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("this user may read everything")
        assert "Permission denied" in message(path)

    def test_that_is_not_utf8(self, tmp_path: Path) -> None:
        path = tmp_path / "host.toml"
        path.write_bytes(b"[server]\nhost = '\xff'")
        assert message(path) == f"{path}: is not UTF-8 text: invalid start byte at byte 17"

    def test_whose_name_cannot_be_one(self) -> None:
        assert "cannot be read" in message(Path("a\0b"))

    def test_that_is_nested_without_end(self, write: Write) -> None:
        assert "cannot be read as TOML" in message(write("a = " + "[" * 100_000))

    def test_a_home_that_nobody_has(self) -> None:
        found = message(None, {"HANDLER_HOST_DATA_DIR": "~nobody-of-this-name/data"})
        assert "has to be a path of this machine" in found
