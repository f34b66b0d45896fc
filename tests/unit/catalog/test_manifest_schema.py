"""The published JSON Schema of ``handler.toml`` says what the reader of manifests does."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest

from handler_host.catalog.manifest import ManifestError, parse_manifest
from handler_host.catalog.manifest_schema import text

ROOT = Path(__file__).parents[3]
PUBLISHED = ROOT / "docs/reference/manifest.schema.json"
GOOD = [
    "",
    'title = "A"\nrequires_host = ">=0.1,<1"\n[memory]\nestimate = "80MB"\n[timeouts]\nactivate = 5\ndrain = "2m"\n',
    '[operations."log.append"]\nsummary = "Append."\nretry_on_crash = true\n[secrets.MY_KEY]\nrequired = false\n',
    '[config.model]\ntype = "string"\nenum = ["a", "b"]\ndefault = "a"\n[config.n]\ntype = "integer"\nminimum = 1\n',
    '[config.names]\ntype = "array"\nitems = "string"\ndescription = "Some."\nrequired = true\n',
]
BAD = [
    "titel = 'A'\n",
    "title = 3\n",
    "[memory]\nestimate = true\n",
    "[memory]\nsize = '1MB'\n",
    "[secrets.lower]\n",
    "[secrets.MY_KEY]\nneeded = true\n",
    "[operations.'with space']\n",
    "[config.model]\n",
    "[config.model]\ntype = 'text'\n",
    "[timeouts]\nactivated = 3\n",
]


def test_the_published_schema_is_that_of_the_code() -> None:
    assert PUBLISHED.read_text() == text(), (
        "run: python -m handler_host.catalog.manifest_schema > docs/reference/manifest.schema.json"
    )


@pytest.mark.parametrize("manifest", GOOD)
def test_what_the_reader_takes_the_schema_takes(manifest: str) -> None:
    parse_manifest(manifest, "handler.toml")
    jsonschema.validate(tomllib.loads(manifest), json.loads(PUBLISHED.read_text()))


@pytest.mark.parametrize("manifest", BAD)
def test_what_the_reader_refuses_the_schema_refuses(manifest: str) -> None:
    with pytest.raises(ManifestError):
        parse_manifest(manifest, "handler.toml")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tomllib.loads(manifest), json.loads(PUBLISHED.read_text()))


@pytest.mark.parametrize("path", sorted(ROOT.glob("plugins/*/src/*/handler.toml")), ids=lambda path: path.parent.name)
def test_this_projects_manifests_fit_the_schema(path: Path) -> None:
    jsonschema.validate(tomllib.loads(path.read_text()), json.loads(PUBLISHED.read_text()))
