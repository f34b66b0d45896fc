"""Instances in a running host: a worker, secrets, limits and numbers of their own."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from tests.integration.http.serving import PARROT, running
from tests.support import install_plugin, install_puppet

MANIFEST = '[secrets.KEY]\nrequired = false\n[config.control]\ntype = "string"\n[operations.environment]\n'


async def test_each_instance_has_a_worker_and_secrets_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = install_puppet(tmp_path)
    (package / "handler.toml").write_text(MANIFEST)
    monkeypatch.setenv("KEY", "common")
    monkeypatch.setenv("ONE_KEY", "own")
    control = {"control": f"{tmp_path}/control"}
    handlers = {
        "one": {"plugin": "puppet", "secrets": {"KEY": "ONE_KEY"}, "max_concurrency": 3, **control},
        "two": {"plugin": "puppet", "secrets": {"KEY": "TWO_KEY"}, **control},
    }
    async with running(tmp_path, handlers=handlers) as host:
        seen = {}
        for name in ("puppet", "one", "two"):
            status, seen[name] = await host.json("POST", f"/v1/handlers/{name}/environment", data="{}")
            assert status == 200, seen[name]
        assert len({answer["pid"] for answer in seen.values()}) == 3
        assert [answer["secrets"] for answer in seen.values()] == [{"KEY": "common"}, {"KEY": "own"}, {}]
        _, listed = await host.admin("GET", "/handlers")
        statuses = {status["name"]: status for status in listed["handlers"]}
        assert [(name, statuses[name]["plugin"]) for name in statuses] == [
            ("one", "puppet"),
            ("puppet", None),
            ("two", "puppet"),
        ]
        async with host.ask("GET", "/metrics", headers={"Authorization": "Bearer the-admin-token"}) as response:
            text = await response.text()
        assert all(f'handler="{name}"' in text for name in seen)


async def test_a_reload_adds_changes_and_removes_instances(tmp_path: Path) -> None:
    install_plugin(tmp_path, "parrot", PARROT)
    async with running(tmp_path, models={"fast": "parrot"}) as host:
        body = {"model": "polly", "messages": [{"role": "user", "content": "hello"}]}
        status, _ = await host.json("POST", "/v1/chat/completions", data=json.dumps(body))
        assert status == 404
        config = host.supervisor.config
        handlers = {**config.handlers, "polly": {"plugin": "parrot", "fallback": ("parrot",)}}
        with_polly = msgspec.structs.replace(config, handlers=handlers, models={"gpt-*": "polly"})
        await host.supervisor.reconfigure(with_polly)
        _, listed = await host.json("GET", "/v1/models")
        assert [model["id"] for model in listed["data"]] == ["parrot", "polly"]
        for model in ("polly", "gpt-5.5"):
            body["model"] = model
            async with host.ask("POST", "/v1/chat/completions", data=json.dumps(body)) as response:
                assert (response.status, response.headers["X-Handler"]) == (200, "polly")
        await host.supervisor.unload("polly")
        await host.supervisor.reconfigure(config)
        status, _ = await host.json("GET", "/v1/handlers/polly")
        assert status == 404
