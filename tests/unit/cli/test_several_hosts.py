"""Streams of several hosts, merged into one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from handler_host.cli.client import Client
from handler_host.cli.failure import Failure
from handler_host.cli.several_hosts import merge

CLIENTS = [Client(f"http://127.0.0.1:{port}") for port in (1, 2)]


def test_a_stream_that_fails_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    def stream(client: Client) -> Iterator[dict[str, Any]]:
        if client is CLIENTS[0]:
            raise Failure("not reached")
        yield {"id": 1}

    assert list(merge(CLIENTS, stream)) == [(CLIENTS[1], {"id": 1})]
    assert "not reached" in capsys.readouterr().err


def test_a_failure_of_the_command_itself_ends_it() -> None:
    def stream(client: Client) -> Iterator[dict[str, Any]]:
        if client is CLIENTS[0]:
            raise ValueError("not JSON")
        yield {"id": 1}

    with pytest.raises(ValueError, match="not JSON"):
        list(merge(CLIENTS, stream))
