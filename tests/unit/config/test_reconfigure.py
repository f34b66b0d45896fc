"""A running host applies some changes of its configuration and names those that need a restart."""

from __future__ import annotations

import msgspec
import pytest

from handler_host.config import Config, HandlerPolicy, LogConfig, MemoryConfig, ServerConfig
from handler_host.config.reconfigure import compare, merge
from handler_host.config.values import SECTIONS


class TestCompare:
    def test_names_keys_without_values(self) -> None:
        old = Config(handlers={"a": {"model": "x"}})
        new = Config(
            server=ServerConfig(port=1, drain_timeout=3),
            memory=MemoryConfig(limit=2**30),
            log=LogConfig(levels={"a": "debug"}),
            handlers={"a": {"model": "y"}, "b": {}},
        )
        assert compare(old, new) == (
            ["handlers.a.model", "handlers.b", "log.levels", "memory.limit", "server.drain_timeout"],
            ["server.port"],
        )
        assert compare(old, old) == ([], [])

    @pytest.mark.parametrize("section", SECTIONS)
    def test_every_section_is_applied_or_named(self, section: str) -> None:
        """A new section needs a restart until ``reconfigure`` lists it."""
        key = SECTIONS[section].__struct_fields__[0]
        changed = msgspec.structs.replace(getattr(Config(), section), **{key: object()})
        new = msgspec.structs.replace(Config(), **{section: changed})
        changes = compare(Config(), new)
        assert [*changes.applied, *changes.restart] == [f"{section}.{key}"]


class TestMerge:
    def test_keeps_keys_that_need_a_restart(self) -> None:
        """So that the next reload names them again."""
        old = Config()
        new = Config(server=ServerConfig(port=1, drain_timeout=3), defaults=HandlerPolicy(pin=True))
        merged = merge(old, new)
        assert (merged.server.port, merged.server.drain_timeout, merged.defaults.pin) == (8080, 3, True)
        assert compare(merged, new) == ([], ["server.port"])
