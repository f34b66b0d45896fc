"""Keys: revoked ones lose their streams, wrong ones are slowed, and a consumer sees only what it may use."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from handler_host.auth.failed_login_throttle import FREE_FAILURES, MAX_DELAYED
from handler_host.config import AuthConfig
from handler_host.config.loader import hash_key
from handler_host.http.client_address import TrustedProxies
from handler_host.plugin.errors import ConfigError
from tests.integration.http.serving import ADMIN, running
from tests.support import WORKERS, install_plugin, install_puppet, within

KEY = "a-consumer-key"
BEARER = {"Authorization": f"Bearer {KEY}"}
CONSUMER = f'[consumers.a]\nhash = "sha256:{hashlib.sha256(KEY.encode()).hexdigest()}"\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    install_puppet(tmp_path)
    return tmp_path


async def test_revoking_a_key_ends_its_open_streams(root: Path) -> None:
    """Without a further request, within two seconds."""
    file = root / "consumers.toml"
    file.write_text(CONSUMER)
    auth = AuthConfig(consumers_file=file, admin_token=hash_key(ADMIN))
    async with running(root, auth=auth) as host:
        headers = {**BEARER, "Accept": "text/event-stream"}
        body = {"steps": ["", "forever"]}
        async with host.ask("POST", "/v1/handlers/puppet/stream", json=body, headers=headers) as response:
            assert response.status == 200
            await within(response.content.readuntil(b"\n\n"))
            file.write_text(CONSUMER + "revoked = 2020-01-01T00:00:00Z\n")
            with pytest.raises(Exception, match=r"payload is not completed|Connection"):
                await within(response.content.readuntil(b"event: end"))
        assert host.supervisor.in_flight == 0
        _, failures = await host.admin("GET", "/failures")
        last = failures["failures"][0]
        assert (last["code"], last["status"]) == ("invalid_key", 401)
        assert "has ended" in last["message"]


async def test_signing_out_ends_the_streams_of_the_session(root: Path) -> None:
    """The stream of events of the dashboard, for example."""
    async with running(root) as host:
        async with host.ask("POST", "/admin/session", json={"token": ADMIN}) as response:
            assert response.status == 200
            session = await response.json()
            cookie = {"Cookie": response.headers["Set-Cookie"].partition(";")[0]}
        async with host.ask("GET", "/admin/events", headers={"Accept": "text/event-stream", **cookie}) as response:
            assert response.status == 200
            headers = {"X-CSRF-Token": session["csrf"], **cookie}
            assert (await host.json("DELETE", "/admin/session", headers=headers))[0] == 200
            with pytest.raises(Exception, match=r"payload is not completed|Connection"):
                await within(response.content.readuntil(b"never sent"))


async def test_wrong_tokens_do_not_keep_the_right_one_out(root: Path) -> None:
    """Behind a proxy all clients have one address; further wrong tokens are 429 instead of faster guesses."""
    async with running(root) as host:
        wrong = {"Authorization": "Bearer wrong"}

        async def guess() -> int:
            async with host.ask("GET", "/admin/handlers", headers=wrong) as response:
                return int(response.status)

        for _ in range(FREE_FAILURES):
            assert await guess() == 401
        guesses = [asyncio.create_task(guess()) for _ in range(3 * MAX_DELAYED)]
        await asyncio.sleep(0.2)
        assert (await host.admin("GET", "/handlers"))[0] == 200
        done = [task.result() for task in guesses if task.done()]
        assert done.count(429) >= MAX_DELAYED
        for task in guesses:
            task.cancel()
        await asyncio.gather(*guesses, return_exceptions=True)


async def test_wrong_consumer_keys_are_slowed_in_parallel(root: Path) -> None:
    """And the right key passes meanwhile."""
    async with running(root, keys=(KEY,)) as host:

        async def guess() -> int:
            async with host.ask("GET", "/v1/handlers", headers={"Authorization": "Bearer wrong"}) as response:
                return int(response.status)

        guesses = [asyncio.create_task(guess()) for _ in range(FREE_FAILURES + 3 * MAX_DELAYED)]
        await asyncio.sleep(0.2)
        assert (await host.json("GET", "/v1/handlers", headers=BEARER))[0] == 200
        done = [task.result() for task in guesses if task.done()]
        assert done.count(401) <= FREE_FAILURES
        for task in guesses:
            task.cancel()
        await asyncio.gather(*guesses, return_exceptions=True)


async def test_a_consumer_sees_neither_processes_nor_settings(root: Path) -> None:
    """Operators do."""
    async with running(root, keys=(KEY,), handlers={"puppet": {"enabled": False}}) as host:
        _, listed = await host.json("GET", "/v1/handlers", headers=BEARER)
        puppet = next(entry for entry in listed["handlers"] if entry["name"] == "puppet")
        assert puppet["reason"] == "the operator of this host sees why"
        assert puppet["pid"] is None
        status, body = await host.json("POST", "/v1/handlers/puppet/echo", json={}, headers=BEARER)
        assert status == 503
        assert "finds the reason in its log" in body["error"]["message"]
        _, shown = await host.admin("GET", "/handlers/puppet")
        assert "operator" not in shown["reason"]


MANIFEST = '[config.headers]\ntype = "object"\n'


async def test_no_setting_of_a_handler_reaches_a_consumer_or_the_log(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In an error, in the list of handlers, or in the record of the failure."""
    install_plugin(root, "leaky", (WORKERS / "puppet.py").read_text(), attribute="Puppet", manifest=MANIFEST)
    settings = {"leaky": {"headers": "Authorization: Bearer sk-of-the-operator"}}
    async with running(root, keys=(KEY,), handlers=settings) as host:
        status, body = await host.json("POST", "/v1/handlers/leaky/echo", json={}, headers=BEARER)
        assert (status, body["error"]["code"]) == (500, "invalid_config")
        _, listed = await host.json("GET", "/v1/handlers", headers=BEARER)
        _, shown = await host.json("GET", "/v1/handlers/leaky", headers=BEARER)
        assert shown["reason"] == "the operator of this host sees why"
        _, failures = await host.admin("GET", "/failures")
        for text in (str(body), str(listed), str(shown), str(failures)):
            assert "sk-of-the-operator" not in text
        assert "str is not a table" in (await host.admin("GET", "/handlers/leaky"))[1]["reason"]
    lines = [f"{record.getMessage()} {getattr(record, 'fields', '')}" for record in caplog.records]
    assert not [line for line in lines if "sk-of-the-operator" in line]


async def test_openapi_names_the_key_of_hosts_with_a_consumers_file(root: Path) -> None:
    """Not only that of a host whose keys are in the environment."""
    file = root / "consumers.toml"
    file.write_text(CONSUMER)
    async with running(root, auth=AuthConfig(consumers_file=file, admin_token=hash_key(ADMIN))) as host:
        _, document = await host.json("GET", "/openapi.json", headers=BEARER)
        assert document["security"] == [{"key": []}]


@pytest.mark.parametrize(
    ("remote", "forwarded", "client"),
    [
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["1.2.3.4, 203.0.113.9, 10.9.9.9"], "203.0.113.9"),
        ("10.0.0.1", ["1.2.3.4", "203.0.113.9"], "203.0.113.9"),
        ("203.0.113.9", ["1.2.3.4"], "203.0.113.9"),
        ("10.0.0.1", ["nonsense"], "10.0.0.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("unknown", ["203.0.113.9"], "unknown"),
        ("::1", ["2001:db8::1"], "2001:db8::1"),
    ],
)
def test_the_address_behind_trusted_proxies(remote: str, forwarded: list[str], client: str) -> None:
    """The last hop that is not trusted; what a client writes itself is further to the left."""
    assert TrustedProxies(["10.0.0.0/8", "::1"]).client_of(remote, forwarded) == client


def test_an_invalid_proxy_is_refused() -> None:
    """At the start, with the setting."""
    with pytest.raises(ConfigError, match=r"server\.trusted_proxies"):
        TrustedProxies(["10.0.0.0/99"])
