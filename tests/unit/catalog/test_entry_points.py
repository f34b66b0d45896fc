"""What is read of an ``entry_points.txt``, and what is said of one that is wrong."""

from __future__ import annotations

import pytest

from handler_host.catalog.entry_points import Claim, parse


def claims(text: str | bytes) -> list[Claim]:
    return parse(text.encode() if isinstance(text, str) else text).claims


def test_a_handler_is_read_among_groups_of_others() -> None:
    text = "[console_scripts]\nrun = x:main\n\n[handler_host.v1]\ngpt_a = gpt_a:GptA\n[other]\nb = c:d\n"
    assert claims(text) == [Claim("gpt_a", 1, "gpt_a:GptA")]


@pytest.mark.parametrize(
    "line",
    ["gpt=a.b:C.d", "  gpt  =  a.b : C.d  ", "gpt = a.b:C.d [extra, other]", "gpt = a.b:C.d[extra]"],
)
def test_blanks_and_extras_do_not_count(line: str) -> None:
    assert claims(f"; comment\n# comment\n[ handler_host.v1 ]\n\n{line}\n") == [Claim("gpt", 1, "a.b:C.d")]


@pytest.mark.parametrize("text", ["\ufeff[handler_host.v1]\na = b:C", "[handler_host.v1]\r\na = b:C\r\n"])
def test_files_of_other_systems_are_read(text: str) -> None:
    assert claims(text) == [Claim("a", 1, "b:C")]


def test_case_is_preserved_in_values() -> None:
    assert claims("[handler_host.v1]\na = Mod:MyGpt.Inner")[0].value == "Mod:MyGpt.Inner"


def test_the_group_carries_the_api_major() -> None:
    assert [claim.major for claim in claims("[handler_host.v1]\na = b:C\n[handler_host.v12]\na = b:C\n")] == [1, 12]


@pytest.mark.parametrize("group", ["handler_host.v", "handler_host.v0", "handler_host.v1beta", "handler_host.v1.chat"])
def test_a_group_that_is_none_is_complained_about(group: str) -> None:
    found = parse(f"[{group}]\na = b:C\n".encode())
    assert found.claims == []
    assert repr(group) in found.complaints[0]


@pytest.mark.parametrize("name", ["GPT", "gpt a", "gpt/a", ".gpt", "_gpt", "größe", "a" * 65])
def test_a_name_that_is_none_is_a_flaw(name: str) -> None:
    (claim,) = claims(f"[handler_host.v1]\n{name} = b:C\n")
    assert claim.flaw is not None
    assert "name" in claim.flaw


@pytest.mark.parametrize("name", ["gpt_a", "gpt-4.1", "4o", "a" * 64])
def test_a_name_of_lowercase_letters_digits_and_marks_is_right(name: str) -> None:
    assert claims(f"[handler_host.v1]\n{name} = b:C\n")[0].flaw is None


@pytest.mark.parametrize(
    "value", ["", "b", "b:", ":C", "b.c", "b:C:d", "b-c:D", "class:D", "b..c:D", "1b:C", "b:C junk"]
)
def test_a_value_that_names_no_attribute_of_a_module_is_a_flaw(value: str) -> None:
    (claim,) = claims(f"[handler_host.v1]\ngpt = {value}\n")
    assert claim.flaw is not None
    assert "module:attribute" in claim.flaw


def test_a_name_given_twice_is_a_flaw_that_names_the_line() -> None:
    (claim,) = claims("[handler_host.v1]\ngpt = a:B\ngpt = c:D\n")
    assert claim.flaw == "line 3 gives it again"


def test_a_line_that_is_no_entry_is_complained_about_and_harms_no_other() -> None:
    found = parse(b"[handler_host.v1]\nwhat is this\ngpt = a:B\n")
    assert [claim.flaw for claim in found.claims] == [None]
    assert found.complaints == ["line 2: 'what is this' is not 'name = module:attribute'"]


def test_a_byte_that_is_no_utf8_harms_its_own_line_only() -> None:
    good, bad = claims(b"[handler_host.v1]\nok = a:B\nsp\xff = a:B\n")
    assert good.flaw is None
    assert bad.flaw == "its name is not UTF-8"


def test_what_does_not_mention_the_group_is_not_parsed() -> None:
    assert parse(b"\xff\xfe[[[[ = = \n[handler_host").claims == []
