"""A scan handles any content of files, and its result does not depend on the order of a listing."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handler_host.catalog.catalog import scan
from handler_host.catalog.entry_points import parse
from handler_host.catalog.manifest import Manifest, ManifestError, check_settings, parse_manifest
from handler_host.config import CatalogConfig
from handler_host.plugin.errors import ConfigError

from .conftest import Site

WITH_FILES = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""For tests that write files."""

noise = st.one_of(
    st.binary(max_size=80),
    st.sampled_from(
        [b"[handler_host.v1]", b"[handler_host.v2]", b"gpt = a.b:C", b"gpt = a:C [x]", b"=", b"[", b"\xff", b"\r", b"a"]
    ),
)
lines = st.lists(noise, max_size=12).map(b"\n".join)


LETTERS = "abcxyz019"
names = st.builds(str.__add__, st.sampled_from(LETTERS), st.text(LETTERS + "_.-", max_size=20))
# The underscore keeps keywords out.
words = st.builds("{}{}_".format, st.sampled_from("abcxyz"), st.text(LETTERS, max_size=8))
values = st.tuples(st.lists(words, min_size=1, max_size=3), st.lists(words, min_size=1, max_size=2)).map(
    lambda parts: ":".join(".".join(part) for part in parts)
)


scalars = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(), st.text(max_size=5))
keys = st.sampled_from(["title", "chat", "KEY", "model", "type", "string", "80MB", ">=1"])
trees = st.recursive(
    scalars | keys, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=6
)
kinds = st.sampled_from(["string", "integer", "number", "boolean", "array", "object"])
declarations = st.fixed_dictionaries(
    {"type": kinds | keys},
    optional={
        "default": trees,
        "required": st.booleans(),
        "enum": st.lists(scalars, max_size=3),
        "minimum": scalars,
        "maximum": scalars,
        "items": kinds,
    },
)
manifests = st.fixed_dictionaries(
    {},
    optional={
        "title": scalars,
        "requires_host": keys | scalars,
        "operations": st.dictionaries(keys, st.fixed_dictionaries({}, optional={"summary": scalars})) | trees,
        "secrets": st.dictionaries(keys, st.fixed_dictionaries({}, optional={"required": scalars})) | trees,
        "config": st.dictionaries(keys, declarations, max_size=3),
        "memory": st.fixed_dictionaries({"estimate": keys | scalars}),
        "timeouts": st.dictionaries(st.sampled_from(["gap", "drain"]), scalars),
    },
)


def toml(value: Any) -> str:
    match value:
        case None:
            return "''"
        case bool():
            return str(value).lower()
        case dict():
            return "{" + ", ".join(f"{toml(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case str():
            escaped = "".join(f"\\U{ord(letter):08X}" for letter in value if not 0xD800 <= ord(letter) < 0xE000)
            return f'"{escaped}"'
        case _:
            return repr(value)


FILES = ["entry_points.txt", "METADATA", "RECORD", "direct_url.json"]


class TestEntryPoints:
    @given(lines)
    def test_any_bytes(self, data: bytes) -> None:
        entry_points = parse(b"[handler_host.v1]\n" + data)
        names = [(claim.major, claim.name) for claim in entry_points.claims]
        assert len(names) == len(set(names))
        for claim in entry_points.claims:
            assert claim.error or all(part.isidentifier() for part in claim.value.replace(":", ".").split("."))

    @settings(max_examples=40)
    @given(st.dictionaries(names, values, max_size=4))
    def test_round_trip(self, handlers: dict[str, str]) -> None:
        text = "[handler_host.v1]\n" + "".join(f"{name} = {value}\n" for name, value in handlers.items())
        assert {claim.name: claim.value for claim in parse(text.encode()).claims if claim.error is None} == handlers


class TestManifest:
    @settings(max_examples=60)
    @given(manifests, st.dictionaries(keys, trees, max_size=2))
    def test_any_table(self, tree: dict[str, Any], values: dict[str, Any]) -> None:
        text = "".join(f"{toml(key)} = {toml(value)}\n" for key, value in tree.items())
        message = "here: "
        try:
            manifest = parse_manifest(text, "/x/handler.toml")
            assert set(check_settings(manifest, values, "here")) <= set(manifest.config)
        except ConfigError as error:
            message = error.message
        assert message.startswith(("/x/handler.toml", "here: "))

    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        with contextlib.suppress(ManifestError):
            assert isinstance(parse_manifest(data, "/x"), Manifest)


class TestScan:
    @WITH_FILES
    @given(st.dictionaries(st.sampled_from(FILES), st.binary(max_size=100)), st.binary(max_size=60), lines)
    def test_any_metadata_of_another_distribution(self, files: dict[str, bytes], pointer: bytes, claims: bytes) -> None:
        with tempfile.TemporaryDirectory() as directory:
            site = Site(Path(directory))
            site.plugin("good", "gpt-good")
            site.install(
                "bad",
                b"[handler_host.v1]\nbad = absent:P\n" + claims,
                files={"__editable___bad_finder.py": pointer, "bad.pth": pointer},
            )
            for name, content in files.items():
                (site.path / "bad-1.0.dist-info" / name).write_bytes(content)
            catalog = scan(CatalogConfig(roots=(site.path,), include_sys_path=False), {})
        assert catalog.entries["gpt-good"].problem is None

    @WITH_FILES
    @given(st.permutations(range(6)), st.data())
    def test_order_of_the_listing(self, order: list[int], data: st.DataObject) -> None:
        claims = data.draw(st.lists(st.sampled_from(["a", "b", "c"]), min_size=6, max_size=6))
        majors = data.draw(st.lists(st.sampled_from([1, 1, 1, 2]), min_size=6, max_size=6))
        with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
            site = Site(Path(directory))
            for number, (claim, major) in enumerate(zip(claims, majors, strict=True)):
                name = f"dist{number // 2}" if number < 4 else f"dist{number}"
                text = f"[handler_host.v{major}]\n{claim} = {name}:P\n"
                site.install(name, text, version=f"1.{number}", package=name)
            expected = scan(CatalogConfig(roots=(site.path,), include_sys_path=False), {})
            listing = sorted(os.listdir(directory))
            shuffled = sorted(listing, key=lambda name: order[listing.index(name) % len(order)])
            patch.setattr(os, "listdir", lambda path: shuffled)
            assert scan(CatalogConfig(roots=(site.path,), include_sys_path=False), {}) == expected
