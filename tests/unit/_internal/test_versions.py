"""Version ranges and the order of versions, compared with those of packaging."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from handler_host._internal.versions import __version__, parse_range, satisfies, version_key

releases = st.lists(st.integers(0, 12), min_size=1, max_size=4).map(lambda numbers: ".".join(map(str, numbers)))
clauses = st.tuples(st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), releases).map("".join)
numbers = st.integers(0, 11).map(str) | st.just("")
versions = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["", "", "1!", "v"]),
        releases,
        st.just("")
        | st.builds(str.__add__, st.sampled_from(["a", "b", "rc", ".alpha", "-beta", "_c", "pre"]), numbers),
        st.just("") | st.builds(str.__add__, st.sampled_from([".post", "-r", "rev"]), numbers) | st.just("-3"),
        st.just("") | st.builds(str.__add__, st.sampled_from([".dev", "_dev", "DEV"]), numbers),
        st.sampled_from(["", "", "+local", "+local.2", "+local.10", "+7", "+Ubuntu-1"]),
    ),
)


class TestOrder:
    @given(versions, versions)
    def test_as_packaging(self, left: str, right: str) -> None:
        assert (version_key(left) < version_key(right)) == (Version(left) < Version(right))
        assert (version_key(left) == version_key(right)) == (Version(left) == Version(right))

    @pytest.mark.parametrize("text", ["", "x", "1.x", "1..2", "1.0+", "\u0661", "9" * 5000])
    def test_invalid_version_sorts_first(self, text: str) -> None:
        assert version_key(text) < version_key("0.dev0")


class TestRange:
    @pytest.mark.parametrize("symbol", ["==", "!=", "<", "<=", ">", ">=", "~="])
    def test_operator(self, symbol: str) -> None:
        numbers = ["0.1", "0.1.0", "0.1.5", "1.0", "1.0.0", "1.2", "1.10", "2.0"]
        for version, bound in itertools.product(numbers, numbers):
            text = f"{symbol}{bound}"
            assert satisfies(version, parse_range(text)) == (version in SpecifierSet(text)), (version, text)

    @pytest.mark.parametrize("symbol", ["==", "!="])
    def test_wildcard(self, symbol: str) -> None:
        for version, bound in itertools.product(["1", "1.0", "1.0.3", "1.1", "2"], ["1", "1.0", "1.1", "1.0.0"]):
            text = f"{symbol}{bound}.*"
            assert satisfies(version, parse_range(text)) == (version in SpecifierSet(text)), (version, text)

    @given(releases, st.lists(clauses, min_size=1, max_size=3))
    def test_several_clauses(self, version: str, parts: list[str]) -> None:
        text = ", ".join(parts)
        assert satisfies(version, parse_range(text)) == (version in SpecifierSet(text))

    @pytest.mark.parametrize("text", ["", "1.0", ">=", ">=x", ">=1,", "=>1", "~=1", ">=1.*", "^1.0", ">=1.0rc1"])
    def test_invalid(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"version range|valid only after|needs at least two"):
            parse_range(text)

    def test_pre_release_counts_by_its_numbers(self) -> None:
        assert satisfies("1.2.0.dev3+local", parse_range(">=1.2,<1.3"))

    def test_version_of_the_host(self) -> None:
        assert satisfies(__version__, parse_range(f"=={__version__}"))
