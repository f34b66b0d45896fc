"""Consumers with names: what each may ask for, how much and how long; and who else may reach the host from where."""

from __future__ import annotations

import asyncio
import datetime
import os
import socket
import stat
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from handler_host.auth.consumer_file import parse_consumers
from handler_host.auth.consumers import Consumers
from handler_host.auth.rate_limiter import RateLimiter
from handler_host.config import AdminConfig, AuthConfig, Config
from handler_host.config.loader import hash_key, load_config
from handler_host.plugin.errors import ConfigError
from handler_host.server import serving
from tests.integration.http.serving import ADMIN, Host, configured, running
from tests.support import install_puppet, within

OPERATOR = {"Authorization": f"Bearer {ADMIN}"}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def written(**consumers: str) -> str:
    """Return a file: names with what follows their hashes; the key of NAME is KEY-NAME."""
    return "".join(
        f'[consumers.{name}]\nhash = "{hash_key(f"key-{name}")}"\n{more}\n' for name, more in consumers.items()
    )


def with_file(root: Path, **consumers: str) -> dict[str, Any]:
    file = root / "consumers.toml"
    file.write_text(written(**consumers))
    return {"auth": AuthConfig(admin_token=hash_key(ADMIN), consumers_file=file)}


async def echo(host: Host, key: str, handler: str = "puppet") -> tuple[int, str]:
    status, response = await host.json("POST", f"/v1/handlers/{handler}/echo", data="{}", headers=bearer(key))
    return status, response["error"]["code"] if status != 200 else ""


async def test_a_key_is_for_its_handlers_only_and_sees_no_others(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    install_puppet(tmp_path, "other")
    options = with_file(tmp_path, a='handlers = ["puppet"]', b="", c="handlers = []")
    async with running(tmp_path, handlers={"other": {}}, **options) as host:
        assert await echo(host, "key-a") == (200, "")
        assert await echo(host, "key-a", "other") == (404, "unknown_handler")
        assert await echo(host, "key-a", "nobody") == (404, "unknown_handler")
        assert await echo(host, "key-b", "other") == (200, "")
        for key, names in (("a", ["puppet"]), ("b", ["other", "puppet"]), ("c", [])):
            _, response = await host.json("GET", "/v1/handlers", headers=bearer(f"key-{key}"))
            assert [one["name"] for one in response["handlers"]] == names
        assert (await host.json("GET", "/v1/handlers/other", headers=bearer("key-a")))[0] == 404
        counters = host.supervisor.telemetry.counters
        assert counters.by_consumer == {("a", "puppet", "ok"): 1, ("b", "other", "ok"): 1}
        assert counters.refused == {("a", "handler"): 2}


async def test_rate_limit_is_counted_by_key(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path, **with_file(tmp_path, a="requests_per_minute = 2", b="")) as host:
        assert [await echo(host, "key-a") for _ in range(3)] == [(200, ""), (200, ""), (429, "rate_limited")]
        async with host.ask("GET", "/v1/models", headers=bearer("key-a")) as response:
            assert response.status == 429
            assert 1 <= int(response.headers["Retry-After"]) <= 60
        assert await echo(host, "key-b") == (200, "")
        failures = (await host.admin("GET", "/failures"))[1]["failures"]
        assert [failure["consumer"] for failure in failures] == ["a", "a"]


async def test_a_key_may_have_so_many_dispatches_under_way(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path, **with_file(tmp_path, a="concurrency = 1", b="")) as host:
        host.control.make("started", "go")
        body = '{"steps": ["tell:started", "wait:go"]}'
        headers = bearer("key-a")
        first = asyncio.ensure_future(host.json("POST", "/v1/handlers/puppet/script", data=body, headers=headers))
        await host.control.wait_for("started")
        assert await echo(host, "key-a") == (429, "rate_limited")
        assert await echo(host, "key-b") == (200, "")
        await host.control.signal("go")
        assert (await within(first))[0] == 200
        assert await echo(host, "key-a") == (200, "")
        assert host.supervisor.telemetry.counters.refused == {("a", "concurrency"): 1}
        (failure,) = (await host.admin("GET", "/failures"))[1]["failures"]
        assert [(attempt[4], attempt[0]) for attempt in failure["attempts"]] == [("puppet", "rate_limited")]


async def test_revoked_and_new_keys_apply_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handler_host.auth.consumers.CHECK_INTERVAL_S", 0.0)
    install_puppet(tmp_path)
    async with running(tmp_path, **with_file(tmp_path, a="")) as host:
        assert await echo(host, "key-a") == (200, "")
        (tmp_path / "consumers.toml").write_text(written(a="revoked = 2026-01-01", b=""))
        assert await echo(host, "key-a") == (401, "invalid_key")
        assert await echo(host, "key-b") == (200, "")


@pytest.mark.parametrize("spoil", ["wrong", "gone"])
async def test_invalid_or_missing_file_changes_nothing_and_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, spoil: str
) -> None:
    monkeypatch.setattr("handler_host.auth.consumers.CHECK_INTERVAL_S", 0.0)
    install_puppet(tmp_path)
    async with running(tmp_path, **with_file(tmp_path, a="")) as host:
        file = tmp_path / "consumers.toml"
        if spoil == "wrong":
            file.write_text("[consumers.a]\nhash = 'key-a in clear'\n")
        else:
            file.unlink()
        assert await echo(host, "key-a") == (200, "")
        assert await echo(host, "nobody") == (401, "invalid_key")
        assert "consumers not reloaded" in caplog.text
        assert "in clear" not in caplog.text


async def test_an_expired_key_is_refused(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path, **with_file(tmp_path, a="expires = 2020-01-01", b="expires = 2999-01-01")) as host:
        assert await echo(host, "key-a") == (401, "invalid_key")
        assert await echo(host, "key-b") == (200, "")
        assert host.supervisor.telemetry.counters.refused == {("a", "expired"): 1}


def test_consumers_of_the_environment_and_an_empty_file(tmp_path: Path) -> None:
    text = '{"consumers": {"ci": {"hash": "' + hash_key("key-ci") + '", "expires": "2999-01-01"}}}'
    config = load_config(None, {"HANDLER_HOST_CONSUMERS": text, "HANDLER_HOST_API_KEYS": "plain"}).config
    consumers = Consumers(config.auth)
    found = [consumers.find(key) for key in ("key-ci", "plain", "other")]
    assert [one.name if one is not None else None for one in found] == ["ci", "key-1", None]
    assert "key-ci" not in repr(config)
    empty = tmp_path / "empty.toml"
    empty.write_text("")
    assert not Consumers(AuthConfig(consumers_file=empty)).is_open
    with pytest.raises(ConfigError, match=r"consumers_file.*missing\.toml"):
        Consumers(AuthConfig(consumers_file=tmp_path / "missing.toml"))


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("[consumers.a]\n", "hash", 1),
        ('[consumers.a]\nhash = "clear"\n', "sha256:HEX", 1),
        (written(a="handlers = 'gpt_a'"), "list of names", 1),
        (written(a="requests_per_minute = 0"), "from 1", 1),
        (written(a="concurrency = true"), "whole number", 1),
        (written(a="expires = 12:00:00"), "2027-01-01", 1),
        (written(a="expire = 2027-01-01"), "did you mean 'expires'", 1),
        ("[keys.a]\n", "unknown key 'keys'", None),
        ("consumers = 3\n", r"\[consumers.NAME\]", None),
        ('[consumers."a b"]\n', "a name must be", 1),
        ("[consumers", "neither TOML nor JSON", None),
        (written(a="") + written(b="").replace(hash_key("key-b"), hash_key("key-a")), "same as that of a", 4),
    ],
)
def test_a_wrong_file_is_told_with_place_and_remedy(text: str, message: str, line: int | None) -> None:
    with pytest.raises(ConfigError, match=message) as found:
        parse_consumers(text, "consumers.toml")
    assert found.value.message.startswith("consumers.toml: " if line is None else f"consumers.toml:{line}: ")


def test_limit_holds_in_every_minute_also_if_it_changes() -> None:
    usage = RateLimiter()
    assert [usage.count_request(3, now) for now in (0.0, 10.0, 20.0)] == [0.0, 0.0, 0.0]
    assert usage.count_request(3, 30.0) == 30.0
    assert usage.count_request(3, 60.0) == 0.0
    assert usage.count_request(3, 61.0) == 9.0
    assert usage.count_request(4, 61.0) == 0.0
    assert usage.count_request(4, 62.0) == 8.0
    assert usage.count_request(2, 62.0) == 58.0
    assert usage.count_request(2, 120.5) == 0.0


PAGE = "https://chat.example"


async def test_other_origins_are_allowed_only_by_configuration(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    asks = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    async with running(tmp_path) as host, host.ask("OPTIONS", "/v1/handlers", headers=asks) as response:
        assert response.status == 405
        assert "Access-Control-Allow-Origin" not in response.headers
    async with running(tmp_path, server={"cors_origins": (PAGE,)}) as host:
        async with host.ask("OPTIONS", "/v1/chat/completions", headers=asks) as response:
            assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (204, PAGE)
            assert response.headers["Access-Control-Allow-Headers"] == "authorization"
        async with host.ask("OPTIONS", "/v1/handlers", headers=asks | {"Origin": "https://evil.example"}) as response:
            assert response.status == 403
        for path, status in (("/v1/handlers", 200), ("/v1/handlers/nobody", 404)):
            async with host.ask("GET", path, headers={"Origin": PAGE}) as response:
                assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (status, PAGE)
        async with host.ask("GET", "/v1/handlers", headers={"Origin": "https://evil.example"}) as response:
            assert response.status == 403
            assert "Access-Control-Allow-Origin" not in response.headers
        async with host.ask("GET", "/admin/handlers", headers=OPERATOR | {"Origin": PAGE}) as response:
            assert "Access-Control-Allow-Origin" not in response.headers


async def test_operators_have_an_address_of_their_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with running(tmp_path, admin_config=AdminConfig(listen="127.0.0.1:0")) as host:
        fields = [getattr(record, "fields", {}) for record in caplog.records]
        own = next(values["address"] for values in fields if "address" in values)
        for path in ("/admin/handlers", "/admin/", "/metrics", "/admin/session"):
            assert (await host.json("GET", path, headers=OPERATOR))[0] == 404
            async with host.session.get(own + path, headers=OPERATOR) as response:
                assert response.status == 200, path
        async with host.session.get(own + "/v1/handlers") as response:
            assert response.status == 404
        for url in (own, host.url):
            async with host.session.get(url + "/health/live") as response:
                assert response.status == 200


async def test_admin_address_may_be_a_private_socket(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    async with running(tmp_path, admin_config=AdminConfig(listen=f"unix:{path}")) as host:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
            session.post("http://host/admin/handlers/puppet/load", headers=OPERATOR) as response,
        ):
            assert response.status == 200
        told = [event.data for event in host.supervisor.telemetry.events.past if event.kind == "audit"]
        assert f'"from":"uid {os.getuid()}"'.encode() in told[0]
        with pytest.raises(ConfigError, match=r"admin\.listen"):
            async with serving(configured(tmp_path, admin_config=AdminConfig(listen=f"unix:{path}"))):
                pass
    assert not path.exists()


@pytest.mark.parametrize("listen", ["9090", "host:", "127.0.0.1:99999", "unix:", "unix:" + "x" * 200, "a:²"])
def test_an_address_that_is_none_is_told_at_the_start(listen: str) -> None:
    with pytest.raises(ConfigError, match=r"admin\.listen"):
        load_config(None, {"HANDLER_HOST_ADMIN__LISTEN": listen})


def test_a_key_that_is_out_of_date_is_told_by_the_time_of_day() -> None:
    text = written(a="expires = 2027-01-01T12:00:00+02:00")
    entry = parse_consumers(text, "x")["a"]
    assert entry.expires == datetime.datetime(2027, 1, 1, 10, 0, tzinfo=datetime.UTC)


def test_a_host_with_a_consumers_file_may_serve_other_machines() -> None:
    assert Config().auth.open
    assert not AuthConfig(consumers_file=Path("x")).open
    assert not AuthConfig(consumers="[consumers]").open


async def test_a_rotated_key_stays_the_same_consumer_until_its_end(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    gone = soon - datetime.timedelta(days=2)
    options = with_file(
        tmp_path,
        a=f'old_hash = "{hash_key("old-key-a")}"\nold_expires = {soon.isoformat()}',
        b=f'old_hash = "{hash_key("old-key-b")}"\nold_expires = {gone.isoformat()}',
    )
    async with running(tmp_path, **options) as host:
        assert [await echo(host, key) for key in ("key-a", "old-key-a", "key-b")] == [(200, "")] * 3
        assert await echo(host, "old-key-b") == (401, "invalid_key")
        counted = host.supervisor.telemetry.counters.by_consumer
        assert counted == {("a", "puppet", "ok"): 2, ("b", "puppet", "ok"): 1}
