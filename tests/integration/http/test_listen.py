"""Further addresses of the consumers' routes: a Unix socket, another port."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import aiohttp
import pytest

from handler_host.config import ServerConfig
from handler_host.config.loader import load_config
from handler_host.plugin.errors import ConfigError
from tests.integration.http.serving import ADMIN, running
from tests.support import install_puppet


async def test_all_addresses_serve_the_same_routes(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    path = tmp_path / "http.sock"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = {"listen": (f"unix:{path}", f"127.0.0.1:{port}")}
    async with running(tmp_path, keys=("the-key",), server=server):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        headers = {"Authorization": "Bearer the-key"}
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
            session.post("http://proxy.example/v1/handlers/puppet/echo", json={"a": 1}, headers=headers) as response,
        ):
            assert (response.status, (await response.json())["a"]) == (200, 1)
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {ADMIN}"}) as session:
            async with session.get(f"http://127.0.0.1:{port}/admin/handlers") as response:
                assert response.status == 200
            async with session.get(f"http://127.0.0.1:{port}/v1/models") as response:
                assert response.status == 403
    assert not path.exists()


def test_an_invalid_address_names_the_key() -> None:
    with pytest.raises(ConfigError, match=r"server\.listen = .*must be HOST:PORT"):
        load_config(None, {"HANDLER_HOST_SERVER__LISTEN": "nowhere"})
    assert load_config(None, {}).config.server == ServerConfig()
