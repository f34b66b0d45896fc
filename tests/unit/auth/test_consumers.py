"""Consumers: whose a key is, and where consumers come from."""

from __future__ import annotations

import datetime
import hmac
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from handler_host._internal.source_location import lines_of
from handler_host.auth.consumer_file import parse_consumers
from handler_host.auth.consumers import Consumers
from handler_host.auth.key_ring import KeyRing
from handler_host.config import AuthConfig, Config
from handler_host.config.loader import hash_key, load_config
from handler_host.plugin.errors import ConfigError


def names(consumers: Consumers, *keys: str) -> list[str | None]:
    found = [consumers.find(key) for key in keys]
    return [consumer.name if consumer is not None else None for consumer in found]


class TestFind:
    def test_sources(self, tmp_path: Path) -> None:
        text = '{"consumers": {"ci": {"hash": "' + hash_key("key-ci") + '", "expires": "2999-01-01"}}}'
        config = load_config(None, {"HANDLER_HOST_CONSUMERS": text, "HANDLER_HOST_API_KEYS": "plain"}).config
        assert names(Consumers(config.auth), "key-ci", "plain", "other") == ["ci", "key-1", None]
        assert "key-ci" not in repr(config)

    def test_costs_the_same_with_a_thousand_consumers(self) -> None:
        consumers = Consumers(AuthConfig(api_keys=tuple(hash_key(f"key-{number}") for number in range(1000))))
        calls: Counter[Any] = Counter()

        def profile(frame: FrameType, event: str, function: Any) -> None:
            if event == "c_call":
                calls[function.__name__] += 1

        sys.setprofile(profile)
        try:
            consumer = consumers.find("key-999")
        finally:
            sys.setprofile(None)
        assert consumer is not None
        assert consumer.name == "key-1000"
        assert calls[hmac.compare_digest.__name__] <= 1
        assert calls.total() < 10

    def test_a_file_is_searched_for_lines_once_and_only_for_mistakes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        searched: list[str] = []

        def search(text: str) -> dict[tuple[str, ...], int]:
            searched.append(text)
            return lines_of(text)

        monkeypatch.setattr("handler_host.auth.consumer_file.lines_of", search)
        text = "".join(f'[consumers.c{number}]\nhash = "{hash_key(str(number))}"\n' for number in range(3))
        assert len(parse_consumers(text, "consumers.toml")) == 3
        assert searched == []
        with pytest.raises(ConfigError) as error:
            parse_consumers(text.replace("hash", "hsh"), "consumers.toml")
        places = [line.partition(": ")[0] for line in error.value.message.splitlines()]
        assert places == ["consumers.toml:1", "consumers.toml:3", "consumers.toml:5"]
        assert len(searched) == 1


class TestIsActive:
    def test_the_key_before_a_rotation_ends_at_its_own_time(self, tmp_path: Path) -> None:
        file = tmp_path / "consumers.toml"
        now = datetime.datetime.now(datetime.UTC)

        def rotated(old_expires: datetime.datetime) -> Consumers:
            file.write_text(
                f'[consumers.ci]\nhash = "{hash_key("new")}"\n'
                f'old_hash = "{hash_key("old")}"\nold_expires = {old_expires.isoformat()}\n'
            )
            return Consumers(AuthConfig(consumers_file=file))

        before = rotated(now + datetime.timedelta(hours=1))
        old, new = before.find("old"), before.find("new")
        assert old is not None
        assert new is not None
        assert (before.is_active(old), before.is_active(new)) == (True, True)
        after = rotated(now - datetime.timedelta(hours=1))
        assert (after.is_active(old), after.is_active(new)) == (False, True)


class TestIsOpen:
    def test_not_with_an_empty_file(self, tmp_path: Path) -> None:
        file = tmp_path / "empty.toml"
        file.write_text("")
        assert not Consumers(AuthConfig(consumers_file=file)).is_open

    def test_a_missing_file_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"consumers_file.*missing\.toml"):
            Consumers(AuthConfig(consumers_file=tmp_path / "missing.toml"))

    def test_configuration(self) -> None:
        assert Config().auth.open
        assert not AuthConfig(consumers_file=Path("x")).open
        assert not AuthConfig(consumers="[consumers]").open


class TestKeyRing:
    def test_knows_consumers_and_the_admin_apart(self) -> None:
        hashes = (hash_key("a-consumer"), hash_key("b-consumer"))
        ring = KeyRing(AuthConfig(api_keys=hashes, admin_token=hash_key("the-admin-token")))
        assert ring.is_consumer("a-consumer")
        assert ring.is_consumer("b-consumer")
        assert not ring.is_consumer("c-consumer")
        assert not ring.is_consumer("the-admin-token")
        assert not ring.is_consumer("ключ")
        assert ring.is_admin("the-admin-token")
        assert not ring.is_admin("a-consumer")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"[consumers.a]\nconcurrency = {'9' * 5000}\n", "neither TOML nor JSON: a number has too many digits"),
        (
            f'[consumers.a]\nhash = "sha256:{"a" * 64}"\nconcurrency = "x"\n',
            '[consumers.a]: concurrency = "x": must be',
        ),
        ('{"consumers": {"\\u0000": {}}}', '[consumers."\\u0000"]: a name must be'),
    ],
)
def test_a_flaw_is_named_with_its_value(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_consumers(text, "consumers.toml")
    assert problem in caught.value.message
    assert caught.value.message.isprintable()
