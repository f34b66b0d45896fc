"""A worker imports the handlers that the catalog finds in eggs and egg links."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import supervisor_harness, within

ENTRY_POINTS = "[handler_host.v1]\nplug = plug:Handler\n"
SOURCE = """
from handler_host.plugin import operation

class Handler:
    @operation
    def where(self, request: dict) -> dict:
        return {"file": __file__}
"""


def install(directory: Path, info: str) -> None:
    (directory / info).mkdir(parents=True)
    (directory / info / "PKG-INFO").write_text("Name: plug\nVersion: 1.5\n")
    (directory / info / "entry_points.txt").write_text(ENTRY_POINTS)
    (directory / "plug.py").write_text(SOURCE)


@pytest.mark.parametrize("isolation", ["process", "exec"])
@pytest.mark.parametrize("kind", ["egg", "egg-link"])
async def test_dispatch(tmp_path: Path, kind: str, isolation: str) -> None:
    site = tmp_path / "site"
    site.mkdir()
    if kind == "egg":
        sources = site / "plug-1.5-py3.11.egg"
        install(sources, "EGG-INFO")
        (site / "easy-install.pth").write_text("./plug-1.5-py3.11.egg\n")
    else:
        sources = tmp_path / "project"
        install(sources, "plug.egg-info")
        (site / "plug.egg-link").write_text(f"{sources}\n.")
        (site / "easy-install.pth").write_text(f"{sources}\n")
    async with supervisor_harness(site, policy={"isolation": isolation}) as host:
        assert host.supervisor.status("plug").version == "1.5"
        response = await within(host.ask("plug", "where"))
        assert response == {"file": str(sources / "plug.py")}
