"""Tokens of the listener for workers on other machines."""

from __future__ import annotations

from handler_host.config.listen import Address
from handler_host.workers.remote.listener import WorkerListener, withdraw


async def test_a_token_is_used_once_and_not_after_it_was_withdrawn() -> None:
    listener = WorkerListener(Address("127.0.0.1", 0), None)
    token, connection = listener.expect()
    assert listener.redeem(b"x" * len(token)) is None
    assert listener.redeem(token) is connection
    assert listener.redeem(token) is None
    token, connection = listener.expect()
    withdraw(connection)
    assert listener.redeem(token) is None, "also before the event loop has had a turn"
