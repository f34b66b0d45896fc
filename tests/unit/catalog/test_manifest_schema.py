"""The published JSON Schema of ``handler.toml`` agrees with the parser of manifests."""

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
VALID = [
    "",
    'title = "A"\nrequires_host = ">=0.1,<1"\n[memory]\nestimate = "80MB"\n[timeouts]\nactivate = 5\ndrain = "2m"\n',
    '[operations."log.append"]\nsummary = "Append."\nretry_on_crash = true\n[secrets.MY_KEY]\nrequired = false\n',
    '[config.model]\ntype = "string"\nenum = ["a", "b"]\ndefault = "a"\n[config.n]\ntype = "integer"\nminimum = 1\n',
    '[config.names]\ntype = "array"\nitems = "string"\ndescription = "Some."\nrequired = true\n',
]
INVALID = [
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


class TestSchema:
    def test_published_file_is_current(self) -> None:
        assert PUBLISHED.read_text() == text(), "run `make reference`"

    @pytest.mark.parametrize("manifest", VALID)
    def test_accepts_valid_manifests(self, manifest: str) -> None:
        parse_manifest(manifest, "handler.toml")
        jsonschema.validate(tomllib.loads(manifest), json.loads(PUBLISHED.read_text()))

    @pytest.mark.parametrize("manifest", INVALID)
    def test_rejects_invalid_manifests(self, manifest: str) -> None:
        with pytest.raises(ManifestError):
            parse_manifest(manifest, "handler.toml")
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(tomllib.loads(manifest), json.loads(PUBLISHED.read_text()))

    @pytest.mark.parametrize(
        "path", sorted(ROOT.glob("plugins/*/src/*/handler.toml")), ids=lambda path: path.parent.name
    )
    def test_accepts_the_plugins_of_this_project(self, path: Path) -> None:
        jsonschema.validate(tomllib.loads(path.read_text()), json.loads(PUBLISHED.read_text()))
