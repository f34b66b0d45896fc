"""Generated packages: whatever forms of import they mix, an eager and a lazy run give the same results."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.lean.conftest import Workshop

PACKAGES = 12
MODULES = 6

PROBE = """
import importlib, inspect
def describe(value):
    if inspect.ismodule(value): return "module " + value.__name__
    if inspect.isroutine(value) or inspect.isclass(value): return value.__module__ + "." + value.__qualname__
    return repr(value)
for number in range({packages}):
    package = f"p{{number}}"
    for name in ["", *(f".m{{index}}" for index in range({modules})), ".sub", ".sub.leaf"]:
        name = package + name
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            print(name, type(error).__name__)
            continue
        for function in ("use", "names"):
            try:
                value = getattr(module, function)()
            except (ImportError, NameError, AttributeError) as error:
                value = type(error).__name__
            print(name, function, value)
        public = sorted(key for key in dir(module) if key[:2] != "__" and key[0] in "vcfx")
        print(name, [(key, describe(getattr(module, key))) for key in public])
"""


def write_package(source: random.Random, package: str) -> dict[str, str]:
    """Return the files of a package whose modules import from earlier ones, in random forms."""
    files = {f"{package}/sub/__init__.py": "", f"{package}/sub/leaf.py": "v_leaf = 'leaf'\ndef use(): return v_leaf\n"}
    for index in range(MODULES):
        files[f"{package}/m{index}.py"] = _module(source, package, index)
    exports = [
        source.choice(
            [
                f"from .m{index} import *",
                f"from .m{index} import v{index} as x{index}, C{index}",
                f"from . import m{index} as x_m{index}",
                f"import {package}.m{index}",
            ]
        )
        for index in range(MODULES)
    ]
    source.shuffle(exports)
    own = [f"def use(): return C{source.randrange(MODULES)}.__name__"]
    if source.random() < 0.3:
        own.append(f"__all__ = {[f'C{source.randrange(MODULES)}']!r}")
    files[f"{package}/__init__.py"] = "\n".join([*exports, *own]) + "\n"
    return files


def _module(source: random.Random, package: str, index: int) -> str:
    lines, names = [], []
    if source.random() < 0.4:
        lines.append("from __future__ import annotations")
    for earlier in source.sample(range(index), k=min(index, 3)):
        form, name = source.choice(
            [
                (f"from .m{earlier} import v{earlier}", f"v{earlier}"),
                (f"from .m{earlier} import v{earlier} as x_{earlier}", f"x_{earlier}"),
                (f"from {package}.m{earlier} import f{earlier}", f"f{earlier}()"),
                (f"from . import m{earlier} as x_{earlier}", f"x_{earlier}.v{earlier}"),
                (f"import {package}.m{earlier}", f"{package}.m{earlier}.v{earlier}"),
                (f"import {package}.m{earlier} as x_{earlier}", f"x_{earlier}.v{earlier}"),
                (f"from .m{earlier} import *", f"C{earlier}.__name__"),
                (f"from .m{earlier} import C{earlier}", f"C{earlier}.__module__"),
                ("from .sub import leaf as x_leaf", "x_leaf.v_leaf"),
                (
                    f"try:\n    from .m{earlier} import v{earlier}\nexcept ImportError:\n    v{earlier} = None",
                    f"v{earlier}",
                ),
                (f"if {source.random() < 0.5}: from .m{earlier} import v{earlier} as v_if\nelse: v_if = 0", "v_if"),
                ("import json, csv as x_csv", "x_csv.__name__ + json.dumps(1)"),
                (f"import {package}.sub.leaf, {package}.m{earlier}", f"{package}.sub.leaf.v_leaf"),
            ]
        )
        lines.append(form)
        names.append(name)
    used = source.choice(names) if names else "None"
    lines += [
        f"v{index} = {index}",
        source.choice(
            [f"v_now = {used}", f"v_late = lambda: {used}", f"class v_K:\n    field = {used}", "v_n = len('n')"]
        ),
        f"class C{index}{'(' + source.choice(['object', 'Exception']) + ')'}:\n    def method(self): return {used}",
        f"def f{index}(value: C{index} = 1): return len([value]) + v{index}",
        f"def use(): return [f{index}(), C{index}().method(), {', '.join(names)}]",
        "def names(): return [name for name in ('C0', 'f0', 'v0') if name in dir(__import__(__name__, fromlist='*'))]",
    ]
    if source.random() < 0.3:
        lines.append(f"__all__ = ['v{index}', 'C{index}', 'f{index}']")
    if source.random() < 0.2 and names:
        lines.append(f"def __getattr__(name):\n    if name == 'virtual': return {used}\n    raise AttributeError(name)")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("seed", range(6))
def test_generated_packages_give_equal_results(workshop: Workshop, seed: int) -> None:
    source = random.Random(seed)
    names = [f"p{number}" for number in range(PACKAGES)]
    lazy_names = 0
    for name in names:
        workshop.write(write_package(source, name))
        lazy_names += workshop.compile(name).lazy_names
    assert lazy_names > PACKAGES
    probe = PROBE.format(packages=PACKAGES, modules=MODULES)
    expected = workshop.run(probe, lazy=False)
    assert workshop.run(probe, lazy=True, packages=names).splitlines() == expected.splitlines()
