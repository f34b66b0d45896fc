"""Long request bodies: the loop handles a bounded number of bytes before it runs others."""

from __future__ import annotations

import asyncio
import itertools
import re
import threading
from unittest import mock

import pytest
from aiohttp import StreamReader, web
from aiohttp.test_utils import make_mocked_request

from handler_host.config import ServerConfig
from handler_host.http import body_work, request_context
from handler_host.http.body import SCAN_BYTES, BodyReader, has_match
from handler_host.http.json_structure import PART_BYTES
from handler_host.protocols.json_fields import fields_of
from handler_host.protocols.provider_state import refuse_state


async def count_turns(search: asyncio.Task[object]) -> int:
    """Return how many turns of the loop a search takes."""
    turns = 0
    while not search.done():
        turns += 1
        await asyncio.sleep(0)
    return turns


def request_of(body: bytes) -> web.Request:
    """Return a request whose body has arrived."""
    request_context.current.set(request_context.RequestContext("a-request"))
    content = StreamReader(mock.Mock(_reading_paused=False), 2**30, loop=asyncio.get_running_loop())
    content.feed_data(body)
    content.feed_eof()
    return make_mocked_request("POST", "/", {"Content-Type": "application/json"}, payload=content)


class TestRead:
    """All work on a body up to 1 MB is done in the loop, by steps that wait for each other (``BodyWork``)."""

    @pytest.fixture(autouse=True)
    def one_step_in_a_turn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(body_work, "TURN_S", 1e-9)

    async def test_others_run_between_the_parts_of_a_structure(self) -> None:
        body = b"[" + b"{}," * 5 * PART_BYTES + b"{}]"
        read = asyncio.create_task(BodyReader(ServerConfig()).read_json(request_of(body)))
        assert await count_turns(read) >= len(body) // PART_BYTES
        assert await read == body

    @pytest.mark.parametrize("text", [rb"\n", rb"\u00e4", rb"\\", rb"\ud83d\ude00", rb"\na", rb"\ud800"])
    async def test_others_run_while_halves_of_surrogate_pairs_are_replaced(self, text: bytes) -> None:
        """One turn took 0.4 s for 1 MB of escapes."""
        body = b'"' + text * 100_000 + rb'\ud83d"'
        read = asyncio.create_task(BodyReader(ServerConfig()).read_json(request_of(body)))
        assert await count_turns(read) >= 5
        assert await read == b'"' + text.replace(rb"\ud800", rb"\ufffd") * 100_000 + rb'\ufffd"'

    async def test_all_else_than_halves_stays(self) -> None:
        """As one match for each escape finds them, in any order of escapes."""
        escape = re.compile(
            rb"(?s)" + rb"\\(?:%s\\%s|(%s)|.)" % (rb"u[dD][89abAB]..", rb"u[dD][c-fC-F]..", rb"u[dD][89a-fA-F]..")
        )
        tokens = (rb"\ud83d", rb"\uDE00", rb"\\", rb"\n", rb"\u00e4", rb"ud83d", b"a" * 101)
        body = b'"' + b"a".join(map(b"".join, itertools.product(tokens, repeat=4))) + rb'\ud800"'
        expected = escape.sub(lambda match: match[0] if match[1] is None else rb"\ufffd", body)
        assert await BodyReader(ServerConfig()).read_json(request_of(body)) == expected


class TestSearch:
    @pytest.mark.parametrize("distance", [0, 1, 3, 6, 7])
    async def test_match_across_the_end_of_a_part_is_found(self, distance: int) -> None:
        body = b"x" * (SCAN_BYTES - distance) + b"pattern" + b"x" * SCAN_BYTES
        assert await has_match(re.compile(b"pattern"), body)
        assert not await has_match(re.compile(b"others"), body)

    async def test_others_run_after_each_part(self) -> None:
        search = asyncio.create_task(has_match(re.compile(b"pattern"), b"x" * (8 * SCAN_BYTES)))
        assert await count_turns(search) >= 8

    async def test_others_run_during_the_search_for_provider_state(self) -> None:
        body = b'{"input": "' + b"x" * (8 * SCAN_BYTES) + b'"}'
        search = asyncio.create_task(refuse_state("openai.responses", body, fields_of(body), "gpt_a"))
        assert await count_turns(search) >= 3 * 8  # names, escapes, IDs


class TestDecode:
    @pytest.mark.parametrize(
        ("body", "in_loop"),
        [(b"[]", True), (b"x" * SCAN_BYTES, True), (b"x" * (SCAN_BYTES + 1), False), (b"," * 3000, False)],
        ids=["short", "one-part", "long", "many-values"],
    )
    async def test_long_bodies_and_many_values_are_decoded_in_a_thread(self, body: bytes, in_loop: bool) -> None:
        thread = await BodyReader(ServerConfig()).decode_data(body, lambda _: threading.get_ident())
        assert (thread == threading.get_ident()) is in_loop
