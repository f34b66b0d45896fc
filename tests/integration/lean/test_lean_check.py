"""``check --lean``: what the checker finds in the packages of a handler, and the table that it allows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from handler_host.catalog.catalog import scan_config
from handler_host.cli.findings import Finding
from handler_host.cli.lean_check import check_lean
from handler_host.config import CatalogConfig, Config
from tests.support import install_plugin

FILES = {
    "good_sdk/__init__.py": "from . import heavy, effects\ndef weigh(): return heavy.WEIGHT, effects\n",
    "good_sdk/heavy.py": "WEIGHT = 42\n",
    "good_sdk/effects.py": "import os\nos.environ['GOOD_SDK'] = '1'\n",
    "bad_sdk/__init__.py": "from . import part\nimport sys\n"
    "if 'bad_sdk.part' not in sys.modules: raise RuntimeError('order')\n",
    "bad_sdk/part.py": "X = 1\n",
}
SWITCHED = {
    "switched_sdk/__init__.py": "import os\n"
    "if 'SWITCHED_SDK' not in os.environ: raise RuntimeError('asks the network')\n",
}
MANIFEST = '[lean]\npackages = ["good-sdk==0.9", "bad-sdk==2.0", "missing-sdk==1.0"]\n'


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Finding]]:
    """Return what checks a handler with packages that are written here, with these names of their metadata."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def run(files: dict[str, str], manifest: str, *installed: str) -> list[Finding]:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        for name in installed:
            (tmp_path / f"{name}.dist-info").mkdir()
        install_plugin(tmp_path, "leaner", "class Handler: pass\n", manifest=manifest)
        entries = scan_config(Config(catalog=CatalogConfig(roots=(tmp_path,), include_sys_path=False)), {}).entries
        return list(check_lean(entries["leaner"]))

    return run


def test_findings_have_the_table_for_the_installed_versions(check: Callable[..., list[Finding]]) -> None:
    good, bad, table = check(FILES, MANIFEST, "good_sdk-1.0", "bad_sdk-2.0")
    assert (good.level, good.text.partition(":")[2].partition(":")[0]) == ("ok", " good_sdk 1.0 may be lean")
    assert bad.level == "problem"
    assert "bad_sdk 2.0 must stay eager; remove it from [lean]: bad_sdk is imported eagerly" in bad.text
    assert "RuntimeError: order" in bad.text
    assert table.text.endswith('packages = ["good-sdk==1.0"], eager = ["good_sdk.effects"]')


def test_packages_are_checked_in_the_environment_of_the_plugin(check: Callable[..., list[Finding]]) -> None:
    manifest = '[lean]\npackages = ["switched-sdk==1.0"]\nenvironment = { SWITCHED_SDK = "1" }\n'
    result, _ = check(SWITCHED, manifest, "switched_sdk-1.0")
    assert (result.level, result.text.partition(":")[2].partition(":")[0]) == ("ok", " switched_sdk 1.0 may be lean")


def test_import_that_fails_in_the_check_is_a_problem(check: Callable[..., list[Finding]]) -> None:
    result, table = check(SWITCHED, '[lean]\npackages = ["switched-sdk==1.0"]\n', "switched_sdk-1.0")
    assert result.level == "problem"
    assert "asks the network" in result.text
    assert table.text.endswith("packages = [], eager = []")
