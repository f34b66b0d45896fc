"""`handler-host env`: environments made by a real installer, with a real worker in one of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from handler_host.cli import main
from handler_host.testing import Reply, Upstream, worker_under_test
from tests.integration.cli.running import Run

ROOT = Path(__file__).parents[3]
OPENAI_3 = [
    "-r",
    str(ROOT / "requirements" / "openai3.txt"),
    "--installer=--no-build-isolation",
    "--installer=--no-deps",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data directory with an environment of gpt_a's own: with openai 3, where all others have openai 2."""
    data = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(data))
        assert main(["env", "create", "gpt_a", *OPENAI_3]) == 0
        yield data


@pytest.fixture
def own(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(home))
    return home / "handler-host" / "environments" / "gpt_a"


@pytest.mark.slow
def test_a_handler_in_its_own_environment_runs_another_version_of_an_sdk_than_the_rest(own: Path) -> None:
    with Upstream().running() as provider:
        settings = {"base_url": provider.base_url("openai")}
        with worker_under_test("gpt_a", settings) as worker:
            assert worker.chat("Hi")["text"] == Reply().text
            assert worker.status.python == str(own / "bin" / "python")
        assert provider.last.headers["x-stainless-package-version"].startswith("3.")


@pytest.mark.slow
def test_the_list_shows_what_is_in_each_environment_and_what_is_none(own: Path, run: Run) -> None:
    (own.parent / "gpt_z").mkdir()
    try:
        listed = run("env", "list")
    finally:
        (own.parent / "gpt_z").rmdir()
    assert listed.status == 0
    (line,) = (line for line in listed.out.splitlines() if line.startswith("gpt_a"))
    assert "handler-host-gpt-a" in line
    assert str(own) in line
    assert "gpt_z is no virtual environment" in listed.err


@pytest.mark.slow
def test_an_environment_that_is_there_is_made_anew_only_when_that_is_said(own: Path, run: Run) -> None:
    result = run("env", "create", "gpt_a")
    assert result.status == 1
    assert "--replace" in result.err
    assert (own / "bin" / "python").exists()


def test_a_handler_that_nobody_knows_is_refused_before_anything_is_made(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    result = run("env", "create", "gpt_aa")
    assert result.status == 2
    assert "did you mean 'gpt_a'?" in result.err
    assert "handler-host env create gpt_aa PACKAGE" in result.err
    assert not any(tmp_path.iterdir())


def test_what_an_installer_cannot_install_leaves_nothing_behind(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    result = run("env", "create", "gpt_a", str(tmp_path / "missing.whl"), "--installer=--no-index")
    assert result.status == 1
    assert "failed (see above)" in result.err
    assert not any((tmp_path / "handler-host" / "environments").iterdir())


def test_removing_gives_the_handler_back_to_the_shared_environment(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    environment = tmp_path / "handler-host" / "environments" / "gpt_a"
    (environment / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    (environment / "bin").mkdir()
    (environment / "bin" / "python").symlink_to("/bin/true")
    assert run("env", "remove", "gpt_b").status == 1
    assert environment.exists()
    assert run("env", "remove", "gpt_a").status == 0
    assert not environment.exists()
