"""Whatever is in the files, and in whatever order they are listed: a scan answers, and always the same."""

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

CALM = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

noise = st.one_of(
    st.binary(max_size=80),
    st.sampled_from(
        [b"[handler_host.v1]", b"[handler_host.v2]", b"gpt = a.b:C", b"gpt = a:C [x]", b"=", b"[", b"\xff", b"\r", b"a"]
    ),
)
lines = st.lists(noise, max_size=12).map(b"\n".join)


@given(lines)
def test_any_bytes_make_claims_or_complaints(data: bytes) -> None:
    found = parse(b"[handler_host.v1]\n" + data)
    names = [(claim.major, claim.name) for claim in found.claims]
    assert len(names) == len(set(names))
    for claim in found.claims:
        assert claim.flaw or all(part.isidentifier() for part in claim.value.replace(":", ".").split("."))


names = st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,20}", fullmatch=True)
words = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True).map(lambda word: word + "_")
values = st.tuples(st.lists(words, min_size=1, max_size=3), st.lists(words, min_size=1, max_size=2)).map(
    lambda parts: ":".join(".".join(part) for part in parts)
)


@given(st.dictionaries(names, values, max_size=6))
def test_what_is_written_right_is_read_back(handlers: dict[str, str]) -> None:
    text = "[handler_host.v1]\n" + "".join(f"{name} = {value}\n" for name, value in handlers.items())
    assert {claim.name: claim.value for claim in parse(text.encode()).claims if claim.flaw is None} == handlers


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


@given(manifests, st.dictionaries(keys, trees, max_size=2))
def test_any_manifest_is_read_or_refused_with_its_place(tree: dict[str, Any], given: dict[str, Any]) -> None:
    text = "".join(f"{toml(key)} = {toml(value)}\n" for key, value in tree.items())
    message = "here: "
    try:
        manifest = parse_manifest(text, "/x/handler.toml")
        assert set(check_settings(manifest, given, "here")) <= set(manifest.config)
    except ConfigError as error:
        message = error.message
    assert message.startswith(("/x/handler.toml", "here: "))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_refused(data: bytes) -> None:
    with contextlib.suppress(ManifestError):
        assert isinstance(parse_manifest(data, "/x"), Manifest)


FILES = ["entry_points.txt", "METADATA", "RECORD", "direct_url.json"]


@CALM
@given(st.dictionaries(st.sampled_from(FILES), st.binary(max_size=100)), st.binary(max_size=60), lines)
def test_no_metadata_of_a_neighbour_keeps_a_handler_from_being_found(
    files: dict[str, bytes], beside: bytes, claims: bytes
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        site = Site(Path(directory))
        site.plugin("good", "gpt-good")
        site.install(
            "bad",
            b"[handler_host.v1]\nbad = absent:P\n" + claims,
            files={"__editable___bad_finder.py": beside, "bad.pth": beside},
        )
        for name, content in files.items():
            (site.path / "bad-1.0.dist-info" / name).write_bytes(content)
        found = scan(CatalogConfig(roots=(site.path,), include_sys_path=False), {})
    assert found.entries["gpt-good"].problem is None


@CALM
@given(st.permutations(range(6)), st.data())
def test_the_order_of_a_listing_does_not_matter(order: list[int], data: st.DataObject) -> None:
    claims = data.draw(st.lists(st.sampled_from(["a", "b", "c"]), min_size=6, max_size=6))
    majors = data.draw(st.lists(st.sampled_from([1, 1, 1, 2]), min_size=6, max_size=6))
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        site = Site(Path(directory))
        for number, (claim, major) in enumerate(zip(claims, majors, strict=True)):
            name = f"dist{number // 2}" if number < 4 else f"dist{number}"
            text = f"[handler_host.v{major}]\n{claim} = {name}:P\n"
            site.install(name, text, version=f"1.{number}", package=name)
        straight = scan(CatalogConfig(roots=(site.path,), include_sys_path=False), {})
        listed = sorted(os.listdir(directory))
        shuffled = sorted(listed, key=lambda name: order[listed.index(name) % len(order)])
        patch.setattr(os, "listdir", lambda path: shuffled)
        assert scan(CatalogConfig(roots=(site.path,), include_sys_path=False), {}) == straight
