"""The parser of ``entry_points.txt``: claims of handlers, and warnings about mistakes."""

from __future__ import annotations

import pytest

from handler_host.catalog.entry_points import Claim, parse


def claims(text: str | bytes) -> list[Claim]:
    return parse(text.encode() if isinstance(text, str) else text).claims


class TestParse:
    def test_reads_only_the_hosts_groups(self) -> None:
        text = "[console_scripts]\nrun = x:main\n\n[handler_host.v1]\ngpt_a = gpt_a:GptA\n[other]\nb = c:d\n"
        assert claims(text) == [Claim("gpt_a", 1, "gpt_a:GptA")]

    @pytest.mark.parametrize(
        "line",
        ["gpt=a.b:C.d", "  gpt  =  a.b : C.d  ", "gpt = a.b:C.d [extra, other]", "gpt = a.b:C.d[extra]"],
    )
    def test_ignores_blanks_and_extras(self, line: str) -> None:
        assert claims(f"; comment\n# comment\n[ handler_host.v1 ]\n\n{line}\n") == [Claim("gpt", 1, "a.b:C.d")]

    @pytest.mark.parametrize("text", ["\ufeff[handler_host.v1]\na = b:C", "[handler_host.v1]\r\na = b:C\r\n"])
    def test_byte_order_mark_and_crlf(self, text: str) -> None:
        assert claims(text) == [Claim("a", 1, "b:C")]

    def test_keeps_the_case_of_values(self) -> None:
        assert claims("[handler_host.v1]\na = Mod:MyGpt.Inner")[0].value == "Mod:MyGpt.Inner"

    def test_api_major_of_the_group(self) -> None:
        assert [claim.major for claim in claims("[handler_host.v1]\na = b:C\n[handler_host.v12]\na = b:C\n")] == [1, 12]

    def test_skips_files_without_the_group(self) -> None:
        assert parse(b"\xff\xfe[[[[ = = \n[handler_host").claims == []


class TestClaims:
    @pytest.mark.parametrize("name", ["gpt_a", "gpt-4.1", "4o", "a" * 64])
    def test_valid_name(self, name: str) -> None:
        assert claims(f"[handler_host.v1]\n{name} = b:C\n")[0].error is None

    @pytest.mark.parametrize("name", ["GPT", "gpt a", "gpt/a", ".gpt", "_gpt", "größe", "a" * 65])
    def test_invalid_name(self, name: str) -> None:
        (claim,) = claims(f"[handler_host.v1]\n{name} = b:C\n")
        assert claim.error is not None
        assert "name" in claim.error

    @pytest.mark.parametrize(
        "value", ["", "b", "b:", ":C", "b.c", "b:C:d", "b-c:D", "class:D", "b..c:D", "1b:C", "b:C junk"]
    )
    def test_invalid_value(self, value: str) -> None:
        (claim,) = claims(f"[handler_host.v1]\ngpt = {value}\n")
        assert claim.error is not None
        assert "module:attribute" in claim.error

    def test_repeated_name(self) -> None:
        (claim,) = claims("[handler_host.v1]\ngpt = a:B\ngpt = c:D\n")
        assert claim.error == "line 3 repeats the name"


class TestWarnings:
    @pytest.mark.parametrize(
        "group", ["handler_host.v", "handler_host.v0", "handler_host.v1beta", "handler_host.v1.chat"]
    )
    def test_invalid_group(self, group: str) -> None:
        entry_points = parse(f"[{group}]\na = b:C\n".encode())
        assert entry_points.claims == []
        assert repr(group) in entry_points.warnings[0]

    def test_invalid_line_spoils_no_other(self) -> None:
        entry_points = parse(b"[handler_host.v1]\nwhat is this\ngpt = a:B\n")
        assert [claim.error for claim in entry_points.claims] == [None]
        assert entry_points.warnings == ["line 2: 'what is this' is not 'name = module:attribute'"]

    def test_invalid_byte_spoils_only_its_line(self) -> None:
        good, bad = claims(b"[handler_host.v1]\nok = a:B\nsp\xff = a:B\n")
        assert good.error is None
        assert bad.error == "its name is not UTF-8"
