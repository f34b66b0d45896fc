"""The SDKs of npm, installed once from their lock, as clients that tests run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NODE = Path(__file__).parent / "node"
PROJECT = ("package.json", "package-lock.json", ".npmrc")
OLDEST_NODE = 20
LIMIT = 300.0
"""Seconds for one call of npm or node: no measure of how fast anything is."""
UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "E403", "E407")
"""What npm says where it has no registry that it could ask."""
ENVIRONMENT = dict(os.environ)
"""As the caller has it, with the proxies that npm may need: the tests themselves run without."""

Client = Callable[..., Any]
"""Runs a script of ``node/`` with arguments; returns what it has printed, which is one JSON document."""


@pytest.fixture(scope="session")
def npm_packages(pytestconfig: pytest.Config) -> Path:
    """Return the directory with ``node_modules`` as the lock says; it is kept for the next run of the tests."""
    for command in ("node", "npm"):
        if shutil.which(command) is None:
            pytest.skip(f"{command} is not on the PATH: the npm packages are not tested as clients")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, timeout=LIMIT).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST_NODE:
        pytest.skip(f"node is {version}, and the SDKs need {OLDEST_NODE}: they are not tested as clients")
    digest = hashlib.sha256(b"".join((NODE / name).read_bytes() for name in PROJECT)).hexdigest()[:16]
    assert pytestconfig.cache is not None
    place = pytestconfig.cache.mkdir("npm") / digest
    if not place.exists():
        # In a directory of its own until it is whole: a run that is interrupted leaves nothing half done.
        with tempfile.TemporaryDirectory(dir=place.parent) as directory:
            _install(Path(directory))
            os.rename(directory, place)
            os.mkdir(directory)
    return place


def _install(directory: Path) -> None:
    for name in PROJECT:
        shutil.copy(NODE / name, directory)
    done = subprocess.run(["npm", "ci"], cwd=directory, env=ENVIRONMENT, capture_output=True, text=True, timeout=LIMIT)
    if done.returncode and any(code in done.stderr for code in UNREACHABLE):
        pytest.skip(f"npm has no registry, so its packages are not tested as clients: {done.stderr[:500]}")
    assert done.returncode == 0, f"npm ci failed:\n{done.stderr}"


@pytest.fixture(scope="session")
def node(npm_packages: Path) -> Client:
    """Return the function that runs ``node/NAME.mjs``: ``node("openai", url, key)``."""
    for script in NODE.glob("*.mjs"):
        shutil.copy(script, npm_packages)

    def run(script: str, *arguments: str) -> Any:
        done = subprocess.run(
            ["node", f"{script}.mjs", *arguments], cwd=npm_packages, capture_output=True, text=True, timeout=LIMIT
        )
        assert done.returncode == 0, f"{script}.mjs failed:\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)

    return run
