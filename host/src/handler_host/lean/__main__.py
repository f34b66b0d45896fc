"""``python -m handler_host.lean compile PACKAGE...`` and ``... check PACKAGE``."""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from handler_host.lean.cache import CacheError
from handler_host.lean.checker import CheckFailed, Report, check
from handler_host.lean.compiler import PackageMissing, compile_package
from handler_host.lean.requirement import select_packages

SHOWN = 20
"""Differences that are printed of each kind."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0 if it succeeded, 1 if a package is refused, 2 if it could not run."""
    parser = argparse.ArgumentParser(prog="python -m handler_host.lean", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    compiling = commands.add_parser("compile", help="write the lean code of packages into the cache")
    compiling.add_argument("packages", nargs="*", metavar="PACKAGE", help="openai, or openai==2.54.0")
    compiling.add_argument("--eager", action="append", default=[], metavar="MODULE", help="never defer its import")
    compiling.add_argument("--cache", type=Path, default=None, help="directory of the compiled code")
    compiling.add_argument(
        "--manifest",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="what the [lean] of a handler.toml lists",
    )
    checking = commands.add_parser("check", help="compare eager and lazy runs of a package")
    checking.add_argument("package", metavar="PACKAGE")
    checking.add_argument("--also", action="append", default=[], metavar="PACKAGE", help="lean together with it")
    checking.add_argument("--eager", action="append", default=[], metavar="MODULE", help="known to stay eager")
    options = parser.parse_args(arguments)
    try:
        if options.command == "compile":
            return _compile_all(options)
        report = check(options.package, also=options.also, eager=options.eager)
    except (CacheError, PackageMissing, CheckFailed, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    _show(report)
    return 0 if report.is_lean else 1


def _compile_all(options: argparse.Namespace) -> int:
    jobs: dict[tuple[str, str, tuple[str, ...]], None] = {}
    wanted = [(options.packages, options.eager)]
    for path in options.manifest:
        note = tomllib.loads(path.read_text(encoding="utf-8")).get("lean", {})
        wanted.append((note.get("packages", []), note.get("eager", [])))
    for texts, eager in wanted:
        selection = select_packages(text for text in texts if "==" in text)
        for name, reason in selection.unchecked.items():
            _print(f"{name}: {reason}; not compiled")
        unversioned = dict.fromkeys((text for text in texts if "==" not in text), "")
        for name, version in {**unversioned, **selection.packages}.items():
            own = tuple(sorted(module for module in eager if f"{module}.".startswith(f"{name}.")))
            jobs[name, version, own] = None
    if not jobs:
        raise ValueError("nothing to compile; name packages, or a handler.toml with --manifest")
    for name, version, eager in jobs:
        _compile(name, version, eager, options.cache)
    return 0


def _compile(name: str, version: str, eager: Sequence[str], cache: Path | None) -> None:
    compiled = compile_package(name, version=version, eager=eager, cache=cache)
    stay = f"; {len(compiled.eager)} modules stay eager" if compiled.eager else ""
    _print(f"{name}: {compiled.lazy_names} lazy names in {compiled.rewritten} of {compiled.modules} modules{stay}")


def _show(report: Report) -> None:
    _print(f"{report.package}: {report.modules} modules, {report.names} names compared")
    for module in report.eager:
        _print(f"  must stay eager: {module} ({report.reasons[module]})")
    for title, differences in (("tolerated", report.tolerated), ("differs", report.differences)):
        for difference in differences[:SHOWN]:
            _print(f"  {title}: {difference.place}: eager {difference.eager}, lazy {difference.lazy}")
        if len(differences) > SHOWN:
            _print(f"  {title}: {len(differences) - SHOWN} more")
    _print(f"  {'may be lean' if report.is_lean else 'refused: it must stay eager'}")


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
