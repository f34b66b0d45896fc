"""``handler-host doctor``: finds problems from metadata, names the remedies, plans the memory."""

from __future__ import annotations

import compileall
import json
from pathlib import Path
from typing import Any

import pytest

from handler_host.config import MB
from tests.integration.cli.harness import PARROT, TOKEN, Run, start_host
from tests.support import install_plugin

MANIFEST = 'title = "A parrot"\n[memory]\nestimate = "100MB"\n[config.volume]\ntype = "integer"\n'
WITH_SECRET = MANIFEST + "[secrets.MISSING_KEY]\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory for plugins, the only one that the configuration names."""
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    config = tmp_path / "host.toml"
    config.write_text(f'[catalog]\nroots = ["{plugins}"]\ninclude_sys_path = false\n[memory]\nlimit = "512MB"\n')
    monkeypatch.setenv("HANDLER_HOST_CONFIG", str(config))
    monkeypatch.setenv("HANDLER_HOST_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    return plugins


def configure(root: Path, text: str) -> None:
    with (root.parent / "host.toml").open("a") as file:
        file.write(text)


def require(root: Path, name: str, requirement: str) -> None:
    (info,) = root.glob(f"{name}-*.dist-info")
    with (info / "METADATA").open("a") as file:
        file.write(f"Requires-Dist: {requirement}\n")


def report(run: Run, *words: str) -> tuple[int, dict[str, Any]]:
    result = run("doctor", "--json", *words)
    return result.status, json.loads(result.out)


def findings(response: dict[str, Any], level: str) -> list[tuple[str, str]]:
    return [(finding["place"], finding["text"]) for finding in response["findings"] if finding["level"] == level]


def footprint(response: dict[str, Any], handler: str) -> dict[str, Any]:
    (found,) = (entry for entry in response["footprints"] if entry["handler"] == handler)
    return dict(found)


class TestFindings:
    def test_no_problem_and_no_import(self, root: Path, run: Run) -> None:
        install_plugin(root, "parrot", "raise RuntimeError('imported')", manifest=MANIFEST)
        compileall.compile_dir(root, quiet=2)
        status, response = report(run)
        assert status == 0
        assert findings(response, "problem") == findings(response, "warning") == []
        assert ("parrot", "parrot 1.0") in findings(response, "ok")

    def test_broken_handler_has_a_remedy(self, root: Path, run: Run) -> None:
        install_plugin(root, "parrot", PARROT, manifest="[secrets.MISSING_KEY]\n")
        install_plugin(root, "macaw", PARROT, manifest="titel = 'M'\n")
        configure(root, "[handlers.parot]\nvolume = 1\n")
        status, response = report(run)
        problems = dict(findings(response, "problem"))
        assert status == 1
        assert "MISSING_KEY" in problems["parrot"]
        assert "did you mean 'title'?" in problems["macaw"]
        expected = ("[handlers.parot]", "no such handler is installed; did you mean 'parrot'?")
        assert expected in findings(response, "warning")

    def test_setting_that_does_not_fit_the_manifest(self, root: Path, run: Run) -> None:
        install_plugin(root, "parrot", PARROT, manifest=MANIFEST)
        configure(root, "[handlers.parrot]\nvolume = 'loud'\n")
        _, response = report(run)
        ((place, text),) = findings(response, "problem")
        assert place == "[handlers.parrot]"
        assert "volume" in text
        assert "'loud'" in text

    def test_files_that_workers_can_replace(
        self, root: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        _, response = report(run)
        text = f"{tmp_path / 'host.toml'} is below {tmp_path}, where all workers read and write; move it elsewhere"
        assert ("the configuration", text) in findings(response, "warning")

    def test_modules_without_bytecode(self, root: Path, run: Run) -> None:
        install_plugin(root, "parrot", PARROT)
        _, before = report(run)
        compileall.compile_dir(root, quiet=2)
        _, after = report(run)
        ((_, text),) = findings(before, "warning")
        assert f"-m compileall -q {root}" in text
        assert findings(after, "warning") == []


class TestVersions:
    @pytest.mark.parametrize(
        ("requirement", "conflict"),
        [
            ("msgspec<0.1", "parrot 1.0 requires msgspec<0.1, but "),
            ("no-such-thing>=2", "parrot 1.0 requires no-such-thing>=2, which is not installed"),
        ],
        ids=["other", "missing"],
    )
    def test_conflict_suggests_an_environment(self, root: Path, run: Run, requirement: str, conflict: str) -> None:
        install_plugin(root, "parrot", PARROT)
        require(root, "parrot", requirement)
        require(root, "parrot", "other-thing; extra == 'more'")
        _, response = report(run)
        ((place, text),) = findings(response, "problem")
        assert place == "parrot"
        assert text.startswith(conflict)
        assert text.endswith("handler-host env create parrot")

    def test_indirect_conflict(self, root: Path, run: Run) -> None:
        install_plugin(root, "parrot", PARROT)
        install_plugin(root, "seeds", "", group="other.group")
        require(root, "parrot", "seeds[husk]")
        require(root, "seeds", "msgspec<0.1 ; extra == 'husk'")
        _, response = report(run)
        ((_, text),) = findings(response, "problem")
        assert text.startswith("seeds 1.0 requires msgspec<0.1")


class TestText:
    def test_limit_and_plan(self, root: Path, run: Run) -> None:
        install_plugin(root, "parrot", PARROT, manifest=MANIFEST)
        result = run("doctor")
        assert "limit 512.0 MB, configured; budget 460.8 MB" in result.out
        (line,) = (line for line in result.out.splitlines() if line.startswith("parrot "))
        assert line.split() == ["parrot", "152.0", "MB", "fits", "fits", "fits", "fits", "estimated"]

    def test_scope_and_exclusions(self, root: Path, run: Run, tmp_path: Path) -> None:
        for name in ("parrot", "macaw", "heron"):
            install_plugin(root, name, PARROT, manifest=MANIFEST)
        install_plugin(root, "keyless", PARROT, manifest="[secrets.MISSING_KEY]\n")
        result = run("doctor")
        lines = result.out.splitlines()
        assert "a host started from this shell" in lines[0]
        assert str(tmp_path / "host.toml") in lines[0]
        assert str(tmp_path / "data/.handler-host/memory.json") in lines[1]
        assert lines[1].endswith("which does not exist yet")
        assert "not queried" in lines[2]
        (problem,) = (line for line in lines if line.startswith("PROBLEM"))
        assert problem.endswith("missing in the environment of this shell, a running host may have it")
        assert "all at once (3)" in result.out
        assert "Not included: keyless (missing-secret)." in lines
        assert "expected: heron, macaw active at the same time; --expect A,B names others." in lines
        assert "COLD START" not in result.out  # nothing is known about it

    def test_unknown_expected_handler(self, root: Path, run: Run) -> None:
        install_plugin(root, "parrot", PARROT)
        result = run("doctor", "--expect", "parot")
        assert result.status == 2
        assert "did you mean 'parrot'?" in result.err


class TestRunningHost:
    def test_its_secrets_and_learned_memory_count(
        self, root: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """The host has the same configuration, but its own state file, and the secret that this shell lacks."""
        install_plugin(root, "parrot", PARROT, manifest=WITH_SECRET)
        environment = {
            "MISSING_KEY": "secret",
            "HANDLER_HOST_DATA_DIR": f"{tmp_path}/other",
            "HANDLER_HOST_DEFAULTS__PRELOAD": "[]",
        }
        with start_host(environment=environment) as (url, _):
            monkeypatch.setenv("HANDLER_HOST_URL", url)
            monkeypatch.setenv("HANDLER_HOST_ADMIN_TOKEN", TOKEN)
            assert run("load", "parrot").status == 0
            status, response = report(run)
            assert (status, findings(response, "problem")) == (0, [])
            assert any(place == "running host" and url in text for place, text in findings(response, "ok"))
            assert footprint(response, "parrot")["known"] == "learned"
            assert footprint(response, "parrot")["activate_seconds"] > 0
            assert run("doctor").out.count("COLD START") == 1
            # It knows nothing of another version.
            install_plugin(root, "parrot", PARROT, manifest=WITH_SECRET, version="2.0")
            status, response = report(run)
            assert (status, response["left_out"]) == (1, {"parrot": "missing-secret"})

    def test_unreachable_is_a_warning(self, root: Path, run: Run) -> None:
        install_plugin(root, "parrot", PARROT, manifest=MANIFEST)
        compileall.compile_dir(root, quiet=2)
        status, response = report(run, "--url", "http://127.0.0.1:9")
        ((place, text),) = findings(response, "warning")
        assert (status, place) == (0, "running host")
        assert text.startswith("not queried: no host at http://127.0.0.1:9")


@pytest.mark.slow
def test_measure(root: Path, run: Run) -> None:
    install_plugin(root, "parrot", PARROT, manifest=MANIFEST)
    install_plugin(root, "broken", "raise ImportError('no such thing')")
    status, response = report(run, "--measure")
    assert status == 1
    ((place, text),) = findings(response, "problem")
    assert (place, "no such thing" in text) == ("broken", True)
    parrot = footprint(response, "parrot")
    assert parrot["known"] == "measured"
    assert MB < parrot["bytes"] < 100 * MB
    assert parrot["activate_seconds"] > 0
    # The temporary host has stored it for later hosts, and for the next call.
    _, response = report(run)
    parrot = footprint(response, "parrot")
    assert parrot["known"] == "learned"
    assert MB < parrot["bytes"] < 100 * MB


def test_a_shared_server_that_is_away(root: Path, run: Run) -> None:
    pytest.importorskip("redis", reason="redis-py is not installed (handler-host[redis])")
    configure(root, '[shared]\nurl = "redis://127.0.0.1:1"\ntimeout = "5s"\n')
    status, response = report(run)
    assert status == 1
    (text,) = [text for place, text in findings(response, "problem") if place == "[shared]"]
    assert text.startswith("127.0.0.1:1: the shared server is not available: Error 111 connecting to 127.0.0.1:1.")
    assert text.endswith("; start it, or correct shared.url")
