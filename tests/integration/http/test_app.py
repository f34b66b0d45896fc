"""The application inside another one, and what the package shows of itself."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

import handler_host
from handler_host.app import SUPERVISOR, create_app
from handler_host.plugin.errors import ConfigError
from tests.integration.http.serving import ADMIN, configured
from tests.support import install_puppet, within


@contextlib.asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[str]:
    """Serve an application as its owner would; give its URL."""
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await within(runner.cleanup())


async def test_the_host_is_mounted_in_another_application(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    steps: list[str] = []
    own = web.Application()

    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    own.router.add_get("/", hello)
    mounted = create_app(configured(tmp_path), observer=lambda step, _: steps.append(step))
    own.add_subapp("/llm", mounted)
    async with served(own) as url, aiohttp.ClientSession() as session:
        async with session.get(url) as response:
            assert await response.text() == "hello"
            assert "X-Request-ID" not in response.headers
        # Longer than the body that the outer application would take.
        message = io.BytesIO(json.dumps({"text": "x" * (1024**2 + 1)}).encode())
        kind = {"Content-Type": "application/json"}
        async with session.post(f"{url}/llm/v1/handlers/puppet/echo", data=message, headers=kind) as response:
            assert response.status == 200
            assert response.headers["X-Handler"] == "puppet"
        for path, method, status in (("/llm/nowhere", "GET", 404), ("/llm/v1/handlers", "PUT", 405)):
            async with session.request(method, url + path) as response:
                assert response.status == status
                assert (await response.json())["error"]["request_id"] == response.headers["X-Request-ID"]
        headers = {"Authorization": f"Bearer {ADMIN}"}
        async with session.post(f"{url}/llm/admin/handlers/puppet/unload", headers=headers) as response:
            assert response.status == 200
    assert mounted[SUPERVISOR].draining
    assert {"startup", "activated", "unloaded", "stopping"} <= set(steps)


async def test_an_unexpected_error_is_a_general_text_and_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(configured(tmp_path))

    def fail() -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(app[SUPERVISOR], "statuses", fail)
    async with served(app) as url, aiohttp.ClientSession() as session, session.get(f"{url}/v1/handlers") as response:
        text = await response.text()
        assert (response.status, (await response.json())["error"]["code"]) == (500, "internal_error")
        assert "secret" not in text
        assert response.headers["X-Request-ID"] in text
    assert "a secret detail" in caplog.text


def test_the_package_shows_two_names() -> None:
    assert handler_host.__all__ == ["__version__", "create_app"]
    assert handler_host.create_app is create_app
    assert handler_host.__version__ == "0.1.0"


async def test_a_start_that_fails_keeps_nothing(tmp_path: Path) -> None:
    """An application that embeds the host may create another one: the first must not keep its log handler and files."""
    runner = web.AppRunner(create_app(configured(tmp_path, policy={"fallback": ("nowhere",)})))
    install_puppet(tmp_path)
    before = logging.getLogger("handler").handlers[:]
    with pytest.raises(ConfigError, match="nowhere"):
        await within(runner.setup())
    assert logging.getLogger("handler").handlers == before
    await runner.cleanup()
