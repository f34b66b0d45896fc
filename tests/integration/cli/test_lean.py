"""``handler-host compile``, and what ``doctor`` reports of lean imports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.cli.harness import PARROT, Run
from tests.support import install_plugin

LEAN = '[lean]\npackages = ["lean-sdk==1.0"]\n'


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory with a plugin and the SDK that its manifest lists."""
    plugins = tmp_path / "plugins"
    (plugins / "lean_sdk").mkdir(parents=True)
    (plugins / "lean_sdk-1.0.dist-info").mkdir()
    (plugins / "lean_sdk" / "__init__.py").write_text("from . import heavy\ndef weigh(): return heavy.WEIGHT\n")
    (plugins / "lean_sdk" / "heavy.py").write_text("WEIGHT = 42\n")
    config = tmp_path / "host.toml"
    config.write_text(f'[catalog]\nroots = ["{plugins}"]\ninclude_sys_path = false\n')
    monkeypatch.setenv("HANDLER_HOST_CONFIG", str(config))
    monkeypatch.setenv("HANDLER_HOST_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("LEAN_CACHE", str(tmp_path / "lean"))
    install_plugin(plugins, "parrot", PARROT, manifest=LEAN)
    return plugins


def lean_finding(run: Run) -> tuple[str, str]:
    findings = json.loads(run("doctor", "--json").out)["findings"]
    (found,) = (
        (finding["level"], finding["text"])
        for finding in findings
        if finding["place"] == "parrot" and ("lean_sdk" in finding["text"] or "eager" in finding["text"])
    )
    return found


def test_packages_are_compiled_once(root: Path, run: Run) -> None:
    first, second = run("compile"), run("compile", "parrot", "--json")
    assert (first.status, first.out) == (0, "parrot: lean_sdk: compiled\n")
    assert json.loads(second.out) == {"parrot": {"lean": ["lean_sdk"], "compiled": [], "eager": {}}}
    assert list((root.parent / "lean").rglob("lean_sdk@1.0/index"))


def test_another_version_is_not_compiled(root: Path, run: Run) -> None:
    (root / "lean_sdk-1.0.dist-info").rename(root / "lean_sdk-1.1.dist-info")
    result = run("compile")
    assert (result.status, result.out) == (0, "parrot: lean_sdk: stays eager: installed is 1.1, checked 1.0\n")


def test_a_cache_that_cannot_be_written_is_an_error(
    root: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LEAN_CACHE", "/dev/null/lean")
    monkeypatch.setenv("HANDLER_HOST_MEMORY__STATE_FILE", "/dev/null/state/memory.json")
    result = run("compile")
    assert result.status == 1
    assert "stays eager: cannot be compiled: /dev/null/lean" in result.out


def test_an_unknown_handler_is_named(root: Path, run: Run) -> None:
    result = run("compile", "parot")
    assert result.status == 2
    assert "no handler 'parot' is installed; did you mean 'parrot'?" in result.err


def test_without_lean_packages_there_is_nothing_to_compile(root: Path, run: Run) -> None:
    install_plugin(root, "parrot", PARROT, manifest="")
    result = run("compile")
    assert (result.status, result.out) == (0, "no handler has packages to compile\n")


def test_doctor_reports_which_imports_are_lean(root: Path, run: Run) -> None:
    remedy = "eager: lean_sdk (not compiled; run: handler-host compile parrot)"
    assert lean_finding(run) == ("note", remedy)
    run("compile")
    assert lean_finding(run) == ("ok", "lean imports of lean_sdk")


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("DEFAULTS__LEAN", "off", 'all imports are eager (lean = "off")'),
        ("DEFAULTS__ISOLATION", "inline", 'all imports are eager (isolation = "inline")'),
        (
            "WORKERS__COMPILE_LEAN",
            "true",
            "eager: lean_sdk (not compiled; the host compiles it after the first activation)",
        ),
    ],
)
def test_doctor_reports_why_imports_are_eager(
    root: Path, run: Run, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, text: str
) -> None:
    monkeypatch.setenv(f"HANDLER_HOST_{variable}", value)
    assert lean_finding(run) == ("note", text)


def test_doctor_names_the_versions_that_differ(root: Path, run: Run) -> None:
    (root / "lean_sdk-1.0.dist-info").rename(root / "lean_sdk-1.1.dist-info")
    assert lean_finding(run) == ("note", "eager: lean_sdk (installed is 1.1, checked 1.0)")
