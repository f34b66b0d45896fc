"""``handler-host keys``: the consumers file."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from handler_host.config.loader import hash_key
from tests.integration.cli.harness import Run, WriteToml


class TestNew:
    def test_prints_the_key_and_stores_its_hash(self, run: Run, tmp_path: Path) -> None:
        file = tmp_path / "new" / "consumers.toml"
        words = ("keys", "new", "team-a", "--file", str(file), "--handlers", "gpt_a, gpt_e", "--expires", "2030-01-02")
        result = run(*words, "--requests-per-minute", "60", "--concurrency", "4")
        key = result.out.strip()
        assert (result.status, key.startswith("hh_")) == (0, True)
        assert key not in file.read_text()
        assert key not in result.err
        assert file.stat().st_mode & 0o777 == 0o600
        entry = tomllib.loads(file.read_text())["consumers"]["team-a"]
        assert entry["hash"] == hash_key(key)
        assert (entry["handlers"], entry["requests_per_minute"], entry["concurrency"]) == (["gpt_a", "gpt_e"], 60, 4)
        assert entry["expires"].isoformat() == "2030-01-02T00:00:00+00:00"
        assert run(*words).status == 1

    def test_file_is_that_of_the_configuration(self, run: Run, write_toml: WriteToml, tmp_path: Path) -> None:
        config = write_toml('[auth]\nconsumers_file = "mine.toml"\n')
        assert run("keys", "new", "a", "--config", config).status == 0
        assert (tmp_path / "mine.toml").exists()
        assert run("keys", "list").status == 2


def test_changes_keep_the_rest_of_the_file(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "consumers.toml"
    file.write_text(f'# ours\n[consumers."dotted.name"]  # a comment\nhash = "{hash_key("x" * 20)}"\n')
    assert run("keys", "new", "b", "--file", str(file), "--expires", "90d").status == 0
    assert run("keys", "revoke", "dotted.name", "--file", str(file)).status == 0
    assert file.read_text().startswith("# ours\n")
    assert "# a comment" in file.read_text()
    consumers = json.loads(run("keys", "list", "--file", str(file), "--json").out)["consumers"]
    assert {consumer["name"]: consumer["state"] for consumer in consumers} == {"dotted.name": "revoked", "b": "valid"}
    assert "already" in run("keys", "revoke", "dotted.name", "--file", str(file)).err
    table = run("keys", "list", "--file", str(file)).out
    assert table.splitlines()[0].split()[:3] == ["NAME", "KEY", "HANDLERS"]


@pytest.mark.parametrize(
    ("words", "status", "word"),
    [
        (("new",), 2, "no consumer is named"),
        (("new", "a b"), 2, "must be"),
        (("new", "a", "--expires", "soon"), 2, "--expires"),
        (("new", "a", "--concurrency", "0"), 2, "--concurrency"),
        (("new", "a", "--handlers", "gpt_a,gpt_ee"), 2, "unknown handler 'gpt_ee'; did you mean 'gpt_e'?"),
        (("revoke", "nobody"), 1, "nobody"),
    ],
)
def test_invalid_arguments_write_nothing(
    run: Run, tmp_path: Path, words: tuple[str, ...], status: int, word: str
) -> None:
    file = tmp_path / "consumers.toml"
    result = run("keys", *words, "--file", str(file))
    assert result.status == status
    assert word in result.err
    assert not file.exists()


@pytest.mark.parametrize(("name", "reason"), [("f" * 300, "File name too long"), ("file/below", "Not a directory")])
def test_a_file_that_cannot_be_read_is_not_an_empty_one(run: Run, tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").touch()
    result = run("keys", "list", "--file", str(tmp_path / name))
    assert result.status == 2
    assert f"{name}: cannot be read: {reason}; give another file with --file" in result.err


class TestRotate:
    def test_both_keys_are_those_of_the_consumer(self, run: Run, tmp_path: Path) -> None:
        file = tmp_path / "consumers.toml"
        first = run("keys", "new", "team-a", "--file", str(file), "--requests-per-minute", "60").out.strip()
        run("keys", "new", "team-b", "--file", str(file))
        second = run("keys", "rotate", "team-a", "--file", str(file), "--overlap", "2d").out.strip()
        third = run("keys", "rotate", "team-a", "--file", str(file)).out.strip()
        entry = tomllib.loads(file.read_text())["consumers"]["team-a"]
        assert (entry["hash"], entry["old_hash"]) == (hash_key(third), hash_key(second))
        assert entry["requests_per_minute"] == 60
        assert len({first, second, third}) == 3
        assert not {first, second, third} & set(file.read_text().split('"'))
        assert [row.split()[0] for row in run("keys", "list", "--file", str(file)).out.splitlines()[1:]] == [
            "team-a",
            "team-b",
        ]

    def test_list_shows_the_old_key_of_a_rotation(self, run: Run, tmp_path: Path) -> None:
        file = tmp_path / "consumers.toml"
        run("keys", "new", "team-a", "--file", str(file))
        run("keys", "new", "team-b", "--file", str(file))
        run("keys", "rotate", "team-a", "--file", str(file), "--overlap", "2d")
        end = tomllib.loads(file.read_text())["consumers"]["team-a"]["old_expires"]
        assert self.old_keys(run, file) == [{"state": "valid", "expires": end.isoformat()}, None]
        table = run("keys", "list", "--file", str(file)).out.splitlines()
        assert table[0].endswith("OLD KEY")
        assert table[1].endswith(f"valid until {end:%Y-%m-%d %H:%M}")
        file.write_text(re.sub("old_expires = .*", "old_expires = 2020-01-01", file.read_text()))
        assert self.old_keys(run, file)[0] == {"state": "expired", "expires": "2020-01-01T00:00:00+00:00"}
        run("keys", "revoke", "team-a", "--file", str(file))
        (old_key, _) = self.old_keys(run, file)
        assert old_key is not None
        assert old_key["state"] == "revoked"

    @staticmethod
    def old_keys(run: Run, file: Path) -> list[dict[str, str] | None]:
        consumers = json.loads(run("keys", "list", "--file", str(file), "--json").out)["consumers"]
        return [consumer["old_key"] for consumer in consumers]

    def test_unknown_and_revoked_consumers_have_no_new_key(self, run: Run, tmp_path: Path) -> None:
        file = tmp_path / "consumers.toml"
        run("keys", "new", "team-a", "--file", str(file))
        text = file.read_text()
        assert "did you mean 'team-a'" in run("keys", "rotate", "team-b", "--file", str(file)).err
        assert "--overlap soon" in run("keys", "rotate", "team-a", "--file", str(file), "--overlap", "soon").err
        assert file.read_text() == text
        run("keys", "revoke", "team-a", "--file", str(file))
        assert "is revoked" in run("keys", "rotate", "team-a", "--file", str(file)).err


class TestUsage:
    def test_shows_tokens_by_consumer_handler_and_model(self, host: str, run: Run) -> None:
        assert run("chat", "parrot", "hello").status == 0
        result = run("keys", "usage")
        assert result.status == 0
        header, *rows = (line.split() for line in result.out.splitlines())
        assert header == ["CONSUMER", "HANDLER", "MODEL", "INPUT", "CACHED", "REASONING", "OUTPUT"]
        row = next(row for row in rows if row[:2] == ["key-1", "parrot"])
        assert (int(row[3]) % 3, int(row[6]) % 2, int(row[3]) > 0) == (0, 0, True)
        assert json.loads(run("keys", "usage", "nobody", "--json").out)["usage"] == []
