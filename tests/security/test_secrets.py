"""Secrets of the host: gone from its process, there for workers and reloads, and shown before a plugin gets them."""

from __future__ import annotations

import signal
from pathlib import Path

import aiohttp

from tests.integration.http.serving import running
from tests.integration.http.test_server import Process, ready
from tests.support import install_plugin, install_puppet, until

TELLER = """
import os
from typing import Any
from handler_host.plugin import operation

class Teller:
    @operation
    async def tell(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"pid": os.getpid(), "secret": os.environ.get("SERVICE_LOGIN"), "other": os.environ.get("OTHER_LOGIN")}
"""
MANIFEST = "[secrets.SERVICE_LOGIN]\n[secrets.OTHER_LOGIN]\nrequired = false\n"
ENVIRONMENT = {
    "HANDLER_HOST_ADMIN_TOKEN": "an-admin-token-of-this-test",
    "HANDLER_HOST_API_KEYS": "a-consumer-key-of-this-test,another-key-of-this-test",
    "SERVICE_LOGIN": "the-login-of-a-service",
    "OTHER_LOGIN": "the-other-login",
}
CONSUMER = {"Authorization": "Bearer another-key-of-this-test"}
OPERATOR = {"Authorization": "Bearer an-admin-token-of-this-test"}


async def tell(session: aiohttp.ClientSession, host: Process) -> dict[str, object]:
    async with session.post(f"{host.url}/v1/handlers/teller/tell", json={}, headers=CONSUMER) as response:
        assert response.status == 200, await response.text()
        values: dict[str, object] = await response.json()
        return values


async def test_the_environment_of_the_host_has_no_secrets(tmp_path: Path) -> None:
    """Not even where the kernel shows it; workers get theirs again and again, and a reload keeps the keys."""
    install_puppet(tmp_path)
    install_plugin(tmp_path, "teller", TELLER, attribute="Teller", manifest=MANIFEST)
    lines = ("[server]", "port = 0", "[handlers.teller]", 'secrets = ["SERVICE_LOGIN"]')
    environment = ENVIRONMENT | {"TMPDIR": str(tmp_path)}
    async with ready(tmp_path, *lines, environment=environment) as host, aiohttp.ClientSession() as session:
        environ = Path(f"/proc/{host.process.pid}/environ")
        await until(lambda: b"-login" not in environ.read_bytes())
        block = environ.read_bytes()
        assert b"PATH=" in block
        for value in ENVIRONMENT.values():
            assert value.encode() not in block
        first = await tell(session, host)
        assert first["secret"] == "the-login-of-a-service"
        assert first["other"] is None  # withheld by the configuration
        file = tmp_path / "host.toml"
        file.write_text(file.read_text().replace("stop_grace = 1", "stop_grace = 2"))
        host.process.send_signal(signal.SIGHUP)
        assert host.process.stderr is not None
        logged = b""
        while b"configuration re-read" not in (line := await host.process.stderr.readline()):
            assert line
            logged += line
        assert f"the configuration: {file} is below {tmp_path}, where all workers read and write".encode() in logged
        assert b"needs_restart=[]" in line
        async with session.post(f"{host.url}/admin/handlers/teller/unload", json={}, headers=OPERATOR) as response:
            assert response.status == 200
        second = await tell(session, host)
        assert second["secret"] == "the-login-of-a-service"
        assert second["pid"] != first["pid"]


async def test_a_rescan_shows_what_a_new_plugin_would_receive(tmp_path: Path) -> None:
    """Before its first activation; a handler whose secrets the configuration lists is not mentioned."""
    install_puppet(tmp_path)
    environ = {"SERVICE_LOGIN": "login", "OTHER_LOGIN": "other"}
    async with running(tmp_path, environ=environ, handlers={"vetted": {"secrets": ("SERVICE_LOGIN",)}}) as host:
        for name in ("teller", "vetted"):
            install_plugin(tmp_path, name, TELLER, attribute="Teller", manifest=MANIFEST)
        status, report = await host.admin("POST", "/rescan")
        assert status == 200
        assert report["secrets"] == {"teller": ["OTHER_LOGIN", "SERVICE_LOGIN"]}
        assert (await host.admin("POST", "/rescan"))[1]["secrets"] == {}
