"""Who may ask: consumers, operators, and in the open mode whoever is on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from handler_host.auth.key_ring import KeyRing
from handler_host.config import AuthConfig
from handler_host.config.listen import is_loopback
from handler_host.config.loader import hash_key
from tests.integration.http.serving import ADMIN, running

CONSUMER = "consumer-key"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    ("path", "headers", "status", "code"),
    [
        ("/v1/handlers", {}, 401, "invalid_key"),
        ("/v1/handlers", bearer("wrong"), 401, "invalid_key"),
        ("/v1/handlers", bearer(""), 401, "invalid_key"),
        ("/v1/handlers", {"Authorization": f"Basic {CONSUMER}"}, 401, "invalid_key"),
        ("/v1/handlers", bearer(ADMIN), 403, "forbidden"),
        ("/v1/models", {}, 401, "invalid_key"),
        ("/admin/handlers", {}, 401, "invalid_key"),
        ("/admin/handlers", bearer("wrong"), 401, "invalid_key"),
        ("/admin/handlers", bearer(CONSUMER), 403, "forbidden"),
    ],
)
async def test_who_has_no_right_key_is_told_what_is_needed(
    tmp_path: Path, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    async with running(tmp_path, keys=("other", CONSUMER)) as host, host.ask("GET", path, headers=headers) as response:
        text = await response.text()
        assert (response.status, (await response.json())["error"]["code"]) == (status, code)
        assert ("WWW-Authenticate" in response.headers) == (status == 401)
        assert CONSUMER not in text
        assert ADMIN not in text


@pytest.mark.parametrize(
    "headers",
    [
        bearer(CONSUMER),
        {"Authorization": f"bearer  {CONSUMER}"},
        {"X-Api-Key": CONSUMER},
        {"x-goog-api-key": CONSUMER},
    ],
)
async def test_a_consumers_key_is_taken_where_clients_send_it(tmp_path: Path, headers: dict[str, str]) -> None:
    async with (
        running(tmp_path, keys=("other", CONSUMER)) as host,
        host.ask("GET", "/v1/handlers", headers=headers) as response,
    ):
        assert response.status == 200


@pytest.mark.parametrize("path", ["/v1/handlers", "/admin/handlers"])
@pytest.mark.parametrize("header", [b"Authorization: Bearer \xff\xfe", b"X-Api-Key: \xff", b"Authorization: \xff"])
async def test_a_key_that_is_no_text_is_a_wrong_key(tmp_path: Path, path: str, header: bytes) -> None:
    async with running(tmp_path, keys=(CONSUMER,)) as host:
        status, _, body = await host.raw(b"GET %s HTTP/1.1\r\nHost: \xff\r\n%s\r\n\r\n" % (path.encode(), header))
        assert status == 401
        assert b"invalid_key" in body


async def test_an_open_host_is_not_confused_by_a_name_that_is_no_text(tmp_path: Path) -> None:
    async with running(tmp_path) as host:
        status, _, body = await host.raw(b"GET /v1/handlers HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n")
        assert (status, b"forbidden" in body) == (403, True)


async def test_probes_need_no_key(tmp_path: Path) -> None:
    async with running(tmp_path, keys=(CONSUMER,)) as host:
        assert (await host.json("GET", "/health/live"))[0] == 200
        assert (await host.json("GET", "/health/ready"))[0] == 200


async def test_without_an_admin_token_the_admin_routes_are_closed(tmp_path: Path) -> None:
    async with running(tmp_path, admin=None) as host:
        status, response = await host.json("GET", "/admin/handlers", headers=bearer("any"))
        assert status == 403
        assert "HANDLER_HOST_ADMIN_TOKEN" in response["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:8080"}, 200),
        ({"Host": "127.0.0.1"}, 200),
        ({"Host": "[::1]:8080"}, 200),
        ({"Host": "evil.example:8080"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost", "Origin": "http://localhost:3000"}, 200),
        ({"Host": "localhost", "Origin": "https://evil.example"}, 403),
        ({"Host": "localhost", "Origin": "null"}, 403),
        ({"Host": "localhost", "Authorization": "Bearer any"}, 200),
    ],
)
async def test_an_open_host_answers_this_machine_and_no_web_page(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    async with running(tmp_path) as host, host.ask("GET", "/v1/handlers", headers=headers) as response:
        assert response.status == status
        if status == 403:
            assert "HANDLER_HOST_API_KEYS" in (await response.json())["error"]["message"]


async def test_a_host_with_keys_answers_under_any_name(tmp_path: Path) -> None:
    async with running(tmp_path, keys=(CONSUMER,)) as host:
        headers = {"Host": "chat.example", "Origin": "https://chat.example", **bearer(CONSUMER)}
        assert (await host.json("GET", "/v1/handlers", headers=headers))[0] == 200


def test_keys_are_known_by_their_digests_only() -> None:
    ring = KeyRing(AuthConfig(api_keys=(hash_key("a-consumer"), hash_key("b-consumer")), admin_token=hash_key(ADMIN)))
    assert ring.is_consumer("a-consumer")
    assert ring.is_consumer("b-consumer")
    assert not ring.is_consumer("c-consumer")
    assert not ring.is_consumer(ADMIN)
    assert not ring.is_consumer("ключ")
    assert ring.is_admin(ADMIN)
    assert not ring.is_admin("a-consumer")
    assert "a-consumer" not in repr(vars(ring))


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST.", "app.localhost", "127.0.0.1", "127.1.2.3", "::1"])
def test_names_of_this_machine(name: str) -> None:
    assert is_loopback(name)


@pytest.mark.parametrize("name", ["", "0.0.0.0", "::", "127.0.0.1.nip.io", "localhost.example", "10.0.0.1"])
def test_names_of_other_machines(name: str) -> None:
    assert not is_loopback(name)
