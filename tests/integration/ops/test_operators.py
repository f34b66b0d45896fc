"""Sessions of the dashboard: cookies, CSRF, wrong tokens; and the audit log of what operators do."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from handler_host.admin.dashboard import FILES, STATIC
from handler_host.auth import failed_login_throttle, sessions
from handler_host.auth.failed_login_throttle import FailedLoginThrottle
from handler_host.auth.sessions import Sessions, derive_key
from handler_host.config.loader import hash_key
from handler_host.server import serving
from tests.integration.http.serving import ADMIN, Host, configured, running
from tests.support import LIMIT, install_puppet, until, within

KEY = derive_key(ADMIN)
JSON = {"Content-Type": "application/json"}


async def sign_in(host: Host, token: str = ADMIN, **headers: str) -> tuple[int, Any, str]:
    """Return status and JSON of the answer, and the cookie as it is set."""
    body = json.dumps({"token": token})
    async with host.ask("POST", "/admin/session", data=body, headers=headers) as response:
        return response.status, json.loads(await response.read()), response.headers.get("Set-Cookie", "")


def cookie_of(header: str) -> dict[str, str]:
    return {"Cookie": header.partition(";")[0]}


async def audit_of(host: Host) -> list[dict[str, Any]]:
    return [json.loads(event.data) for event in host.supervisor.telemetry.events.past if event.kind == "audit"]


async def test_a_cookie_is_given_for_the_token_and_is_not_the_token(tmp_path: Path) -> None:
    async with running(tmp_path) as host:
        status, response, cookie = await sign_in(host)
        assert (status, response["signed_in"]) == (200, True)
        assert {"HttpOnly", "Path=/admin", "SameSite=Strict"} <= {part.strip() for part in cookie.split(";")}
        assert "Secure" not in cookie
        assert ADMIN not in cookie
        assert (await host.json("GET", "/admin/handlers", headers=cookie_of(cookie)))[0] == 200
        status, told = await host.json("GET", "/admin/session", headers=cookie_of(cookie))
        assert (status, told["csrf"]) == (200, response["csrf"])
        assert (await sign_in(host, **{"X-Forwarded-Proto": "https"}))[2].count("Secure") == 1
        assert (await host.json("GET", "/admin/session"))[1] == {"signed_in": False}
        assert (await host.json("GET", "/admin/handlers", headers={"Cookie": "handler_host_session=made-up"}))[0] == 401


async def test_change_by_cookie_needs_csrf_token_and_own_origin(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path) as host:
        _, response, cookie = await sign_in(host)
        mine = cookie_of(cookie) | {"X-CSRF-Token": response["csrf"]}

        async def load(headers: dict[str, str]) -> int:
            status, _ = await host.json("POST", "/admin/handlers/puppet/load", headers=headers)
            return int(status)

        assert await load(cookie_of(cookie)) == 403
        assert await load(mine | {"X-CSRF-Token": "wrong"}) == 403
        assert await load(mine | {"Sec-Fetch-Site": "cross-site"}) == 403
        assert await load(mine | {"Sec-Fetch-Site": "same-site"}) == 403
        assert await load(mine | {"Origin": "https://evil.example"}) == 403
        assert host.supervisor.status("puppet").state == "cold"
        assert await load(mine | {"Origin": host.url, "Sec-Fetch-Site": "same-origin"}) == 200
        status, _ = await host.json("DELETE", "/admin/session", headers=cookie_of(cookie))
        assert status == 403
        assert (await host.json("DELETE", "/admin/session", headers=mine))[0] == 200
        assert await load(mine) == 401


async def test_other_origins_and_consumer_keys_cannot_sign_in(tmp_path: Path) -> None:
    async with running(tmp_path, keys=("a-consumer-key",)) as host:
        assert (await sign_in(host, **{"Sec-Fetch-Site": "cross-site"}))[0] == 403
        assert (await sign_in(host, "a-consumer-key"))[0] == 403
        status, response = await host.json("POST", "/admin/session", data='{"password": 1}')
        assert (status, response["error"]["code"]) == (400, "invalid_input")
        async with host.ask(
            "POST", "/admin/session", data=b"token=x", headers={"Content-Type": "text/plain"}
        ) as response:
            assert response.status == 415


async def test_wrong_tokens_are_slowed_down_without_a_hint(tmp_path: Path) -> None:
    async with running(tmp_path) as host:
        for _ in range(failed_login_throttle.FREE_FAILURES):
            status, response, cookie = await sign_in(host, "wrong")
            assert (status, response["error"]["message"], cookie) == (401, "this is not the admin token", "")
        started_at = time.monotonic()
        assert (await sign_in(host, "wrong"))[0] == 401
        assert time.monotonic() - started_at >= failed_login_throttle.FIRST_DELAY_S
        found = await audit_of(host)
        assert {(one["action"], one["result"]) for one in found} == {("sign in", "invalid_key")}
        assert "wrong" not in json.dumps(found)
        assert host.supervisor.telemetry.counters.wrong_keys["operator"] == failed_login_throttle.FREE_FAILURES + 1
        assert (await sign_in(host))[0] == 200


async def test_many_wrong_tokens_do_not_lock_out_the_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failed_login_throttle, "FREE_FAILURES", 0)
    monkeypatch.setattr(failed_login_throttle, "FIRST_DELAY_S", LIMIT)
    monkeypatch.setattr(failed_login_throttle, "MAX_DELAY_S", LIMIT)
    async with running(tmp_path) as host:
        _, _, cookie = await sign_in(host)
        guesses = [asyncio.ensure_future(sign_in(host, f"wrong-{n}")) for n in range(failed_login_throttle.MAX_DELAYED)]
        counters = host.supervisor.telemetry.counters
        await until(lambda: counters.wrong_keys["operator"] == failed_login_throttle.MAX_DELAYED)
        assert (await within(sign_in(host, "wrong")))[0] == 429
        assert (await within(sign_in(host)))[0] == 200
        assert (await host.json("GET", "/admin/handlers", headers=cookie_of(cookie)))[0] == 200
        for guess in guesses:
            guess.cancel()
        await asyncio.gather(*guesses, return_exceptions=True)
        await until(lambda: not any(guess.done() is False for guess in guesses))


def test_pauses_grow_are_bounded_and_are_forgotten() -> None:
    slow = FailedLoginThrottle()
    pauses = [slow.count_failure("a", now=1000.0 + n) for n in range(failed_login_throttle.FREE_FAILURES + 8)]
    assert pauses[: failed_login_throttle.FREE_FAILURES] == [0.0] * failed_login_throttle.FREE_FAILURES
    assert pauses[failed_login_throttle.FREE_FAILURES :] == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0]
    assert slow.count_failure("b", now=1000.0) == 0.0
    assert slow.count_failure("a", now=1000.0 + failed_login_throttle.FORGET_AFTER_S + 100) == 0.0
    for number in range(failed_login_throttle.MAX_ADDRESSES + 10):
        slow.count_failure(f"address {number}", now=2000.0)
    assert len(slow._addresses) == failed_login_throttle.MAX_ADDRESSES


def test_sessions_end_and_are_bounded_and_not_stored() -> None:
    kept = Sessions(KEY)
    cookie, session = kept.open(now=1000.0)
    assert kept.find(cookie, now=1000.0 + sessions.LIFETIME_S - 1) == session
    assert kept.find(cookie, now=1000.0 + sessions.LIFETIME_S) is None
    assert cookie not in repr(vars(kept))
    assert session.id not in repr(vars(kept))
    for _ in range(sessions.MAX_CLOSED + 10):
        kept.close(kept.open()[1])
    assert len(kept._closed) == sessions.MAX_CLOSED


def test_cookie_key_is_not_derived_from_the_token_hash() -> None:
    cookie, session = Sessions(KEY).open()
    assert Sessions(KEY).find(cookie) == session
    assert Sessions(derive_key("another-token")).find(cookie) is None
    assert Sessions(hash_key(ADMIN).encode()).find(cookie) is None
    content, _, signature = cookie.partition(".")
    last = signature[-1]
    same_bytes = signature[:-1] + chr(ord(last) + 1)  # the last character of 32 bytes has bits that are not used
    for forged in (
        content,
        f"{content}.",
        f".{signature}",
        f"{content}.{signature[:-2]}",
        f"{content}.{same_bytes}",
        f"{content}.{session.csrf}",
        f"{content}x.{signature}",
        "ü.ü",
        "\udc80.a",
        "=.=",
        "",
    ):
        assert Sessions(KEY).find(forged) is None, forged


async def test_a_session_holds_on_all_hosts_and_ends_on_one(tmp_path: Path) -> None:
    config = configured(tmp_path)
    async with (
        serving(config, session_key=KEY) as (_, first),
        serving(config, session_key=KEY) as (_, second),
        aiohttp.ClientSession() as session,
    ):

        async def request(method: str, url: str, **headers: str) -> int:
            async with session.request(method, url, headers=headers) as response:
                return response.status

        async with session.post(f"{first}/admin/session", data=json.dumps({"token": ADMIN}), headers=JSON) as response:
            mine = cookie_of(response.headers["Set-Cookie"]) | {"X-CSRF-Token": (await response.json())["csrf"]}
        assert await request("GET", f"{second}/admin/handlers", **mine) == 200
        assert await request("POST", f"{second}/admin/rescan", **mine) == 200
        assert await request("DELETE", f"{first}/admin/session", **mine) == 200
        assert await request("GET", f"{first}/admin/handlers", **mine) == 401
        assert await request("GET", f"{second}/admin/handlers", **mine) == 200
    async with running(tmp_path) as host:  # with the hash of the token alone
        assert (await host.json("GET", "/admin/handlers", headers=mine))[0] == 401


async def test_audit_log_has_actor_action_and_result(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path) as host:
        await host.admin("POST", "/handlers/puppet/load")
        await host.admin("POST", "/handlers/puppet/unload", params={"mode": "force", "wait": "false"})
        await host.admin("POST", "/handlers/nobody/unload")
        await host.admin("GET", "/handlers")
        _, response, cookie = await sign_in(host)
        headers = cookie_of(cookie) | {"X-CSRF-Token": response["csrf"]}
        await host.json("POST", "/admin/handlers/puppet/dispatch/echo", data="{}", headers=headers)
        told = [(one["action"], one.get("handler"), one["result"], one["who"]) for one in await audit_of(host)]
        assert told == [
            ("load", "puppet", "ok", "token"),
            ("unload", "puppet", "accepted", "token"),
            ("unload", "nobody", "unknown_handler", "token"),
            ("sign in", None, "ok", response["name"]),
            ("dispatch echo", "puppet", "ok", response["name"]),
        ]
        found = await audit_of(host)
        assert found[1]["options"] == {"mode": "force", "wait": "false"}
        assert {one["from"] for one in found} == {"127.0.0.1"}
        assert ADMIN not in json.dumps(found)


async def test_the_page_and_its_files_are_served_with_a_strict_policy(tmp_path: Path) -> None:
    async with running(tmp_path) as host:
        for path in ("/admin/", *(f"/admin/static/{name}" for name in FILES)):
            async with host.ask("GET", path) as response:
                assert response.status == 200, path
                policy = response.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert "*" not in policy
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                kept = {"If-None-Match": response.headers["ETag"]}
            async with host.ask("GET", path, headers=kept) as response:
                assert response.status == 304
        async with host.ask("GET", "/admin", allow_redirects=False) as response:
            assert (response.status, response.headers["Location"]) == (308, "admin/")
        for path in ("/admin/static/..%2f__init__.py", "/admin/static/none.js", "/admin/static/uplot%2fLICENSE"):
            assert (await host.json("GET", path))[0] == 404


def test_the_page_has_no_inline_script_style_or_foreign_address() -> None:
    for path in STATIC.glob("*.*"):
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, path
        assert "https://" not in text, path
        assert "//cdn" not in text, path
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert " style=" not in page
    assert " onclick=" not in page
    assert "<script>" not in page
    assert "<style" not in page
    assert {str(path.relative_to(STATIC)) for path in STATIC.rglob("*.*")} <= set(FILES.values())


def test_the_chart_library_is_the_one_that_was_fetched() -> None:
    digests = {
        "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
        "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    }
    for name, digest in digests.items():
        assert hashlib.sha256((STATIC / "uplot" / name).read_bytes()).hexdigest() == digest


async def test_the_overview_brings_what_is_new_since_the_last_sample(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path) as host:
        status, first = await host.admin("GET", "/overview")
        assert status == 200
        assert first["history"]
        assert [one["name"] for one in first["handlers"]] == ["puppet"]
        await host.supervisor.load("puppet")
        _, second = await host.admin("GET", f"/overview?since={first['history'][-1][0]}")
        assert "puppet" in second["history"][-1][4]
        assert [one["handler"] for one in second["memory"]["evict_next"]] == ["puppet"]
        assert second["run"] == first["run"]
        assert (await host.admin("GET", "/overview?since=x"))[0] == 400
        _, third = await host.admin("GET", "/overview")
        assert third["failures"][0]["code"] == "invalid_input"
