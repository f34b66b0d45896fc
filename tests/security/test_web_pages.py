"""Attacks by web pages and paths: cross-site requests to all admin routes, and files other than those served."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from handler_host.app import create_app
from handler_host.auth.audit_log import READ_METHODS
from handler_host.config import Config
from tests.integration.http.serving import ADMIN, Host, running
from tests.support import install_puppet

SECRET = "this-is-in-no-file-that-is-served"
ROUTES = sorted(
    (route.method, route.resource.canonical)
    for route in create_app(Config()).router.routes()
    if route.resource is not None and route.resource.canonical.startswith("/admin")
)
CHANGES = [
    (method, path.format(name="puppet", operation="echo", request_id="x", file="x"))
    for method, path in ROUTES
    if method not in READ_METHODS and (method, path) != ("POST", "/admin/session")
]
FORMS = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x")
"""Media types that a page may send to another site without asking it first."""


async def signed_in(host: Host) -> dict[str, str]:
    """Return the headers of a session: what the dashboard sends."""
    async with host.ask("POST", "/admin/session", json={"token": ADMIN}) as response:
        assert response.status == 200
        cookie = response.headers["Set-Cookie"].partition(";")[0]
        return {"Cookie": cookie, "X-CSRF-Token": (await response.json())["csrf"]}


async def test_no_other_site_changes_anything_with_the_cookie(tmp_path: Path) -> None:
    """Browsers send ``Origin`` or ``Sec-Fetch-Site``, or at least no CSRF token; all routes that change something."""
    install_puppet(tmp_path)
    async with running(tmp_path) as host:
        mine = await signed_in(host)
        cookie = {"Cookie": mine["Cookie"]}
        foreign = [
            *({**cookie, "Content-Type": form, "Origin": "https://evil.example"} for form in FORMS),
            *({**cookie, "Content-Type": form} for form in FORMS),
            {**mine, "Origin": "https://evil.example"},
            {**mine, "Origin": "null"},
            {**mine, "Origin": f"{host.url}.evil.example"},
            {**mine, "Sec-Fetch-Site": "cross-site"},
            {**mine, "Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate"},
            {**cookie, "X-CSRF-Token": ""},
        ]
        assert len(CHANGES) >= 10
        for (method, path), headers in itertools.product(CHANGES, foreign):
            async with host.session.request(method, host.url + path, data=b"{}", headers=headers) as response:
                assert response.status in (401, 403), (method, path, headers)
                assert "Access-Control-Allow-Origin" not in response.headers
        assert host.supervisor.status("puppet").state == "cold"
        assert not host.supervisor.draining
        async with host.ask("POST", "/admin/handlers/puppet/load", headers=mine) as response:
            assert response.status == 200


async def test_no_other_site_reads_an_admin_route_or_opens_a_web_socket(tmp_path: Path) -> None:
    """The response to a page of another site has no header that allows it to look, not even after a preflight."""
    async with running(tmp_path) as host:
        mine = await signed_in(host)
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        upgrade |= {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Origin": "https://evil.example"}
        paths = {path.format(name="puppet", operation="echo", request_id="x", file="x") for _, path in ROUTES}
        for path in sorted(paths - {"/admin/events"}):
            for method, headers in (("GET", mine | upgrade), ("OPTIONS", {"Access-Control-Request-Method": "POST"})):
                async with host.ask(method, path, headers={"Origin": "https://evil.example", **headers}) as response:
                    assert response.status != 101
                    assert "Access-Control-Allow-Origin" not in response.headers, (method, path)


@pytest.mark.parametrize("start", ["/admin/static/", "/admin/", "/docs/", "/docs", "/v1/models/", "/v1/handlers/", "/"])
async def test_no_path_leads_to_a_file_that_is_not_served(tmp_path: Path, start: str) -> None:
    """Sent as bytes: clients resolve the dots themselves."""
    (tmp_path / "secret.txt").write_text(SECRET)
    ups = (
        "../",
        "..%2f",
        "%2e%2e/",
        "%2e%2e%2f",
        "..%5c",
        "..\\",
        "....//",
        "..;/",
        "%252e%252e%252f",
        "/",
        "%00/",
        "./../",
    )
    async with running(tmp_path) as host:
        for up, target in itertools.product(ups, ("__init__.py", "app.py", f"{tmp_path}/secret.txt", "etc/passwd")):
            path = start + up * 12 + target
            request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{host.port}\r\n\r\n".encode()
            status, _, body = await host.raw(request)
            assert status in (308, 400, 401, 404, 405), path
            for content in (SECRET, "root:", "def ", "import "):
                assert content.encode() not in body, path
