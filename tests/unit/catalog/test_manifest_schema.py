"""The published JSON Schema of ``handler.toml`` agrees with the parser of manifests."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest

from handler_host.catalog import settings
from handler_host.catalog.manifest import ManifestError, parse_manifest
from handler_host.catalog.manifest_reference import main, page
from handler_host.catalog.manifest_schema import schema, text

ROOT = Path(__file__).parents[3]
PUBLISHED = ROOT / "docs/reference/manifest.schema.json"
PAGE = ROOT / "docs/reference/plugins.md"
VALIDATOR = jsonschema.Draft202012Validator(json.loads(PUBLISHED.read_text()))
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

    def test_is_a_schema(self) -> None:
        VALIDATOR.check_schema(VALIDATOR.schema)

    @pytest.mark.parametrize("manifest", VALID)
    def test_accepts_valid_manifests(self, manifest: str) -> None:
        parse_manifest(manifest, "handler.toml")
        VALIDATOR.validate(tomllib.loads(manifest))

    @pytest.mark.parametrize("manifest", INVALID)
    def test_rejects_invalid_manifests(self, manifest: str) -> None:
        with pytest.raises(ManifestError):
            parse_manifest(manifest, "handler.toml")
        with pytest.raises(jsonschema.ValidationError):
            VALIDATOR.validate(tomllib.loads(manifest))

    @pytest.mark.parametrize(
        "path", sorted(ROOT.glob("plugins/*/src/*/handler.toml")), ids=lambda path: path.parent.name
    )
    def test_accepts_the_plugins_of_this_project(self, path: Path) -> None:
        VALIDATOR.validate(tomllib.loads(path.read_text()))


class TestReferencePage:
    def test_tables_are_current(self) -> None:
        assert PAGE.read_text() == page(PAGE.read_text()), "run `make reference`"

    def test_has_every_key_of_the_schema_and_every_type(self) -> None:
        written = page("<!-- manifest: keys -->\n<!-- end -->\n<!-- manifest: types -->\nold\n<!-- end -->\n")
        properties = schema()["properties"]
        for name in ("title", "description", "requires_host"):
            assert f"|  | `{name}` | text | {properties[name]['description']} |" in written
        for section, name in (("operations", "NAME"), ("secrets", "NAME"), ("config", "KEY")):
            (table,) = properties[section]["patternProperties"].values()
            for key in table["properties"]:
                assert f"| `[{section}.{name}]` | `{key}` |" in written
        for section in ("memory", "timeouts", "lean"):
            for key in properties[section]["properties"]:
                assert f"| `[{section}]` | `{key}` |" in written
        assert all(f"| `{kind}` |" in written for kind in settings.TYPES)
        assert "old" not in written

    def test_command_writes_the_page(self, tmp_path: Path) -> None:
        path = tmp_path / "plugins.md"
        path.write_text("# Plugins\n\n<!-- manifest: types -->\n<!-- end -->\n")
        assert main([str(path)]) == 0
        assert path.read_text().startswith("# Plugins\n\n<!-- manifest: types -->\n\n| `type` of `[config.KEY]` |")
        assert main([]) == 2
