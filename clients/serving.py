"""The host in front of the stand-in for one run of a client, and the findings of the run."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients.stand_in.server import Recorded, StandIn
from handler_host.testing import HostUnderTest, host_under_test

ROOT = Path(__file__).parent.parent
ENVIRONMENT = ROOT / ".venv-clients"
AIDER = ENVIRONMENT / "aider"
NODE_MODULES = ROOT / "build" / "clients" / "node" / "node_modules"
CONFIG = """[defaults]
activate_timeout = 300
[handlers.gpt_a]
base_url = "{url}/v1"
retries = 0
[handlers.gpt_b]
base_url = "{url}"
retries = 0
[handlers.gpt_c]
base_url = "{url}"
retries = 0
[models]
{models}
"""
OK = "ok"
LEFT_OUT = "left out"
"""Result of a search that the handler's provider does not run."""
NOT_SENT = "not sent"
"""Result of a column whose fields the client itself did not send."""
MEDIA_KEYS = {
    "image": ("image", "image_url", "input_image", "inlineData", "inline_data"),
    "document": ("document", "file", "input_file", "inlineData", "inline_data"),
}


@dataclass
class Finished:
    """One finished run of a client, and the requests that reached the provider."""

    output: str
    directory: Path
    requests: list[Recorded]

    @property
    def sent(self) -> str:
        """The bodies that the provider got, as JSON."""
        return json.dumps([request.body for request in self.requests])

    def why(self) -> str:
        """Return the line of the output that says most about a failure."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        errors = [line for line in lines if re.search("error|unsupported|invalid|refused", line, re.IGNORECASE)]
        return ((errors or lines or ["no output"])[-1])[:300]

    def write(self, directory: Path, name: str) -> None:
        """Write the output and the requests into a directory."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{name}.output").write_text(self.output)
        records = [vars(request) | {"reply": repr(request.reply)} for request in self.requests]
        (directory / f"{name}.json").write_text(json.dumps(records, indent=1))


@contextlib.contextmanager
def serving(models: str) -> Iterator[tuple[StandIn, HostUnderTest]]:
    """Run the stand-in and the host, with the lines of its `[models]`."""
    with StandIn().run() as stand_in, host_under_test(CONFIG.format(url=stand_in.url, models=models)) as host:
        yield stand_in, host


class HostPool:
    """Hosts that clients use one after the other: a start and an activation cost as much as a library's script."""

    def __init__(self, hosts: contextlib.ExitStack) -> None:
        self._hosts = hosts
        self._idle: defaultdict[str, list[tuple[StandIn, HostUnderTest]]] = defaultdict(list)

    @contextlib.contextmanager
    def borrow(self, models: str) -> Iterator[tuple[StandIn, HostUnderTest]]:
        """Give a stand-in and a host for one client; they are used again unless its run raises an error."""
        idle = self._idle[models]
        try:
            stand_in, host = idle.pop()
        except IndexError:  # no question before it: another thread may take the last one in between
            stand_in, host = self._hosts.enter_context(serving(models))
        stand_in.requests.clear()
        yield stand_in, host
        idle.append((stand_in, host))


def find_all(value: Any, key: str) -> Iterator[Any]:
    """Yield the value of each key of this name, at any depth."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == key:
                yield inner
            yield from find_all(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from find_all(inner, key)


def has_media(run: Finished, kind: str) -> bool:
    """Return whether the provider got an image or a document."""
    keys = MEDIA_KEYS[kind]
    bodies = [request.body for request in run.requests]
    return any(list(find_all(bodies, key)) or f'"type": "{key}"' in run.sent for key in keys)


def is_ended(run: Finished) -> bool:
    """Wait until the host has ended a slow response of the provider; return whether it did."""
    deadline = time.monotonic() + 15
    slow = [request for request in run.requests if "task-slow" in json.dumps(request.body)]
    while time.monotonic() < deadline and not any(request.is_cancelled for request in slow):
        time.sleep(0.1)
    return any(request.is_cancelled for request in slow)
