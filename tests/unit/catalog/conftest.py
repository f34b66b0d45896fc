"""Installations without an installer: directories with the metadata that one would write."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from handler_host.catalog.catalog import Catalog, scan
from handler_host.config import CatalogConfig


@dataclass(frozen=True)
class Site:
    """A site directory for distributions."""

    path: Path

    def install(
        self,
        distribution: str,
        entry_points: str | bytes | None = None,
        *,
        version: str = "1.0",
        files: Mapping[str, str | bytes] | None = None,
        package: str | None = None,
        manifest: str | None = None,
        kind: str = "dist-info",
    ) -> Path:
        """Write a distribution whose ``package`` must not be imported; return its metadata directory."""
        contents: dict[str, str | bytes] = dict(files or {})
        if package is not None:
            contents[f"{package}/__init__.py"] = "raise RuntimeError('imported')\n"
            if manifest is not None:
                contents[f"{package}/handler.toml"] = manifest
        info = f"{distribution}-{version}.{kind}"
        metadata = "METADATA" if kind == "dist-info" else "PKG-INFO"
        contents[f"{info}/{metadata}"] = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        if entry_points is not None:
            contents[f"{info}/entry_points.txt"] = entry_points
        if kind == "dist-info":
            contents[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*contents, f"{info}/RECORD"])
        for name, content in contents.items():
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.encode() if isinstance(content, str) else content)
        return self.path / info

    def plugin(self, distribution: str, handler: str, *, version: str = "1.0", manifest: str | None = None) -> Path:
        """Install a valid distribution with one handler."""
        package = distribution.replace("-", "_")
        text = f"[handler_host.v1]\n{handler} = {package}:Plugin\n"
        return self.install(package, text, version=version, package=package, manifest=manifest)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    path = tmp_path / "site"
    path.mkdir()
    return Site(path)


@pytest.fixture
def another_site(tmp_path: Path) -> Site:
    path = tmp_path / "another"
    path.mkdir()
    return Site(path)


Look = Callable[..., Catalog]


@pytest.fixture
def look() -> Look:
    """Scan only the given sites."""

    def look(
        *sites: Site | Path,
        environ: Mapping[str, str] | None = None,
        pins: Mapping[str, str] | None = None,
        blocked: Collection[str] = (),
        search_path: Sequence[str] | None = None,
    ) -> Catalog:
        settings = CatalogConfig(
            roots=tuple(site.path if isinstance(site, Site) else site for site in sites),
            include_sys_path=search_path is not None,
            pins=dict(pins or {}),
        )
        return scan(settings, environ or {}, blocked=blocked, search_path=search_path or [])

    return look
