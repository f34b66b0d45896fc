"""Commands for several hosts at once: ``--url A --url B``."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, TypeVar

from handler_host.cli.client import Client
from handler_host.cli.failure import OK, Failure
from handler_host.cli.render import note

T = TypeVar("T")


def clients_from(arguments: SimpleNamespace) -> list[Client]:
    """Return a client for each ``--url``; without one that of ``HANDLER_HOST_URL``."""
    return [Client(url, token_file=arguments.token_file) for url in dict.fromkeys(arguments.urls or [None])]


def label(client: Client) -> str:
    """Return the short name of a host for tables."""
    return client.url.removeprefix("http://").removeprefix("https://")


def call_each(clients: Sequence[Client], call: Callable[[Client], T]) -> tuple[list[tuple[Client, T]], int]:
    """Call all hosts at the same time; return the responses, and the exit status of the first failure.

    A failure is printed, and the other hosts are shown all the same.
    """
    responses: list[tuple[Client, T]] = []
    status = OK
    with ThreadPoolExecutor(len(clients)) as pool:
        for client, future in [(client, pool.submit(call, client)) for client in clients]:
            try:
                responses.append((client, future.result()))
            except Failure as failure:
                note(str(failure))
                status = status or failure.status
    return responses, status


def merge(
    clients: Sequence[Client], stream: Callable[[Client], Iterator[dict[str, Any]]]
) -> Iterator[tuple[Client, dict[str, Any]]]:
    """Yield what the streams of all hosts bring, as it comes; a stream that fails is printed and left out.

    Raises the last failure if all streams have failed.
    """
    arrived: queue.SimpleQueue[tuple[Client, dict[str, Any] | Exception | None]] = queue.SimpleQueue()

    def read(client: Client) -> None:
        try:
            for item in stream(client):
                arrived.put((client, item))
            arrived.put((client, None))
        except Exception as error:  # noqa: BLE001 - raised again below, in the thread that waits
            arrived.put((client, error))

    for client in clients:
        # Daemons: Ctrl-C ends the command while they wait for their hosts.
        threading.Thread(target=read, args=(client,), name=f"events of {label(client)}", daemon=True).start()
    open_streams, failed = len(clients), 0
    while open_streams:
        client, item = arrived.get()
        if isinstance(item, dict):
            yield client, item
            continue
        open_streams -= 1
        if item is not None:
            failed += 1
            if failed == len(clients) or not isinstance(item, Failure):
                raise item
            note(str(item))
