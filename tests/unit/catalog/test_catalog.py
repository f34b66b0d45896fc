"""Scans of installed handlers, whatever else is installed: cases 40, 41, 42, 44 and 45."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from handler_host._internal.versions import __version__
from handler_host.catalog.catalog import Catalog, diff, scan
from handler_host.catalog.catalog_entry import CatalogEntry, Problem
from handler_host.catalog.secrets import find_lacking_secret, read_secrets
from handler_host.config import CatalogConfig

from .conftest import Look, Site


def problem(entry: CatalogEntry) -> Problem:
    assert entry.problem is not None
    return entry.problem


SECRETS = "[secrets.API_KEY]\n[secrets.OTHER]\n[secrets.OPTIONAL]\nrequired = false\n"


class TestScan:
    def test_finds_a_plugin_without_importing_it(self, site: Site, look: Look) -> None:
        site.plugin("some-plugin", "gpt", version="2.1", manifest="title = 'Some'\n[secrets.KEY]\nrequired = false")
        site.install("unrelated", "[console_scripts]\nx = y:z\n")

        catalog = look(site)

        (entry,) = catalog.entries.values()
        assert (entry.name, entry.distribution, entry.version) == ("gpt", "some-plugin", "2.1")
        assert (entry.entry_point, entry.root) == ("some_plugin:Plugin", str(site.path))
        assert entry.manifest is not None
        assert entry.manifest.title == "Some"
        assert entry.manifest_path == str(site.path / "some_plugin" / "handler.toml")
        assert (entry.problem, entry.secrets) == (None, ("KEY",))
        assert (catalog.warnings, catalog.distributions) == ((), 2)
        assert "some_plugin" not in sys.modules

    def test_plugin_without_a_manifest(self, site: Site, look: Look) -> None:
        site.plugin("plain", "plain")
        entry = look(site).entries["plain"]
        assert (entry.manifest, entry.manifest_path, entry.problem) == (None, None, None)

    @pytest.mark.parametrize(
        ("line", "name", "words"),
        [
            ("gpt = not an entry", "gpt", "module:attribute"),
            ("GPT = broken:Plugin", "GPT", "lowercase"),
            ("gpt = absent:Plugin", "gpt", "module 'absent' of entry point 'absent:Plugin' is not installed"),
            ("gpt = absent.sub:Plugin", "gpt", "module 'absent.sub'"),
        ],
    )
    def test_invalid_entry_point(self, site: Site, look: Look, line: str, name: str, words: str) -> None:
        info = site.install("broken", f"[handler_host.v1]\n{line}\n", package="broken")
        rejection = problem(look(site).entries[name])
        assert rejection.state == "invalid"
        assert words in rejection.reason
        assert f"{info}/entry_points.txt" in rejection.reason

    def test_invalid_manifest_is_the_problem_of_its_handler(self, site: Site, look: Look) -> None:
        site.plugin("wrong", "wrong", manifest="titel = 'x'")
        site.plugin("right", "right", manifest="title = 'x'")
        catalog = look(site).entries
        assert catalog["right"].problem is None
        assert problem(catalog["wrong"]).state == "invalid"
        assert "handler.toml:1: unknown key 'titel'; did you mean 'title'?" in problem(catalog["wrong"]).reason

    def test_setting_with_the_name_of_a_policy_key(self, site: Site, look: Look) -> None:
        site.plugin("wrong", "wrong", manifest="[config.pin]\ntype = 'boolean'")
        assert problem(look(site).entries["wrong"]).state == "invalid"

    @pytest.mark.parametrize("claims", [1, 2])
    def test_disabled_handler_is_blocked(self, site: Site, look: Look, claims: int) -> None:
        for number in range(claims):
            site.plugin(f"plugin{number}", "gpt", manifest="titel = 1")
        rejection = problem(look(site, blocked=["gpt"]).entries["gpt"])
        assert rejection.state == "blocked"
        assert "[handlers.gpt] enabled = false" in rejection.reason


class TestBrokenMetadata:
    """Case 40: broken metadata of an unrelated distribution."""

    @pytest.mark.parametrize(
        "broken",
        [b"\xff\xfe\x00[[[", b"[console_scripts\nx = = y\n", b"no section = x:y\n", b"[a]\n[a]\nx\n", b"\0" * 100],
    )
    def test_case_40_in_another_distribution(self, site: Site, look: Look, broken: bytes) -> None:
        site.install("broken", broken)
        site.plugin("good", "good")
        catalog = look(site)
        assert list(catalog.entries) == ["good"]
        assert catalog.entries["good"].problem is None

    def test_invalid_line_is_a_warning(self, site: Site, look: Look) -> None:
        info = site.install("broken", b"[handler_host.v1]\nwhat\nok = broken:Plugin\n", package="broken")
        catalog = look(site)
        assert catalog.entries["ok"].problem is None
        (warning,) = catalog.warnings
        assert warning.startswith(f"{info}/entry_points.txt: line 2:")

    def test_directory_pipe_or_dangling_link(self, site: Site, look: Look) -> None:
        (site.path / "a-1.0.dist-info" / "entry_points.txt").mkdir(parents=True)
        (site.path / "b-1.0.dist-info").write_text("a file")
        (site.path / "c-1.0.dist-info").mkdir()
        os.mkfifo(site.path / "c-1.0.dist-info" / "entry_points.txt")
        (site.path / "d-1.0.dist-info").symlink_to(site.path / "nowhere")
        site.plugin("good", "good")
        catalog = look(site)
        assert list(catalog.entries) == ["good"]
        assert len(catalog.warnings) == 1
        assert "a-1.0.dist-info/entry_points.txt" in catalog.warnings[0]


class TestConflicts:
    """Case 41: two distributions with one handler name."""

    @pytest.mark.parametrize("names", [("one", "other"), ("other", "one")])
    def test_case_41_names_both_distributions(
        self, site: Site, another_site: Site, look: Look, names: tuple[str, str]
    ) -> None:
        for place, name in zip((site, another_site), names, strict=True):
            place.plugin(name, "gpt_a")
        catalog = look(site, another_site)
        entry = catalog.entries["gpt_a"]
        assert problem(entry).state == "conflict"
        assert entry.distribution == "one, other"
        assert "one and other" in problem(entry).reason
        assert '[catalog.pins] gpt_a = "one"' in problem(entry).reason
        assert "one" not in sys.modules

    @pytest.mark.parametrize("pin", ["other", "Other"])
    def test_case_41_pin_decides(self, site: Site, look: Look, pin: str) -> None:
        site.plugin("one", "gpt_a")
        site.plugin("other", "gpt_a")
        entry = look(site, pins={"gpt_a": pin}).entries["gpt_a"]
        assert (entry.distribution, entry.problem) == ("other", None)

    def test_pin_to_another_distribution(self, site: Site, look: Look) -> None:
        site.plugin("one", "gpt_a")
        rejection = problem(look(site, pins={"gpt_a": "oen"}).entries["gpt_a"])
        assert rejection.state == "conflict"
        assert "catalog.pins.gpt_a = 'oen'" in rejection.reason
        assert "pin it to one, or remove the pin" in rejection.reason

    def test_pin_of_an_unknown_handler_is_a_warning(self, site: Site, look: Look) -> None:
        site.plugin("one", "gpt_a")
        (warning,) = look(site, pins={"gpt_aa": "one"}).warnings
        assert "catalog.pins.gpt_aa" in warning
        assert "did you mean 'gpt_a'?" in warning

    def test_claim_for_another_api_does_not_compete(self, site: Site, look: Look) -> None:
        site.plugin("now", "gpt")
        info = site.install("later", "[handler_host.v2]\ngpt = later:Plugin\n", package="later")
        catalog = look(site)
        assert (catalog.entries["gpt"].distribution, catalog.entries["gpt"].problem) == ("now", None)
        assert catalog.warnings == (f"{info}/entry_points.txt: 'gpt' is for API v2, ignored",)


class TestDuplicates:
    """Case 42: one distribution found twice."""

    def test_case_42_root_listed_twice_or_by_a_link(self, tmp_path: Path, site: Site, look: Look) -> None:
        site.plugin("one", "gpt_a")
        (tmp_path / "lib64").symlink_to(site.path)
        catalog = look(site, site, tmp_path / "lib64", search_path=[str(site.path), str(tmp_path / "lib64")])
        assert catalog.entries["gpt_a"].problem is None
        assert (catalog.distributions, catalog.warnings) == (1, ())

    @pytest.mark.parametrize("spelling", ["my_plugin", "My.Plugin", "my__plugin"])
    def test_case_42_first_root_wins(self, site: Site, another_site: Site, look: Look, spelling: str) -> None:
        site.install("my_plugin", "[handler_host.v1]\ngpt = my_plugin:New\n", version="2.0", package="my_plugin")
        another_site.install(
            spelling, "[handler_host.v1]\ngpt = my_plugin:Old\nold = my_plugin:Old\n", package="my_plugin"
        )
        catalog = look(site, another_site)
        assert {entry.entry_point for entry in catalog.entries.values()} == {"my_plugin:New"}
        assert catalog.entries["gpt"].problem is None
        assert list(look(another_site, site).entries) == ["gpt", "old"]

    def test_search_path_wins_over_configured_roots(self, site: Site, another_site: Site, look: Look) -> None:
        site.plugin("plugin", "gpt", version="1.0")
        another_site.plugin("plugin", "gpt", version="2.0")
        assert look(another_site, search_path=[str(site.path)]).entries["gpt"].version == "1.0"

    def test_case_42_installation_beside_its_build_directory(self, site: Site, look: Look) -> None:
        site.install("plugin", "[handler_host.v1]\nold = plugin:Plugin\n", kind="egg-info", version="9.0")
        site.plugin("plugin", "gpt")
        catalog = look(site)
        assert list(catalog.entries) == ["gpt"]
        assert "plugin-9.0.egg-info" in catalog.warnings[0]

    def test_newest_version_after_an_interrupted_upgrade(self, site: Site, look: Look) -> None:
        site.plugin("plugin", "gpt", version="1.9")
        site.plugin("plugin", "gpt", version="1.10")
        (site.path / "plugin-1.9.dist-info").rename(site.path / "~lugin-1.9.dist-info")
        site.plugin("plugin", "gpt", version="1.2")
        catalog = look(site)
        assert catalog.entries["gpt"].version == "1.10"
        assert "plugin-1.2.dist-info" in catalog.warnings[0]


class TestCompatibility:
    """Case 44: what is known before any process starts."""

    def test_plugin_of_another_api(self, site: Site, look: Look) -> None:
        site.install("later", "[handler_host.v2]\ngpt = later:Plugin\n", package="later")
        rejection = problem(look(site).entries["gpt"])
        assert rejection.state == "incompatible"
        assert "API v2" in rejection.reason
        assert "handler_host.v1" in rejection.reason
        assert "later" not in sys.modules

    def test_plugin_for_both_apis(self, site: Site, look: Look) -> None:
        site.install("both", "[handler_host.v2]\ngpt = both.v2:P\n[handler_host.v1]\ngpt = both:P\n", package="both")
        catalog = look(site)
        assert (catalog.entries["gpt"].entry_point, catalog.entries["gpt"].problem) == ("both:P", None)
        assert catalog.warnings == ()

    def test_plugin_for_another_host_version(self, site: Site, look: Look) -> None:
        site.plugin("newer", "gpt", manifest="requires_host = '>=99'")
        rejection = problem(look(site).entries["gpt"])
        assert rejection.state == "incompatible"
        assert f"requires handler-host >=99, this is {__version__}" in rejection.reason


class TestSecrets:
    @pytest.mark.parametrize("environ", [{}, {"API_KEY": "", "OTHER": ""}])
    def test_missing_ones_are_named_with_both_variables(self, site: Site, look: Look, environ: dict[str, str]) -> None:
        site.plugin("plugin", "gpt-a", manifest=SECRETS)
        entry = look(site, environ=environ).entries["gpt-a"]
        assert problem(entry).state == "missing-secret"
        assert "API_KEY (or, for this handler only, HANDLER_HOST_SECRET_GPT_A_API_KEY)" in problem(entry).reason
        assert "OTHER (or, for this handler only, HANDLER_HOST_SECRET_GPT_A_OTHER)" in problem(entry).reason
        assert "OPTIONAL" not in problem(entry).reason

    def test_alternatives_are_named_with_their_places(self, site: Site, look: Look) -> None:
        manifest = (
            "[secrets.A_KEY]\nrequired_unless = ['base_url', 'B_KEY']\n[secrets.B_KEY]\nrequired = false\n"
            "[config.base_url]\ntype = 'string'\n"
        )
        site.plugin("plugin", "gpt", manifest=manifest)
        assert find_lacking_secret(look(site).entries["gpt"], {}, ()) == (
            "needs A_KEY, B_KEY or base_url; set A_KEY in the host's environment (or, for this handler only, "
            "HANDLER_HOST_SECRET_GPT_A_KEY), or B_KEY there, or base_url in [handlers.gpt]"
        )

    def test_for_one_handler_and_not_kept(self, site: Site, look: Look) -> None:
        site.plugin("plugin", "gpt-a", manifest=SECRETS)
        environ = {
            "API_KEY": "common-value",
            "HANDLER_HOST_SECRET_GPT_A_API_KEY": "own-value",
            "HANDLER_HOST_SECRET_GPT_A_OTHER": "other-value",
            "UNRELATED": "x",
        }
        catalog = look(site, environ=environ)
        entry = catalog.entries["gpt-a"]
        assert entry.problem is None
        assert read_secrets(entry, environ) == {"API_KEY": "own-value", "OTHER": "other-value"}
        assert "value" not in repr(catalog)

    def test_variable_of_two_handlers_is_a_warning(self, site: Site, look: Look) -> None:
        site.plugin("one", "gpt", manifest="[secrets.A_KEY]\nrequired = false")
        site.plugin("two", "gpt-a", manifest="[secrets.KEY]\nrequired = false")
        assert look(site).warnings == ()
        (warning,) = look(site, environ={"HANDLER_HOST_SECRET_GPT_A_KEY": "value"}).warnings
        assert "HANDLER_HOST_SECRET_GPT_A_KEY sets A_KEY of gpt and KEY of gpt-a" in warning


class TestDiff:
    """Case 45: the installation changes while the host runs."""

    def test_added_removed_and_upgraded(self, site: Site, look: Look) -> None:
        site.plugin("stays", "stays")
        site.plugin("goes", "goes")
        site.plugin("grows", "grows", version="1.0")
        before = look(site)

        for path in (site.path / "goes-1.0.dist-info").iterdir():
            path.unlink()
        (site.path / "goes-1.0.dist-info").rmdir()
        (site.path / "grows-1.0.dist-info").rename(site.path / "grows-2.0.dist-info")
        site.plugin("comes", "comes")
        after = look(site)

        assert diff(before, after).added == ("comes",)
        assert diff(before, after).removed == ("goes",)
        assert diff(before, after).changed == ("grows",)
        assert diff(Catalog.empty(), before).added == ("goes", "grows", "stays")

    def test_no_change(self, site: Site, look: Look) -> None:
        site.plugin("plugin", "gpt", manifest=SECRETS)
        changes = diff(look(site), look(site))
        assert (changes.added, changes.removed, changes.changed) == ((), (), ())

    def test_reinstalled_version(self, site: Site, look: Look) -> None:
        info = site.plugin("plugin", "gpt")
        before = look(site)
        os.utime(info / "entry_points.txt", ns=(1, 1))
        assert diff(before, look(site)).changed == ("gpt",)

    def test_edited_manifest(self, site: Site, look: Look) -> None:
        site.plugin("plugin", "gpt", manifest="title = 'a'")
        before = look(site)
        (site.path / "plugin" / "handler.toml").write_text("title = 'b'")
        assert diff(before, look(site)).changed == ("gpt",)


class TestRoots:
    def test_paths_of_configured_roots(self, site: Site, another_site: Site, look: Look) -> None:
        site.plugin("inside", "inside")
        another_site.plugin("outside", "outside")
        catalog = look(another_site, search_path=[str(site.path)]).entries
        assert catalog["inside"].paths == ()
        assert catalog["outside"].paths == (str(another_site.path),)

    @pytest.mark.parametrize("named", [False, True])
    def test_paths_of_the_host_process_alone(self, site: Site, monkeypatch: pytest.MonkeyPatch, named: bool) -> None:
        """``python -m handler_host`` adds its own directory; workers get the paths of ``PYTHONPATH`` from it."""
        site.plugin("plugin", "gpt")
        monkeypatch.syspath_prepend(site.path)
        catalog = scan(CatalogConfig(), {"PYTHONPATH": str(site.path)} if named else {}).entries["gpt"]
        assert catalog.paths == (() if named else (str(site.path),))

    def test_configured_roots_win_over_the_host_process(
        self, site: Site, another_site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site.plugin("plugin", "gpt", version="1.0")
        another_site.plugin("plugin", "gpt", version="2.0")
        monkeypatch.syspath_prepend(site.path)
        assert scan(CatalogConfig(roots=(another_site.path,)), {}).entries["gpt"].version == "2.0"

    def test_shared_paths_are_not_added(self, monkeypatch: pytest.MonkeyPatch) -> None:
        catalog = scan(CatalogConfig(), {}).entries
        assert catalog["gpt_a"].paths == ()

    def test_missing_root_is_a_warning(self, tmp_path: Path, site: Site, look: Look) -> None:
        site.plugin("plugin", "gpt")
        catalog = look(site, tmp_path / "nowhere")
        assert list(catalog.entries) == ["gpt"]
        (warning,) = catalog.warnings
        assert (
            warning == f"catalog.roots: {tmp_path}/nowhere is not a directory; create it, or remove it from the roots"
        )

    def test_sources_after_an_uninstall_do_not_count(self, site: Site, look: Look) -> None:
        site.install("plugin", "[handler_host.v1]\ngpt = plugin:Plugin\n", package="plugin", kind="egg-info")
        assert list(look(search_path=[str(site.path)]).entries) == []
        assert list(look(search_path=[str(site.path)], environ={"PYTHONPATH": str(site.path)}).entries) == ["gpt"]
        assert list(look(site).entries) == ["gpt"]
