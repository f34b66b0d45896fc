"""``handler-host init``: a commented configuration of the installed handlers that is valid as it is."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.integration.cli.harness import PARROT, Run, Terminal
from tests.support import install_plugin

MANIFEST = """\
title = "Parrot"
[secrets.PARROT_KEY]
description = '''
The key of the parrot.
[server]'''
[config.voice]
type = "string"
default = "deep"
description = "How it speaks."
[config.cage]
type = "string"
required = true
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install two plugins, and no others; return the directory for the file."""
    install_plugin(tmp_path / "site", "parrot", PARROT, manifest=MANIFEST)
    install_plugin(tmp_path / "site", "macaw", PARROT)
    monkeypatch.setenv("HANDLER_HOST_CATALOG__ROOTS", str(tmp_path / "site"))
    monkeypatch.setenv("HANDLER_HOST_CATALOG__INCLUDE_SYS_PATH", "false")
    monkeypatch.delenv("HANDLER_HOST_ADMIN_TOKEN", raising=False)
    return tmp_path


def test_the_file_is_valid_and_names_its_secrets_and_settings(plugins: Path, run: Run) -> None:
    file = plugins / "host.toml"
    made = run("init", str(file), "--handlers", "parrot", "--memory-limit", "512MB", "--port", "8081")
    assert made.status == 0, made.err
    assert "export PARROT_KEY=...   # parrot: The key of the parrot. [server]" in made.out
    assert "export HANDLER_HOST_ADMIN_TOKEN=" in made.out
    text = file.read_text()
    assert tomllib.loads(text) == {
        "server": {"host": "127.0.0.1", "port": 8081},
        "memory": {"limit": "512MB"},
        "defaults": {},
        "handlers": {"parrot": {}, "macaw": {"enabled": False}},
    }
    assert '# voice = "deep"  # How it speaks.' in text
    assert "# cage = ...  # required" in text
    assert "# environment variable PARROT_KEY: The key of the parrot. [server]" in text
    checked = run("config", "check", "--config", str(file))
    assert "missing key cage" in checked.err, "a required setting is for the user to write"
    file.write_text(text.replace("# cage = ...", 'cage = "big"'))
    assert run("config", "check", "--config", str(file)).status == 0


def test_a_secret_is_not_missing_if_another_does_instead(
    plugins: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = '[secrets.MACAW_KEY]\nrequired_unless = ["MACAW_TOKEN"]\n[secrets.MACAW_TOKEN]\nrequired = false\n'
    install_plugin(plugins / "site", "macaw", PARROT, manifest=manifest)
    assert "export MACAW_KEY=...   # macaw: ; or set MACAW_TOKEN" in run("init", str(plugins / "first.toml")).out
    monkeypatch.setenv("MACAW_TOKEN", "a-token")
    assert "MACAW" not in run("init", str(plugins / "second.toml")).out.partition("in the host's environment:")[2]


def test_without_a_terminal_all_handlers_are_used(plugins: Path, run: Run) -> None:
    file = plugins / "host.toml"
    assert run("init", str(file)).out.startswith(f"wrote {file} with macaw, parrot")
    refused = run("init", str(file))
    assert (refused.status, "exists; name another file, or replace it with --force" in refused.err) == (2, True)
    unknown = run("init", str(file), "--force", "--handlers", "parot")
    assert (unknown.status, "no handler 'parot' is installed; did you mean 'parrot'?" in unknown.err) == (2, True)
    wrong = run("init", str(file), "--force", "--memory-limit", "much")
    assert (wrong.status, "--memory-limit: " in wrong.err) == (2, True)


def test_a_terminal_is_asked_for_the_handlers(plugins: Path) -> None:
    file = plugins / "host.toml"
    with Terminal("init", str(file)) as terminal:
        assert "Parrot" in terminal.until("(Enter: all): ")
        terminal.type("macaw\n")
        terminal.until("handler-host serve --config")
        assert terminal.process.wait(30) == 0
    assert tomllib.loads(file.read_text())["handlers"] == {"macaw": {}, "parrot": {"enabled": False}}


def test_the_end_of_the_input_writes_nothing(plugins: Path) -> None:
    file = plugins / "host.toml"
    with Terminal("init", str(file)) as terminal:
        terminal.until("(Enter: all): ")
        terminal.type("\x04")
        assert "Traceback" not in terminal.until("nothing was written")
        assert terminal.process.wait(30) == 2
    assert not file.exists()
