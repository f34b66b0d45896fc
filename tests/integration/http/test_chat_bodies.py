"""Bodies of chats: decoded once, and refused with a status and the field."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import FrameType
from typing import Any, Self

import msgspec
import pytest

from tests.integration.http.serving import Host, running

MESSAGES = [{"role": "user", "content": "Hi"}]
CONTENTS = [{"role": "user", "parts": [{"text": "Hi"}]}]
CHATS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"model": "absent", "messages": MESSAGES}),
    ("/v1/responses", {"model": "absent", "input": "Hi"}),
    ("/v1/messages", {"model": "absent", "max_tokens": 9, "messages": MESSAGES}),
    ("/v1/messages/count_tokens", {"model": "absent", "messages": MESSAGES}),
    ("/v1beta/models/absent:generateContent", {"contents": CONTENTS}),
    ("/v1beta/models/absent:countTokens", {"contents": CONTENTS}),
]
LONG_CHATS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"model": "absent", "messages": MESSAGES * 1000}),
    ("/v1/responses", {"model": "absent", "input": MESSAGES * 1000}),
    ("/v1/messages", {"model": "absent", "max_tokens": 9, "messages": MESSAGES * 1000}),
    ("/v1beta/models/absent:generateContent", {"contents": CONTENTS * 1000}),
    ("/api/chat", {"model": "absent", "messages": MESSAGES * 1000}),
]
JSON = {"Content-Type": "application/json"}


class CallCounter:
    """Counts calls in this thread; a subclass selects them in ``_profile``."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Self:
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)

    def _profile(self, frame: FrameType, event: str, function: Any) -> None:
        raise NotImplementedError


class JsonDecodes(CallCounter):
    """Counts the calls of msgspec's JSON decoders.

    The search for the model's name, before it is known whether the body is passed on as it came, builds no values.
    """

    def _profile(self, frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and frame.f_globals["__name__"] != "handler_host.protocols.json_fields":
            is_method = function.__name__ == "decode" and isinstance(function.__self__, msgspec.json.Decoder)
            self.count += is_method or function is msgspec.json.decode


class Translations(CallCounter):
    """Counts the translations of requests."""

    def _profile(self, frame: FrameType, event: str, function: Any) -> None:
        self.count += event == "call" and frame.f_code.co_name in ("to_chat", "_to_chat")


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with running(tmp_path) as host:
        yield host


class TestDecoding:
    @pytest.mark.parametrize(("path", "body"), CHATS)
    async def test_happens_once(self, host: Host, path: str, body: dict[str, Any]) -> None:
        await host.json("POST", path, json=body)  # imports the protocol
        with JsonDecodes() as decodes:
            assert (await host.json("POST", path, json=body))[0] == 404
        assert decodes.count == 1

    @pytest.mark.parametrize(("path", "body"), LONG_CHATS)
    async def test_of_many_values_leaves_the_loop_free(self, host: Host, path: str, body: dict[str, Any]) -> None:
        with Translations() as translations:
            assert (await host.json("POST", path, json=body))[0] == 404
        assert translations.count == 0

    @pytest.mark.parametrize(("path", "body"), CHATS)
    @pytest.mark.parametrize(
        ("data", "text"),
        [
            (b"{", "not JSON"),
            (b"nonsense", "not JSON"),
            (b'{"model": "\xff"}', "not UTF-8"),
            (b'{"metadata": "\xff"}', "not UTF-8"),
            (b"[" * 100_000, "nested too deeply"),
        ],
    )
    async def test_refuses_what_is_not_json(
        self, host: Host, path: str, body: dict[str, Any], data: bytes, text: str
    ) -> None:
        async with host.ask("POST", path, data=data, headers=JSON) as response:
            assert response.status == 400
            assert text in await response.text()

    @pytest.mark.parametrize(("path", "body"), CHATS)
    async def test_refuses_other_media_types(self, host: Host, path: str, body: dict[str, Any]) -> None:
        async with host.ask("POST", path, data=b"{}", headers={"Content-Type": "text/plain"}) as response:
            assert response.status == 415

    @pytest.mark.parametrize(("path", "body"), CHATS)
    async def test_an_empty_body_lacks_its_fields(self, host: Host, path: str, body: dict[str, Any]) -> None:
        async with host.ask("POST", path, headers=JSON) as response:
            assert response.status == 400
            assert "missing" in await response.text()
