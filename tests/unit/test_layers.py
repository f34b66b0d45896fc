"""The modules of the host import down their layers only, import no more than is declared, and stay small."""

from __future__ import annotations

import ast
import graphlib
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOST = ROOT / "host"
DISTRIBUTIONS = [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]

LAYERS: list[set[str]] = [
    # 0: meaning without I/O; what authors see; one look at the machine
    {"errors", "plugin", "others", "pending", "chat_types", "chat_checks", "chat", "upstream", "reports", "config"}
    | {"log", "suggest", "places", "version", "units", "files"}
    | {"channel.wire", "lifecycle.state", "lifecycle.transitions", "lifecycle.moves", "lifecycle.timers"}
    | {"memory.readings", "memory.shortage"},
    # 1: one source of handlers, one worker, one end of a channel
    {"catalog", "channel", "processes", "worker"},
    # 2: who decides, and what is told of it
    {"lifecycle", "memory"} | {"telemetry.events", "telemetry.counters", "telemetry.history", "telemetry.observation"},
    # 3: HTTP
    {"http", "access", "protocols", "dashboard", "telemetry"},
    # 4: the composition root
    {"app", "server", "signals"},
    # 5: what plugins are tested with; the server never imports it
    {"testing"},
    # 6: the command line, and the package's face
    {"cli", "__main__", "__init__"},
]
"""The packages and modules of ``host/`` by their layers; a module named here counts apart from its package."""

AIOHTTP_TYPES = {"multidict", "yarl"}
"""What aiohttp's own interface hands out, and therefore comes with it."""


def module_name(path: Path) -> str:
    """Return ``cli.render`` for ``host/cli/render.py`` and ``cli`` for ``host/cli/__init__.py``."""
    parts = path.relative_to(HOST).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(HOST.rglob("*.py"))}


def layer_of(module: str) -> int | None:
    """Return the layer of the longest name in ``LAYERS`` that the module has or is inside of."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        for number, names in enumerate(LAYERS):
            if name in names:
                return number
    return None


def imports_of(path: Path, package: str = "") -> Iterator[tuple[int, str]]:
    """Yield each import of a file as its line and absolute dotted name, wherever it stands: lazy and for types too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: -(node.level - 1) or None] if node.level else []
            base += [node.module] if node.module else []
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)


def host_imports(module: str) -> Iterator[tuple[int, str]]:
    """Yield each import of another module of the host as its line and the module's name."""
    path = MODULES[module]
    package = ".".join(["host", *path.relative_to(HOST).parts[:-1]])
    for line, name in imports_of(path, package):
        if name.partition(".")[0] != "host":
            continue
        parts = name.split(".")[1:]
        while parts and ".".join(parts) not in MODULES:
            parts.pop()
        # What is no module is a name of the package itself, unless it is a module that is not there (yet).
        target = ".".join(parts) or ("__init__" if name.count(".") < 2 else name.split(".")[1])
        if target != module:
            yield line, target


def test_every_module_has_a_layer() -> None:
    missing = [name for name in MODULES if layer_of(name) is None]
    assert not missing, f"give {', '.join(missing)} a layer in LAYERS of {Path(__file__).name}"


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    layer = layer_of(module)
    upward = [
        f"{MODULES[module].relative_to(ROOT)}:{line} (layer {layer}) imports {target} (layer {layer_of(target)})"
        for line, target in host_imports(module)
        if layer is not None and (layer_of(target) or 0) > layer
    ]
    assert not upward, "\n".join(upward)


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: {target for _, target in host_imports(module)} for module in MODULES}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"imports go in a circle: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("root", DISTRIBUTIONS, ids=lambda path: path.name)
def test_a_distribution_imports_only_what_it_declares(root: Path) -> None:
    """What else happens to be installed for the tests would be missing elsewhere."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"].get("optional-dependencies", {}).values()
    named = [*project["project"]["dependencies"], *(name for extra in extras for name in extra)]
    declared = {re.split(r"[^\w.-]", name)[0] for name in named}
    (package,) = (root / name for name in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    allowed = {name.replace("-", "_") for name in declared} | {package.name, "host"} | set(sys.stdlib_module_names)
    allowed |= {"google" for name in declared if name.startswith("google-")}
    extras = {
        extra: {re.split(r"[^\w.-]", name)[0].replace("-", "_") for name in names}
        for extra, names in project["project"].get("optional-dependencies", {}).items()
    }
    if "opentelemetry-sdk" in declared:
        allowed.add("opentelemetry")  # a namespace of several distributions
    if any(name.startswith("google-") for name in declared):
        # Google's distributions share this namespace.
        allowed.add("google")
    if "aiohttp" in declared:
        allowed |= AIOHTTP_TYPES
    foreign = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sorted(package.rglob("*.py"))
        for line, name in imports_of(path, package.name)
        # A package that an extra is named for may import what the extra brings.
        if name.partition(".")[0] not in allowed | extras.get(path.parent.name, set())
    ]
    assert not foreign, f"neither of the standard library nor a dependency in {root.name}/pyproject.toml: {foreign}"


def test_the_map_of_the_code_has_every_part() -> None:
    text = (ROOT / "docs" / "explanation" / "code.md").read_text(encoding="utf-8")
    parts = {path.name + "/" if path.is_dir() else path.name for path in HOST.iterdir()}
    here = {name for name in parts if not name.startswith("__") and name not in ("py.typed", "templates/")}
    assert {name for name in here if f"`host/{name}`" not in text} == set()
    assert {name for name in re.findall(r"`host/([\w.]+/?)`", text) if name not in here} == set()


def test_modules_are_small() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    long = {name: lines for name, lines in lengths.items() if lines > 300}
    assert len(long) <= len(lengths) // 8, f"too many modules are longer than 300 lines: {long}"
    assert all(lines <= 400 for lines in long.values()), f"longer than 400 lines: {long}"
