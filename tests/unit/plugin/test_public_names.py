"""The names that plugins may import: each module's ``__all__``, the page that lists them, and the plugins here."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MODULES = ("handler_host.plugin", "handler_host.chat", "handler_host.testing")
PAGE = ROOT / "docs" / "reference" / "api.md"
PLUGINS = sorted(path.name for path in (ROOT / "plugins").iterdir() if path.is_dir())


def documented(module: str) -> list[str]:
    """Return the names that the page lists for ``module``."""
    _, _, rest = PAGE.read_text().partition(f"\n## `{module}`\n")
    section, _, _ = rest.partition("\n## ")
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)


def imports(directory: Path) -> Iterator[tuple[str, str]]:
    """Yield module and name of each import of ``handler_host`` in the sources of ``directory``."""
    for path in directory.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "handler_host":
                yield from ((node.module or "", alias.name) for alias in node.names)
            elif isinstance(node, ast.Import):
                yield from ((alias.name, "") for alias in node.names if alias.name.startswith("handler_host"))


@pytest.mark.parametrize("module", MODULES)
class TestModule:
    def test_page_lists_its_names(self, module: str) -> None:
        names = documented(module)
        assert len(names) == len(set(names)), f"{PAGE.name} lists a name of {module} twice"
        assert set(names) == set(import_module(module).__all__), f"update docs/reference/{PAGE.name}"

    def test_every_name_exists(self, module: str) -> None:
        for name in import_module(module).__all__:
            assert getattr(import_module(module), name) is not None


@pytest.mark.parametrize("plugin", PLUGINS)
def test_plugins_import_public_names_only(plugin: str) -> None:
    sources = ROOT / "plugins" / plugin / "src"
    found = list(imports(sources))
    assert found
    for module, name in found:
        assert module in MODULES, f"{plugin} imports {module}"
        assert name in import_module(module).__all__, f"{plugin} imports {name}"
