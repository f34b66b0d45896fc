"""The results of the runs: the file that the table is made of, and the list of pairs that have passed."""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from clients.agents import AGENTS
from clients.serving import LEFT_OUT, NOT_SENT, OK, ROOT

RESULTS = ROOT / "clients" / "results.json"
PASSED = ROOT / "build" / "clients" / "passed.json"
STATE = ("host/src", "plugins", "clients", "requirements", "docs/how-to/connect-clients.md")
"""The files that a result depends on."""
FAULTS = {(agent.name, *place): reason for agent in AGENTS for place, reason in agent.faults.items()}
"""Client, handler and column of a check that fails because of the client, and the reason."""


def read() -> dict[str, Any]:
    """Return the version and the pairs of each client."""
    return read_json(RESULTS)


def failures(name: str, handler: str) -> dict[str, str]:
    """Return the columns of a pair that fail, and are no known faults of the client."""
    columns = read()[name]["pairs"][handler]["columns"]
    return {
        column: value
        for column, value in columns.items()
        if value not in (OK, NOT_SENT, LEFT_OUT) and (name, handler, column) not in FAULTS
    }


def save(name: str, version: str, handler: str, columns: dict[str, str]) -> None:
    """Write the result of a pair, and add the pair to those that have passed, or remove it from them."""
    clients = read()
    result = clients.setdefault(name, {"pairs": {}})
    result["version"] = version
    result["pairs"][handler] = {"columns": columns, "date": datetime.datetime.now(datetime.UTC).date().isoformat()}
    RESULTS.write_text(json.dumps(clients, indent=2, sort_keys=True) + "\n")
    passed = read_passed() - {(name, handler)}
    if not failures(name, handler):
        passed.add((name, handler))
    PASSED.parent.mkdir(parents=True, exist_ok=True)
    PASSED.write_text(json.dumps({"state": _state(), "pairs": sorted(passed)}))


def read_passed() -> set[tuple[str, str]]:
    """Return the clients and handlers that have passed since the host, its plugins or the clients changed."""
    passed = read_json(PASSED)
    return {(name, handler) for name, handler in passed["pairs"]} if passed.get("state") == _state() else set()


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a file, or an empty object if the file is missing."""
    return dict(json.loads(path.read_text())) if path.exists() else {}


@functools.cache
def _state() -> str:
    """Return a digest of the files that results depend on, as they were at the start."""
    digest = hashlib.sha256()
    for place in STATE:
        files = sorted(path for path in [ROOT / place, *(ROOT / place).rglob("*")] if path.is_file())
        for path in files:
            if path.suffix != ".pyc" and path != RESULTS:
                digest.update(path.read_bytes())
    return digest.hexdigest()
