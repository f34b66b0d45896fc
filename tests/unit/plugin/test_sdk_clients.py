"""HTTP clients of SDKs."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from handler_host.plugin import aiohttp_client


def client(library: str, **options: Any) -> tuple[str, dict[str, Any]]:
    return library, options


SDK = SimpleNamespace(DefaultAioHttpClient=partial(client, "aiohttp"), DefaultAsyncHttpxClient=partial(client, "httpx"))


@pytest.mark.parametrize(("proxy", "library"), [("socks5://127.0.0.1:9", "httpx"), ("http://127.0.0.1:9", "aiohttp")])
def test_no_redirects_behind_any_proxy(proxy: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    assert aiohttp_client(SDK, 1.0) == (library, {"timeout": 1.0, "follow_redirects": False})
