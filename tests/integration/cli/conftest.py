"""Fixtures of the command line's tests: the real host in a process of its own, and commands that use it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from handler_host.cli.main import main
from tests.integration.cli.harness import (
    API_KEY,
    PARROT,
    TOKEN,
    Result,
    Run,
    ScriptedServer,
    StartServer,
    WriteToml,
    start_host,
)
from tests.support import install_plugin


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command in this process."""

    def run_command(*words: str) -> Result:
        status = main(words)
        return Result(status, *capsys.readouterr())

    return run_command


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a host with two plugins that work and two that do not; return its URL."""
    root = tmp_path_factory.mktemp("plugins")
    install_plugin(root, "parrot", PARROT, manifest='title = "A parrot"\n')
    install_plugin(root, "macaw", PARROT)
    install_plugin(root, "broken", "raise ImportError('no \\x1b[31msuch thing')")
    install_plugin(root, "keyless", PARROT, manifest="[secrets.MISSING_KEY]\n")
    config = root / "host.toml"
    config.write_text(f'[catalog]\nroots = ["{root}"]\ninclude_sys_path = false\n[defaults]\npreload = []\n')
    with start_host("--config", str(config), environment={"HANDLER_HOST_API_KEYS": API_KEY}) as (url, _):
        yield url


@pytest.fixture
def host(url: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Make all commands use the host; at the end no handler has a worker."""
    monkeypatch.setenv("HANDLER_HOST_URL", url)
    monkeypatch.setenv("HANDLER_HOST_ADMIN_TOKEN", TOKEN)
    monkeypatch.setenv("HANDLER_HOST_API_KEY", API_KEY)
    yield url
    assert run("unload", "--all", "--mode", "force", "--url", url).status == 0


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Return a function that starts a :class:`ScriptedServer`."""
    servers: list[ScriptedServer] = []

    def start(response: Iterable[bytes]) -> ScriptedServer:
        servers.append(ScriptedServer(response))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def write_toml(tmp_path: Path) -> WriteToml:
    """Return a function that writes a configuration file."""

    def write(text: str) -> str:
        path = tmp_path / "host.toml"
        path.write_text(text)
        return str(path)

    return write
