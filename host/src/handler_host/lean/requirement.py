"""Packages that may be lean, and the versions of them that were checked."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from typing import NamedTuple

_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][\w.-]*)\s*==\s*([\w.!+-]+)\s*(?::(.*))?", re.ASCII)
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)


class Requirement(NamedTuple):
    """One distribution, the version that was checked, and the packages it installs."""

    distribution: str
    version: str
    packages: tuple[str, ...]


def parse_requirement(text: str) -> Requirement:
    """Parse ``DISTRIBUTION==VERSION`` or ``DISTRIBUTION==VERSION: PACKAGE, PACKAGE``; raises ``ValueError``.

    Without packages, the name of the distribution is also the name of the package.
    """
    match = _REQUIREMENT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a checked version; write 'DISTRIBUTION==VERSION', like 'openai==2.54.0'")
    distribution, version, names = match.groups()
    listed = [distribution.replace("-", "_")] if names is None else [name.strip() for name in names.split(",")]
    for name in listed:
        if _MODULE.fullmatch(name) is None:
            raise ValueError(
                f"{name!r} is not the name of a package; write 'DISTRIBUTION==VERSION: PACKAGE', "
                "like 'python-dotenv==1.2.1: dotenv'"
            )
    return Requirement(distribution, version, tuple(listed))


class Selection(NamedTuple):
    """The packages of some requirements, by their installed versions."""

    packages: dict[str, str]
    """Packages that may be lean, with the version that is installed."""
    unchecked: dict[str, str]
    """Packages in a version that was not checked, and which."""


def select_packages(requirements: Iterable[str], *, any_version: bool = False) -> Selection:
    """Return the packages that may be lean; ``any_version`` admits versions that were not checked.

    Distributions that are not installed are left out.
    """
    parsed = [parse_requirement(text) for text in requirements]
    installed = installed_versions({requirement.distribution for requirement in parsed})
    packages: dict[str, str] = {}
    unchecked: dict[str, str] = {}
    for distribution, version, names in parsed:
        installed_version = installed.get(distribution)
        if installed_version == version or (installed_version is not None and any_version):
            packages |= dict.fromkeys(names, installed_version)
        elif installed_version is not None:
            unchecked |= dict.fromkeys(names, f"installed is {installed_version}, checked {version}")
    return Selection(packages, {name: reason for name, reason in unchecked.items() if name not in packages})


def check_module_name(name: str) -> None:
    """Raise ``ValueError`` if ``name`` cannot be the name of a module."""
    if _MODULE.fullmatch(name) is None:
        raise ValueError(f"{name!r} is not the name of a module; write it with dots, like 'openai.types'")


def installed_versions(distributions: Iterable[str]) -> dict[str, str]:
    """Return the versions of those distributions that are installed.

    Reads names of directories only: ``importlib.metadata`` costs about 10 ms of CPU
    and 2 MB at its first import.
    """
    wanted = {_normalized(distribution): distribution for distribution in distributions}
    versions: dict[str, str] = {}
    for entry in sys.path:
        try:
            names = os.listdir(entry or ".")
        except OSError:
            continue
        for name in names:
            if name.endswith(".dist-info"):
                name_part, _, version = name.removesuffix(".dist-info").partition("-")
                distribution = wanted.get(_normalized(name_part))
                if distribution is not None and version:
                    versions.setdefault(distribution, version)  # the first on the path is the one imported
    return versions


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
