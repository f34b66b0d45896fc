"""Each problem of a configuration is one line: the place, the key, the value and the remedy."""

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


class TestProblems:
    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("[server]\nprot = 8080", "server.prot = 8080: unknown key; did you mean 'port'?"),
            ("sever = { port = 1 }", "sever: unknown section; did you mean 'server'?"),
            ("port = 8080", "port = 8080: unknown key; did you mean 'port' in [server]?"),
            ("handler = { gpt_a = { model = 1 } }", "handler: unknown section; did you mean 'handlers'?"),
            (
                '[server]\nidle_after = "5m"',
                "server.idle_after = \"5m\": unknown key; did you mean 'idle_after' in [defaults] or [handlers.NAME]?",
            ),
            (
                '[handlers.gpt_a]\nfallback = ["gpt_e", "gpt_a"]',
                'handlers.gpt_a.fallback = ["gpt_e","gpt_a"]: gpt_a cannot be its own fallback; name other handlers',
            ),
            (
                '[handlers.gpt_a]\nfallback = ["gpt_e", "gpt_e"]',
                'handlers.gpt_a.fallback = ["gpt_e","gpt_e"]: names a handler twice; name each once',
            ),
            (
                '[handlers.gpt_a]\nfallback = "gpt_e"',
                'handlers.gpt_a.fallback = "gpt_e": must be a list, with brackets',
            ),
            ('[server]\nport = "8080"', 'server.port = "8080": must be a whole number, without quotes'),
            ("[server]\nport = 80800", "server.port = 80800: must be 65535 or less"),
            ("[server]\nport = -1", "server.port = -1: must be 0 or more"),
            ("[server]\nport = true", "server.port = true: must be a whole number"),
            ("[server]\nport = 80.5", "server.port = 80.5: must be a whole number"),
            ("[server]\nhost = 1", "server.host = 1: must be a text of one line, not empty"),
            ('[server]\nhost = "a\\nb"', 'server.host = "a\\nb": must be a text of one line, not empty'),
            (
                '[server]\nmax_body = "4XB"',
                'server.max_body = "4XB": must be a size: 512MB, 1.5GB or a whole number of bytes',
            ),
            ('[server]\nrequest_timeout = "0s"', 'server.request_timeout = "0s": must be 1 ms or more'),
            (
                "[server]\nrequest_timeout = nan",
                "server.request_timeout = nan: must be a duration: 30s, 5m, 1h30m or 250ms",
            ),
            (
                "[memory]\nlimit = 512",
                "memory.limit = 512: must be 16.0 MB or more; without a unit it is bytes",
            ),
            (
                '[memory]\nlimit = "50%"',
                'memory.limit = "50%": must be a size: 512MB, 1.5GB or a whole number of bytes, or "auto"',
            ),
            (
                '[memory]\nheadroom = "120%"',
                'memory.headroom = "120%": must be a share such as "10%", or a size: 512MB, 1.5GB or a ',
            ),
            (
                '[memory]\nlimit = "512MB"\nheadroom = "1GB"',
                "memory.headroom is 1.0 GB: must be less than memory.limit (512.0 MB)",
            ),
            (
                '[workers]\nheartbeat_interval = "20s"',
                "workers.hang_after is 30.0 s: must be at least twice workers.heartbeat_interval (20.0 s), or ",
            ),
            (
                '[defaults]\nidle_after = "nevr"',
                'defaults.idle_after = "nevr": must be a duration: 30s, 5m, 1h30m or 250ms, or "never"',
            ),
            (
                '[defaults]\nisolation = "proces"',
                "defaults.isolation = \"proces\": must be one of process, exec, inline; did you mean 'process'?",
            ),
            (
                '[launchers.ray]\n[defaults]\nisolation = "raj"',
                "defaults.isolation = \"raj\": must be one of process, exec, inline, ray; did you mean 'ray'?",
            ),
            ("[launchers.ray]\ntls = 1", "launchers.ray.tls = 1: must be true or false"),
            (
                '[launchers.ray]\nlisten = "x"',
                'launchers.ray.listen = "x": must be HOST:PORT ("127.0.0.1:9090"), or unix:',
            ),
            (
                '[server]\nlisten = ["::1:80"]',
                'server.listen = "::1:80": must have brackets around an IPv6 address ("[::1]:9090")',
            ),
            (
                '[server]\nport = 81\n[admin]\nlisten = "127.0.0.1:81"',
                'admin.listen = "127.0.0.1:81": must be another address than that of server.port',
            ),
            (
                '[server]\nlisten = ["unix:/tmp/a", "[::1]:0", "[::1]:0", "unix:///tmp/a"]',
                'server.listen = "unix:///tmp/a": must be another address than that of server.listen',
            ),
            ("[launchers]\nray = 1", "launchers.ray = 1: must be a table, [launchers.ray]"),
            ('[handlers.a]\nresources = { GPU = "1" }', "handlers.a.resources: must be a number"),
            ("[handlers.a]\nresources = { GPU = nan }", "handlers.a.resources: must be a number"),
            ('[defaults]\npin = "true"', 'defaults.pin = "true": must be true or false, without quotes'),
            ('[defaults]\npreload = "pydantic"', 'defaults.preload = "pydantic": must be a list, with brackets'),
            ("[defaults]\npreload = [1]", "defaults.preload = [1]: must be a text of one line, not empty"),
            ("[handlers]\ngpt_a = 1", "handlers.gpt_a = 1: must be a table, [handlers.gpt_a]"),
            ("handlers = 1", "handlers = 1: must be tables, [handlers.NAME]"),
            ("server = 1", "server = 1: must be a table, [server]"),
            ("[handlers.gpt_a]\nmax_queue = -1", "handlers.gpt_a.max_queue = -1: must be 0 or more"),
            ("[catalog]\npins = 1", "catalog.pins = 1: must be a table"),
            ("[catalog.pins]\ngpt_a = 1", "catalog.pins.gpt_a = 1: must be a text of one line, not empty"),
            ("[log]\nlevel = 1979-05-27", 'log.level = "1979-05-27": must be one of debug, info, warning, error'),
            ("data_dir = 1", "data_dir = 1: must be a path"),
            ('data_dir = "\\u0000"', 'data_dir = "\\u0000": must be a path'),
        ],
    )
    def test_in_the_last_line_of_the_file(self, write: Write, text: str, problem: str) -> None:
        path = write(text)
        assert message(path).startswith(f"{path}:{len(text.splitlines())}: {problem}")

    def test_section_is_named_by_its_header(self, write: Write) -> None:
        path = write("data_dir = 'data'\n\n[sever]\nport = 1\n[server]\n")
        assert message(path).startswith(f"{path}:3: sever: unknown section")

    @pytest.mark.parametrize(
        ("variable", "value", "problem"),
        [
            ("SERVER__PROT", "1", "server.prot = \"1\": unknown key; did you mean 'port'?"),
            ("SERVR__PORT", "1", "servr.port = \"1\": unknown section; did you mean 'server'?"),
            ("SERVER__PORT", "80a", 'server.port = "80a": must be a whole number'),
            ("SERVER__PORT", "", 'server.port = "": must be a whole number'),
            ("SERVER__", "1", 'server. = "1": unknown key; known: body_timeout, '),
            ("DEFAULTS__PIN", "maybe", 'defaults.pin = "maybe": must be true or false'),
            ("SERVER__HOST", "\udcff", "server.host = '\\udcff': must be a text of one line, not empty"),
            ("HANDLERS__GPT_A", "1", 'handlers.gpt_a = "1": must be HANDLER_HOST_HANDLERS__NAME__KEY'),
            ("HANDLERS__A__B__C", "1", 'handlers.a.b.c = "1": must be HANDLER_HOST_HANDLERS__NAME__KEY'),
            ("HANDLERS__GPT_A__PIN", "2", 'handlers.gpt_a.pin = "2": must be true or false'),
            ("PORT", "9000", "unknown variable; did you mean 'HANDLER_HOST_SERVER__PORT'?"),
            ("LOG_LEVL", "info", "unknown variable; did you mean 'HANDLER_HOST_LOG__LEVEL'?"),
            ("ADMIN_TOKN", "secret", "unknown variable; did you mean 'HANDLER_HOST_ADMIN_TOKEN'?"),
            (
                "BANANA",
                "1",
                "unknown variable; write a key like HANDLER_HOST_SERVER__PORT, with two underscores after the section",
            ),
        ],
    )
    def test_in_the_environment(self, variable: str, value: str, problem: str) -> None:
        text = message(None, {f"HANDLER_HOST_{variable}": value})
        assert text.startswith(f"environment variable HANDLER_HOST_{variable}: {problem}")

    @pytest.mark.parametrize(
        ("key", "value", "problem"),
        [
            ("server.port", "80a", '--port: server.port = "80a": must be a whole number'),
            ("memory.limit", "lots", '--memory-limit: memory.limit = "lots": must be a size'),
            (
                "log.level",
                "inf",
                "--log-level: log.level = \"inf\": must be one of debug, info, warning, error; did you mean 'info'?",
            ),
        ],
    )
    def test_in_a_flag(self, key: str, value: str, problem: str) -> None:
        assert message(None, {}, {key: value}).startswith(problem)

    def test_all_come_at_once(self, write: Write) -> None:
        path = write("[server]\nprot = 1\nport = 0\n[log]\nlevel = 2")
        text = message(path, {"HANDLER_HOST_SERVER__PORT": "x"}, {"memory.limit": "y"})
        assert [line.partition(": ")[0] for line in text.splitlines()] == [
            f"{path}:2",
            f"{path}:5",
            "environment variable HANDLER_HOST_SERVER__PORT",
            "--memory-limit",
        ]

    def test_long_value_is_cut(self, write: Write) -> None:
        text = message(write(f'[server]\nport = "{"x" * 5000}"'))
        assert len(text) < 300
        assert "xxx...: must be a whole number" in text


class TestSecrets:
    """A message never repeats a key that stands in the wrong place."""

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
    def test_in_the_file(self, write: Write, text: str) -> None:
        assert "sk-secret" not in message(write(text))

    def test_in_the_environment(self) -> None:
        environ = {
            "HANDLER_HOST_AUTH__ADMIN_TOKEN": "sk-secret",
            "HANDLER_HOST_AUTH__API_KEYS": "sk-secret",
            "HANDLER_HOST_ADMIN_TOKN": "sk-secret",
            "HANDLER_HOST_SERVER__API_KEY": "sk-secret",
        }
        assert "sk-secret" not in message(None, environ)

    def test_message_has_the_remedy(self, write: Write) -> None:
        path = write('[auth]\nadmin_token = "sk-secret"')
        assert message(path) == (
            f"{path}:2: auth.admin_token: not a hash; write sha256:HEX (`handler-host config hash` makes it), "
            "or set the key in clear in HANDLER_HOST_ADMIN_TOKEN"
        )

    @pytest.mark.parametrize("wrong", ["sha256:", "sha256:" + "x" * 64, "SHA256:" + "a" * 64, hash_key("a") + "0"])
    def test_malformed_hash(self, write: Write, wrong: str) -> None:
        assert "not a hash" in message(write(f'[auth]\napi_keys = ["{wrong}"]'))


class TestFiles:
    def test_broken_toml_has_line_and_column(self, write: Write) -> None:
        path = write("[server]\nport 8080")
        assert message(path).startswith(f"{path}: not valid TOML: ")
        assert "line 2, column 6" in message(path)

    def test_missing(self, tmp_path: Path) -> None:
        path = tmp_path / "host.toml"
        assert message(path) == f"{path}: cannot be read: No such file or directory; give another file with --config"

    def test_directory(self, tmp_path: Path) -> None:
        assert "Is a directory" in message(tmp_path)

    def test_no_permission(self, write: Write) -> None:
        path = write("")
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("this user may read everything")
        assert "Permission denied" in message(path)

    def test_not_utf8(self, tmp_path: Path) -> None:
        path = tmp_path / "host.toml"
        path.write_bytes(b"[server]\nhost = '\xff'")
        assert message(path) == f"{path}: not UTF-8 text: invalid start byte at byte 17; save the file as UTF-8"

    def test_impossible_name(self) -> None:
        assert "cannot be read" in message(Path("a\0b"))

    def test_nested_without_end(self, write: Write) -> None:
        assert "not valid TOML: it is nested too deeply" in message(write("a = " + "[" * 100_000))

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (f"[server]\nport = {'9' * 5000}\n", "a number has too many digits"),
            ("[server]\nport = 1\nport = 2\n", "the key has a value already; keep one of the two (at line 3"),
            ("[a.b]\n[a.b]\n", "the table [a.b] occurs twice (at line 2, column 5); put all its keys into one"),
        ],
    )
    def test_explained_in_words_of_the_author(self, write: Write, text: str, expected: str) -> None:
        assert f"not valid TOML: {expected}" in message(write(text))

    def test_unknown_home(self) -> None:
        text = message(None, {"HANDLER_HOST_DATA_DIR": "~nobody-of-this-name/data"})
        assert "must be a path on this machine" in text

    def test_relative_path_without_a_working_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A deploy removed it; SIGHUP reads the configuration again."""
        directory = tmp_path / "release"
        directory.mkdir()
        monkeypatch.chdir(directory)
        directory.rmdir()
        text = message(None, {"HANDLER_HOST_DATA_DIR": "data"})
        assert 'data_dir = "data": must be an absolute path: the working directory was removed' in text
