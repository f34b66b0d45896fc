"""Find out whether a package may be lean: run it eagerly and lazily, and compare what both leave behind.

Effects of an import that others may rely on (a filter for warnings, a variable of the
environment, a registered codec, class or function, a changed attribute of a foreign
module) are attributed to the module whose execution made them. Those modules must
stay eager; a package that still differs then is refused.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from handler_host.lean.analysis import is_within
from handler_host.lean.cache import NotCompiled
from handler_host.lean.compiler import compile_package
from handler_host.lean.import_hook import open_package

TOLERATED = frozenset({"module", "foreign", "submodule", "unset"})
MAX_ROUNDS = 12
"""Runs that may each add modules which must stay eager."""


class Difference(NamedTuple):
    """Something that an eager and a lazy import do not leave alike."""

    kind: str
    """``import``, ``state``, ``name``; tolerated: ``module`` (only ``__module__``), ``foreign`` (of other packages),
    ``submodule`` (loaded by chance), ``unset`` (a private variable that is filled at its first use)."""
    module: str
    place: str
    eager: str
    lazy: str


class Report(NamedTuple):
    """The result of :func:`check`."""

    package: str
    modules: int
    names: int
    """Names of all those modules that were compared."""
    eager: tuple[str, ...]
    """Modules that must stay eager, in addition to those that the rewriter leaves."""
    reasons: dict[str, str]
    """Why, by module."""
    tolerated: tuple[Difference, ...]
    """Differences that users do not rely on, of the kinds :data:`TOLERATED`."""
    differences: tuple[Difference, ...]

    @property
    def is_lean(self) -> bool:
        """Return whether the package may be lean, with ``eager``."""
        return not self.differences


class CheckFailed(Exception):
    """A package cannot even be imported eagerly; the message has the end of the traceback."""


def check(
    package: str,
    *,
    also: Sequence[str] = (),
    eager: Collection[str] = (),
    cache: Path | None = None,
    environment: Mapping[str, str] = {},
) -> Report:
    """Compare eager and lazy runs of a package in processes of their own.

    ``also`` are packages that are lean together with it, ``eager`` modules that are known to
    stay eager. ``cache`` is a directory for compiled code, which several checks may share.
    ``environment`` has variables of both runs.
    Raises ``PackageMissing``, ``CacheError`` and :class:`CheckFailed`.
    """
    with tempfile.TemporaryDirectory(prefix="lean-check-") as directory:
        cache = cache or Path(directory)
        names = Path(directory, "names.json")
        reference = _run(["eager", package], environment)
        names.write_text(json.dumps({module: list(found) for module, found in reference["names"].items()}))
        reasons = dict.fromkeys(eager, "listed before the check")
        differences: list[Difference] = []
        for _ in range(MAX_ROUNDS):
            _compile_missing(also, reasons, cache)
            compiled = compile_package(package, eager=reasons, cache=cache)
            if differences and not compiled.lazy_names:
                break  # nothing is left that could wait: the differences of the last round refuse the package
            arguments = [json.dumps([package, *also]), json.dumps(sorted(reasons)), str(names), str(cache)]
            lazy = _run(["lazy", package, *arguments], environment)
            differences = _compare(reference, lazy, package)
            found = {**_missing_effects(reference, lazy, package), **_broken_modules(differences, package)}
            found |= _failed_modules(lazy, package, reasons)
            found |= {
                module: f"its import raises {error}"
                for module, error in reference["failures"].items()
                if is_within(module, package) and module not in compiled.failing
            }
            if not found.keys() - reasons.keys():
                break
            reasons = {**found, **reasons}
    tolerated = tuple(difference for difference in differences if difference.kind in TOLERATED)
    return Report(
        package,
        len(reference["names"]),
        sum(len(found) for found in reference["names"].values()),
        tuple(sorted(reasons)),
        reasons,
        tolerated,
        tuple(difference for difference in differences if difference.kind not in TOLERATED),
    )


def _compile_missing(packages: Iterable[str], eager: Collection[str], cache: Path) -> None:
    """Compile those packages that are not yet compiled with these eager modules."""
    for name in packages:
        try:
            open_package([cache], name, "", eager)
        except NotCompiled:
            compile_package(name, eager=eager, cache=cache)


def _run(arguments: list[str], environment: Mapping[str, str]) -> dict[str, Any]:
    # Without the caller's filters for warnings: a package that sets one of them would have no effect.
    environ = {**os.environ, **environment, "PYTHONHASHSEED": "0", "PYTHONWARNINGS": ""}
    with tempfile.NamedTemporaryFile("r", suffix=".json") as result:
        process = subprocess.run(
            [sys.executable, "-m", "handler_host.lean.probe", result.name, *arguments],
            capture_output=True,
            text=True,
            env=environ,
            check=False,
        )
        if process.returncode:
            raise CheckFailed(f"the check of {arguments[1]} ended with {process.returncode}: {process.stderr[-2000:]}")
        found: dict[str, Any] = json.load(result)
    if "error" in found and arguments[0] == "eager":
        raise CheckFailed(f"{arguments[1]} cannot be imported eagerly: {found['error']}")
    return found


def _missing_effects(eager: dict[str, Any], lazy: dict[str, Any], package: str) -> dict[str, str]:
    """Return the modules whose effects the lazy run lacks, and those by which the eager run came to them."""
    missing: dict[str, str] = {}
    if "error" in lazy:
        return missing
    executed = {*lazy["executed"]}
    for module, effects in eager["effects"].items():
        if module in executed or not is_within(module, package):
            continue
        missing[module] = f"its import changes: {', '.join(effects)}"
        importer = eager["importers"].get(module)
        while importer is not None and importer not in executed and is_within(importer, package):
            missing.setdefault(importer, f"imports {module}")
            importer = eager["importers"].get(importer)
    return missing


def _failed_modules(lazy: dict[str, Any], package: str, eager: Collection[str]) -> dict[str, str]:
    """Return for each late import that fails the innermost module, of those not yet eager, that was running then."""
    failed: dict[str, str] = {}
    for error, running in lazy["failures"]:
        for module in running:
            if is_within(module, package) and module not in eager:
                failed.setdefault(module, f"imported late it raises {error}")
                break
    return failed


def _broken_modules(differences: Sequence[Difference], package: str) -> dict[str, str]:
    """Return the modules that may be right again if they stay as they are written."""
    return {
        difference.module: f"{difference.place} would be {difference.lazy}"
        for difference in reversed(differences)
        if difference.kind == "name" and is_within(difference.module, package)
    }


def _compare(eager: dict[str, Any], lazy: dict[str, Any], package: str) -> list[Difference]:
    if "error" in lazy:
        return [Difference("import", package, package, "imported", lazy["error"])]
    found = []
    own = _own_effects(eager, lazy, package)
    for key, value in eager["state"].items():
        if lazy["state"].get(key) != value:
            kind = "state" if key in own else "foreign"
            found.append(Difference(kind, package, key, *_apart(value, lazy["state"].get(key))))
    for module, names in eager["names"].items():
        others = lazy["names"][module]
        if isinstance(others, str):
            found.append(Difference("import", module, module, "imported", others))
            continue
        for name, value in names.items():
            other = others[name]
            if other != value:
                kind = _kind_of_name(name, value, other)
                found.append(Difference(kind, module, f"{module}.{name}", str(value), str(other)))
    return found


def _own_effects(eager: dict[str, Any], lazy: dict[str, Any], package: str) -> set[str]:
    """Return the effects that modules of the package had, without those in which only other packages differ."""
    before, after = _effects(eager), _effects(lazy)
    own = {effect for module, effect in before | after if is_within(module, package)}
    differing = {effect for module, effect in before ^ after if is_within(module, package)}
    differing_elsewhere = {effect for _, effect in before ^ after} - differing
    return own - differing_elsewhere


def _effects(run: dict[str, Any]) -> set[tuple[str, str]]:
    """Return the modules that had effects, with each effect."""
    return {(module, effect) for module, effects in run["effects"].items() for effect in effects}


def _kind_of_name(name: str, eager: list[str], lazy: list[str]) -> str:
    if lazy[0] == "unbound":
        # Another module has loaded it, by chance: a user must import it, as with any package.
        return "submodule" if eager[0] == "module" and eager[2].rpartition(".")[2] == name else "name"
    if lazy[0] == "error":
        return "import"
    if lazy[0] == "NoneType" and name.startswith("_"):
        return "unset"
    return "module" if (lazy[0], lazy[2]) == (eager[0], eager[2]) else "name"


def _apart(eager: Any, lazy: Any) -> tuple[str, str]:
    """Return what only one of two lists has."""
    if not isinstance(eager, list) or not isinstance(lazy, list):
        return str(eager), str(lazy)
    return str([one for one in eager if one not in lazy]), str([one for one in lazy if one not in eager])
