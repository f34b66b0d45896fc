"""``/openapi.json`` and ``/docs``: what a client's author sees of the handlers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.integration.http.serving import PARROT, running
from tests.support import install_plugin

TYPED = '''
import msgspec
from handler_host.plugin import operation

class Place(msgspec.Struct):
    name: str
    inside: "Place | None" = None

class Cat(msgspec.Struct, tag=True):
    lives: int

class Dog(msgspec.Struct, tag=True):
    barks: bool

class Handler:
    @operation("find", summary="Find a place.")
    async def find(self, request: Place) -> list[Place]:
        return [request]

    @operation
    async def pet(self, request: Cat | Dog) -> dict[str, int]:
        """Pet one."""
        return {}

    @operation
    async def anything(self, request: dict[str, int]) -> dict[str, int]:
        return request
'''
EXPECTED = ("typed/find", "typed/pet", "typed/anything", "parrot/chat")
MANIFEST = '[operations.find]\nsummary = "Find a place."\n'


def references(value: Any) -> list[str]:
    """Return all that a document refers to, in schemas and in discriminators."""
    if isinstance(value, list):
        return [found for item in value for found in references(item)]
    if not isinstance(value, dict):
        return []
    own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
    own += value["mapping"].values() if "propertyName" in value and "mapping" in value else []
    return own + [found for item in value.values() for found in references(item)]


def resolve(document: dict[str, Any], reference: str) -> Any:
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


async def test_a_cold_handler_shows_its_manifest_an_active_one_schemas(tmp_path: Path) -> None:
    install_plugin(tmp_path, "typed", TYPED, manifest=MANIFEST)
    install_plugin(tmp_path, "parrot", PARROT)
    async with running(tmp_path) as host:
        status, cold = await host.json("GET", "/openapi.json")
        assert status == 200
        assert list(cold["paths"]) == ["/v1/handlers/typed/find"]
        assert cold["paths"]["/v1/handlers/typed/find"]["post"]["summary"] == "Find a place."
        for name in ("typed", "parrot"):
            assert (await host.admin("POST", f"/handlers/{name}/load"))[0] == 200
        _, active = await host.json("GET", "/openapi.json")
        assert set(active["paths"]) == {f"/v1/handlers/{path}" for path in EXPECTED}
        find = active["paths"]["/v1/handlers/typed/find"]["post"]
        body = find["requestBody"]["content"]["application/json"]["schema"]
        assert set(resolve(active, body["$ref"])["properties"]) == {"name", "inside"}
        # A body is required where the operation does not take an empty object.
        paths = active["paths"]
        required = {path: paths[f"/v1/handlers/{path}"]["post"]["requestBody"]["required"] for path in EXPECTED}
        assert required == {"typed/find": True, "typed/pet": True, "typed/anything": False, "parrot/chat": True}
        for path, is_required in required.items():
            status, _ = await host.json("POST", f"/v1/handlers/{path}", data=b"")
            assert (status == 400) is is_required, path
        chat = active["paths"]["/v1/handlers/parrot/chat"]["post"]
        assert set(chat["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
        targets = references(active)
        assert len(targets) > 10
        for reference in targets:
            assert resolve(active, reference)
        assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in active["components"]["schemas"])
        assert "$defs" not in str(active)


async def test_the_document_needs_a_key_where_handlers_do(tmp_path: Path) -> None:
    install_plugin(tmp_path, "parrot", PARROT)
    async with running(tmp_path, keys=("a-key",)) as host:
        assert (await host.json("GET", "/openapi.json"))[0] == 401
        status, document = await host.json("GET", "/openapi.json", headers={"Authorization": "Bearer a-key"})
        assert status == 200
        assert document["security"] == [{"key": []}]
        async with host.ask("GET", "/docs") as response:
            page = await response.text()
            assert (response.status, response.content_type) == (200, "text/html")
            assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert 'type="password"' in page
        assert not re.search(r"(src|href)=\"?(https?:)?//|@import|url\(", page), "the page asks nobody else"
