"""The context of a handler: its data directory, its callbacks, its secrets."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from handler_host.plugin import ConfigError, Context, Secret


def context(**fields: Any) -> Context:
    return Context("x", 1, {}, {}, logging.getLogger("x"), **fields)


class TestDataDir:
    def test_created_at_first_access(self, tmp_path: Path) -> None:
        path = tmp_path / "data" / "x"
        made = context(_data_dir=path)
        assert not path.exists()
        assert made.data_dir == path
        assert path.is_dir()
        assert path.stat().st_mode & 0o777 == 0o700

    def test_created_again(self, tmp_path: Path) -> None:
        path = tmp_path / "x"
        made = context(_data_dir=path)
        assert made.ensure_data_dir() == path
        path.rmdir()
        assert made.data_dir == path
        assert path.is_dir()

    def test_none_without_a_directory_of_the_host(self) -> None:
        made = context()
        assert made.data_dir is None
        assert made.ensure_data_dir() is None
        made.pending(3)

    def test_error_names_the_path(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ConfigError, match="file/x' cannot be created: Not a directory; choose a directory"):
            _ = context(_data_dir=tmp_path / "file" / "x").data_dir


class TestClose:
    async def test_callbacks_run_in_reverse_order(self, caplog: pytest.LogCaptureFixture) -> None:
        calls: list[str] = []
        made = context()

        async def first() -> None:
            calls.append("first")

        def failing() -> None:
            raise RuntimeError("no")

        made.on_close(first)
        made.on_close(failing)
        made.on_close(lambda: calls.append("last"))
        await made.close()
        await made.close()
        assert calls == ["last", "first"]
        assert "closing failed in" in caplog.text


def test_secret_is_hidden() -> None:
    secret = Secret("value")
    assert secret.reveal() == "value"
    assert "value" not in f"{secret} {secret!r} {[secret]}"
    assert secret
    assert not Secret("")


class TestMissingValues:
    def test_missing_value_names_the_declaration_to_add(self) -> None:
        made = Context("x", 1, {"a": 1}, {"KEY": Secret("value")}, logging.getLogger("x"))
        assert (made.config["a"], made.secrets["KEY"].reveal()) == (1, "value")
        assert made.config.get("b") is None
        assert "OTHER" not in made.secrets
        declaration = r"secret 'OTHER' has no value; declare \[secrets.OTHER\] in handler.toml, and set the environment"
        with pytest.raises(ConfigError, match=declaration):
            _ = made.secrets["OTHER"]
        with pytest.raises(KeyError, match=r"setting 'b' has no value; declare \[config.b\] in handler.toml"):
            _ = made.config["b"]
