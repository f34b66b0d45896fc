"""``handler-host keys``: the consumers' file."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from handler_host.config.loader import hash_key
from tests.integration.cli.running import Run


def test_a_new_key_is_printed_once_and_kept_as_a_hash(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "new" / "consumers.toml"
    words = ("keys", "new", "team-a", "--file", str(file), "--handlers", "gpt_a, gpt_e", "--expires", "2030-01-02")
    made = run(*words, "--requests-per-minute", "60", "--concurrency", "4")
    key = made.out.strip()
    assert (made.status, key.startswith("hh_")) == (0, True)
    assert key not in file.read_text()
    assert key not in made.err
    assert file.stat().st_mode & 0o777 == 0o600
    entry = tomllib.loads(file.read_text())["consumers"]["team-a"]
    assert entry["hash"] == hash_key(key)
    assert (entry["handlers"], entry["requests_per_minute"], entry["concurrency"]) == (["gpt_a", "gpt_e"], 60, 4)
    assert entry["expires"].isoformat() == "2030-01-02T00:00:00+00:00"
    assert run(*words).status == 1


def test_what_else_is_in_the_file_stays_when_keys_are_added_and_revoked(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "consumers.toml"
    file.write_text(f'# ours\n[consumers."dotted.name"]  # a comment\nhash = "{hash_key("x" * 20)}"\n')
    assert run("keys", "new", "b", "--file", str(file), "--expires", "90d").status == 0
    assert run("keys", "revoke", "dotted.name", "--file", str(file)).status == 0
    assert file.read_text().startswith("# ours\n")
    assert "# a comment" in file.read_text()
    shown = {
        one["name"]: one["state"]
        for one in json.loads(run("keys", "list", "--file", str(file), "--json").out)["consumers"]
    }
    assert shown == {"dotted.name": "revoked", "b": "valid"}
    assert "already" in run("keys", "revoke", "dotted.name", "--file", str(file)).err
    table = run("keys", "list", "--file", str(file)).out
    assert table.splitlines()[0].split()[:3] == ["NAME", "KEY", "HANDLERS"]


def test_the_file_is_that_of_the_configuration(run: Run, toml: Callable[[str], str], tmp_path: Path) -> None:
    config = toml('[auth]\nconsumers_file = "mine.toml"\n')
    assert run("keys", "new", "a", "--config", config).status == 0
    assert (tmp_path / "mine.toml").exists()
    assert run("keys", "list").status == 2


@pytest.mark.parametrize(
    ("words", "status", "word"),
    [
        (("new",), 2, "name a consumer"),
        (("new", "a b"), 2, "has to be"),
        (("new", "a", "--expires", "soon"), 2, "--expires"),
        (("new", "a", "--concurrency", "0"), 2, "--concurrency"),
        (("revoke", "nobody"), 1, "nobody"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_written(
    run: Run, tmp_path: Path, words: tuple[str, ...], status: int, word: str
) -> None:
    file = tmp_path / "consumers.toml"
    result = run("keys", *words, "--file", str(file))
    assert result.status == status
    assert word in result.err
    assert not file.exists()
