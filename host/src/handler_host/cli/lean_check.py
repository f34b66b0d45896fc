"""Check that the packages of a handler's ``[lean]`` may be lean, in the versions that are installed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from handler_host.catalog.catalog_entry import CatalogEntry
from handler_host.cli.findings import Finding, Level
from handler_host.cli.progress import show_progress
from handler_host.lean.cache import CacheError
from handler_host.lean.checker import CheckFailed, Report, check
from handler_host.lean.compiler import PackageMissing
from handler_host.lean.requirement import Requirement, installed_versions, parse_requirement


def check_lean(entry: CatalogEntry) -> Iterator[Finding]:
    """Run the checker for each package, and yield the results and the ``[lean]`` table that they allow.

    It imports each package eagerly and lazily, in processes of their own: 10 s of CPU for a small package, minutes for
    litellm.
    """
    if entry.manifest is None or not entry.manifest.lean.packages:
        yield Finding(Level.NOTE, entry.name, "lean: all imports are eager; list checked packages in [lean]")
        return
    requirements = [parse_requirement(text) for text in entry.manifest.lean.packages]
    versions = installed_versions(requirement.distribution for requirement in requirements)
    packages = {
        name: requirement
        for requirement in requirements
        if requirement.distribution in versions
        for name in requirement.packages
    }
    eager = dict.fromkeys(entry.manifest.lean.eager)
    refused: set[Requirement] = set()
    with tempfile.TemporaryDirectory(prefix="lean-check-") as cache:
        for name, requirement in packages.items():
            place = f"{name} {versions[requirement.distribution]}"
            others = [other for other, of in packages.items() if other != name and of not in refused]
            try:
                with show_progress(f"checking {place}"):
                    report = check(
                        name,
                        also=others,
                        eager=list(eager),
                        cache=Path(cache),
                        environment=entry.manifest.lean.environment,
                    )
            except (CacheError, CheckFailed, PackageMissing) as error:
                refused.add(requirement)
                yield Finding(Level.PROBLEM, entry.name, f"lean: {place} cannot be checked: {error}")
                continue
            if not report.is_lean:
                refused.add(requirement)
            else:
                eager |= dict.fromkeys(report.eager)
            yield _finding(entry.name, place, report)
    allowed = [requirement for requirement in dict.fromkeys(packages.values()) if requirement not in refused]
    texts = [_text(requirement, versions[requirement.distribution]) for requirement in allowed]
    table = f"packages = {json.dumps(texts)}, eager = {json.dumps(list(eager))}"
    yield Finding(Level.NOTE, entry.name, f"lean: for these versions, [lean] in handler.toml: {table}")


def _finding(handler: str, place: str, report: Report) -> Finding:
    if report.is_lean:
        text = f"lean: {place} may be lean: {report.names} names of {report.modules} modules are the same"
        return Finding(Level.OK, handler, text)
    difference = report.differences[0]
    return Finding(
        Level.PROBLEM,
        handler,
        f"lean: {place} must stay eager; remove it from [lean]: {difference.place} is {difference.eager} eagerly, "
        f"{difference.lazy} lazily",
    )


def _text(requirement: Requirement, version: str) -> str:
    """Return the checked version as it is written in ``[lean] packages``."""
    text = f"{requirement.distribution}=={version}"
    is_default = requirement.packages == (requirement.distribution.replace("-", "_"),)
    return text if is_default else f"{text}: {', '.join(requirement.packages)}"
