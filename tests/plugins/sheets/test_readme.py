"""The README names all there is, and each of its examples is answered."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from host.catalog.manifest import check_settings, read_manifest
from host.plugin import OPERATION_ATTRIBUTE
from sheets import Sheets
from tests.plugins.sheets.defaults import MANIFEST
from tests.plugins.sheets.hosts import local

README = (MANIFEST.parents[2] / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^\| `([\w.]+)` \| `(\{.*?\})` \| (.*) \|$", README, re.MULTILINE)


def operations() -> set[str]:
    marks = (getattr(getattr(Sheets, name), OPERATION_ATTRIBUTE, None) for name in dir(Sheets))
    return {mark.name for mark in marks if mark is not None}


def test_operations_and_settings_are_the_same_in_code_manifest_and_readme() -> None:
    manifest = read_manifest(str(MANIFEST))
    assert set(manifest.operations or ()) == operations() == {name for name, _, _ in EXAMPLES}
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \| .*? \| .* \|$", README, re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"\w+", row)}
    assert set(manifest.config) <= documented
    for secret in manifest.secrets:
        assert f"`{secret}`" in README


def test_the_configuration_is_in_order() -> None:
    (block,) = re.findall(r"^```toml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    settings = tomllib.loads(block)["handlers"]["sheets"]
    assert check_settings(read_manifest(str(MANIFEST)), settings, "README")["users_columns"] == ["email"]


async def test_each_example_is_answered_with_what_the_readme_says(tmp_path: Path) -> None:
    async with local(tmp_path, users_columns=["email"]) as sheets:
        for name, request, told in EXAMPLES:
            answer = await sheets(name, **json.loads(request))
            for key in re.findall(r'"(\w+)":', told.partition("}`")[0].partition("{…}")[0].partition("[…]")[0])[:1]:
                assert key in answer, f"{name}: {answer}"
