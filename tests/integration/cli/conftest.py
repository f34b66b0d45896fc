"""Fixtures of the command line's tests: the real host in a process of its own, and commands run against it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from handler_host.cli import main
from tests.integration.cli.running import KEY, PARROT, TOKEN, Result, Run, Stranger, serving
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
    """Start the host with two plugins of one kind and a broken one; return its URL."""
    root = tmp_path_factory.mktemp("plugins")
    install_plugin(root, "parrot", PARROT, manifest='title = "A parrot"\n')
    install_plugin(root, "macaw", PARROT)
    install_plugin(root, "broken", "raise ImportError('no \\x1b[31msuch thing')")
    install_plugin(root, "keyless", PARROT, manifest="[secrets.KEY_OF_NOBODY]\n")
    config = root / "host.toml"
    config.write_text(f'[catalog]\nroots = ["{root}"]\ninclude_sys_path = false\n[defaults]\npreload = []\n')
    with serving({"HANDLER_HOST_API_KEYS": KEY}, "--config", str(config)) as url:
        yield url


@pytest.fixture
def host(url: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Make the host that of all commands; at the end no handler has a worker."""
    monkeypatch.setenv("HANDLER_HOST_URL", url)
    monkeypatch.setenv("HANDLER_HOST_ADMIN_TOKEN", TOKEN)
    monkeypatch.setenv("HANDLER_HOST_API_KEY", KEY)
    yield url
    assert run("unload", "--all", "--mode", "force", "--url", url).status == 0


@pytest.fixture
def stranger() -> Iterator[Callable[[Iterable[bytes]], Stranger]]:
    """Return a function that starts a :class:`Stranger`."""
    started: list[Stranger] = []

    def start(response: Iterable[bytes]) -> Stranger:
        started.append(Stranger(response))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def toml(tmp_path: Path) -> Callable[[str], str]:
    """Return a function that writes a configuration file."""

    def write(text: str) -> str:
        path = tmp_path / "host.toml"
        path.write_text(text)
        return str(path)

    return write
