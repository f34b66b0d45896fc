"""The README names all there is, and each of its examples is answered."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from handler_host.catalog.manifest import check_settings, read_manifest
from handler_host.plugin.operations import OPERATION_ATTRIBUTE
from sheets import Sheets
from tests.integration.plugins.sheets.defaults import MANIFEST
from tests.integration.plugins.sheets.google import Google
from tests.integration.plugins.sheets.hosts import ServedHost, local, served
from tests.support import within

README = (MANIFEST.parents[2] / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^\| `([\w.]+)` \| `(\{.*?\})` \| (.*) \|$", README, re.MULTILINE)


def operations() -> set[str]:
    marks = (getattr(getattr(Sheets, name), OPERATION_ATTRIBUTE, None) for name in dir(Sheets))
    return {mark.name for mark in marks if mark is not None}


def test_code_manifest_and_readme_have_the_same_operations() -> None:
    manifest = read_manifest(str(MANIFEST))
    assert set(manifest.operations or ()) == operations() == {name for name, _, _ in EXAMPLES}
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \| .*? \| .* \|$", README, re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"\w+", row)}
    assert set(manifest.config) <= documented
    for secret in manifest.secrets:
        assert f"`{secret}`" in README


def test_the_configuration_is_in_order() -> None:
    (block,) = re.findall(r"^```toml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    settings = tomllib.loads(block)["handlers"]["sheets"]
    assert check_settings(read_manifest(str(MANIFEST)), settings, "README")["users_columns"] == ["email"]


async def test_the_commands_do_what_the_readme_says(tmp_path: Path, google: Google, private_key: str) -> None:
    commands = [
        shlex.split(line, comments=True)
        for line in re.findall(r"^\$ (handler-host dispatch .*)$", README, re.MULTILINE)
    ]
    assert len(commands) == 4

    async def run(host: ServedHost, command: list[str]) -> Any:
        words = command[1 : command.index("|")] if "|" in command else command[1:]
        shell = [sys.executable, "-m", "handler_host", words[0], "--url", host.url, *words[1:]]
        done = await within(asyncio.to_thread(subprocess.run, shell, capture_output=True, text=True, timeout=60))
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return json.loads(done.stdout)

    async with served(tmp_path, google) as host:
        append, export, *_ = commands
        assert (await run(host, append))["pending"] == 0
        assert (await run(host, export))["csv"].startswith("user_id,name,status,")
    async with served(tmp_path, google, private_key) as host:
        *_, try_it, move = commands
        assert (await run(host, try_it))["mode"] == "local"
        response = await run(host, move)
        assert (response["mode"], response["moved"], response["complete"]) == ("google", 1, True)
        assert [(row["user_id"], row["event"]) for row in google.rows("log")] == [("42", "hello")]


async def test_each_example_is_answered_with_what_the_readme_says(tmp_path: Path) -> None:
    async with local(tmp_path, users_columns=["email"]) as sheets:
        for name, request, told in EXAMPLES:
            response = await sheets(name, **json.loads(request))
            for key in re.findall(r'"(\w+)":', told.partition("}`")[0].partition("{…}")[0].partition("[…]")[0])[:1]:
                assert key in response, f"{name}: {response}"
