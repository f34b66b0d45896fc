"""``handler-host env``: environments by a real installer, and a real worker in one of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from handler_host.cli.main import main
from handler_host.testing import Reply, Upstream, worker_under_test
from tests.integration.cli.harness import Run

ROOT = Path(__file__).parents[3]
OPENAI_3 = [
    "-r",
    str(ROOT / "requirements" / "openai3.txt"),
    "--installer=--no-build-isolation",
    "--installer=--no-deps",
]


@pytest.fixture(scope="module")
def shared_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a data directory with an environment for gpt_a: it has openai 3, all other handlers openai 2."""
    data = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(data))
        assert main(["env", "create", "gpt_a", *OPENAI_3]) == 0
        yield data


@pytest.fixture
def environment(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return gpt_a's environment."""
    monkeypatch.setenv("XDG_DATA_HOME", str(shared_data))
    return shared_data / "handler-host" / "environments" / "gpt_a"


@pytest.fixture
def environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of the environments, which does not exist yet."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path / "handler-host" / "environments"


@pytest.mark.slow
class TestEnvironment:
    def test_has_another_version_of_an_sdk(self, environment: Path) -> None:
        with Upstream().run() as provider:
            settings = {"base_url": provider.base_url("openai")}
            with worker_under_test("gpt_a", settings) as worker:
                assert worker.chat("Hi").text == Reply().text
                assert worker.status.python == str(environment / "bin" / "python")
            assert provider.last_request.headers["x-stainless-package-version"].startswith("3.")

    def test_list_shows_contents_and_warns_of_other_directories(self, environment: Path, run: Run) -> None:
        (environment.parent / "gpt_z").mkdir()
        try:
            result = run("env", "list")
        finally:
            (environment.parent / "gpt_z").rmdir()
        assert result.status == 0
        (line,) = (line for line in result.out.splitlines() if line.startswith("gpt_a"))
        assert "handler-host-gpt-a" in line
        assert str(environment) in line
        assert "gpt_z" in result.err
        assert "virtual environment" in result.err

    def test_create_needs_replace_if_it_exists(self, environment: Path, run: Run) -> None:
        result = run("env", "create", "gpt_a")
        assert result.status == 1
        assert "--replace" in result.err
        assert (environment / "bin" / "python").exists()


def test_unknown_handler_is_refused_first(environments: Path, run: Run, tmp_path: Path) -> None:
    result = run("env", "create", "gpt_aa")
    assert result.status == 2
    assert "did you mean 'gpt_a'?" in result.err
    assert "handler-host env create gpt_aa PACKAGE" in result.err
    assert not any(tmp_path.iterdir())


def test_failed_installation_leaves_nothing(environments: Path, run: Run, tmp_path: Path) -> None:
    result = run("env", "create", "gpt_a", str(tmp_path / "missing.whl"), "--installer=--no-index")
    assert result.status == 1
    assert "failed (output above)" in result.err
    assert not any(environments.iterdir())


def test_remove(environments: Path, run: Run) -> None:
    environment = environments / "gpt_a"
    (environment / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    (environment / "bin").mkdir()
    (environment / "bin" / "python").symlink_to("/bin/true")
    assert run("env", "remove", "gpt_b").status == 1
    assert environment.exists()
    assert run("env", "remove", "gpt_a").status == 0
    assert not environment.exists()
