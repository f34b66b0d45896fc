"""What a scan finds, whatever else is installed: cases 40, 41, 42, 44 and 45."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from handler_host._internal.versions import __version__
from handler_host.catalog.catalog import Catalog, CatalogEntry, Problem, diff, scan, secret_values
from handler_host.config import CatalogConfig

from .conftest import Look, Site


def problem(entry: CatalogEntry) -> Problem:
    assert entry.problem is not None
    return entry.problem


def test_a_plugin_is_found_with_its_manifest_and_nothing_of_it_is_imported(site: Site, look: Look) -> None:
    site.plugin("some-plugin", "gpt", version="2.1", manifest="title = 'Some'\n[secrets.KEY]\nrequired = false")
    site.install("unrelated", "[console_scripts]\nx = y:z\n")

    found = look(site)

    (entry,) = found.entries.values()
    assert (entry.name, entry.distribution, entry.version) == ("gpt", "some-plugin", "2.1")
    assert (entry.entry_point, entry.root) == ("some_plugin:Plugin", str(site.path))
    assert entry.manifest is not None
    assert entry.manifest.title == "Some"
    assert entry.manifest_path == str(site.path / "some_plugin" / "handler.toml")
    assert (entry.problem, entry.secrets) == (None, ("KEY",))
    assert (found.warnings, found.distributions) == ((), 2)
    assert "some_plugin" not in sys.modules


def test_a_plugin_without_a_manifest_can_run(site: Site, look: Look) -> None:
    site.plugin("plain", "plain")
    entry = look(site).entries["plain"]
    assert (entry.manifest, entry.manifest_path, entry.problem) == (None, None, None)


# Case 40: an unrelated distribution with broken metadata.


@pytest.mark.parametrize(
    "broken",
    [b"\xff\xfe\x00[[[", b"[console_scripts\nx = = y\n", b"no section = x:y\n", b"[a]\n[a]\nx\n", b"\0" * 100],
)
def test_case_40_broken_metadata_of_others_harms_nobody(site: Site, look: Look, broken: bytes) -> None:
    site.install("broken", broken)
    site.plugin("good", "good")
    found = look(site)
    assert list(found.entries) == ["good"]
    assert found.entries["good"].problem is None


def test_broken_lines_in_our_group_are_warnings_that_name_the_file(site: Site, look: Look) -> None:
    info = site.install("broken", b"[handler_host.v1]\nwhat\nok = broken:Plugin\n", package="broken")
    found = look(site)
    assert found.entries["ok"].problem is None
    (warning,) = found.warnings
    assert warning.startswith(f"{info}/entry_points.txt: line 2:")


def test_metadata_that_is_a_directory_a_pipe_or_nothing_harms_nobody(site: Site, look: Look) -> None:
    (site.path / "a-1.0.dist-info" / "entry_points.txt").mkdir(parents=True)
    (site.path / "b-1.0.dist-info").write_text("a file")
    (site.path / "c-1.0.dist-info").mkdir()
    os.mkfifo(site.path / "c-1.0.dist-info" / "entry_points.txt")
    (site.path / "d-1.0.dist-info").symlink_to(site.path / "nowhere")
    site.plugin("good", "good")
    found = look(site)
    assert list(found.entries) == ["good"]
    assert len(found.warnings) == 1
    assert "a-1.0.dist-info/entry_points.txt" in found.warnings[0]


@pytest.mark.parametrize(
    ("line", "name", "words"),
    [
        ("gpt = not an entry", "gpt", "module:attribute"),
        ("GPT = broken:Plugin", "GPT", "lowercase"),
        ("gpt = absent:Plugin", "gpt", "module 'absent' of entry point 'absent:Plugin' is not installed"),
        ("gpt = absent.sub:Plugin", "gpt", "module 'absent.sub'"),
    ],
)
def test_an_entry_point_that_cannot_work_is_invalid_with_the_reason(
    site: Site, look: Look, line: str, name: str, words: str
) -> None:
    info = site.install("broken", f"[handler_host.v1]\n{line}\n", package="broken")
    found = problem(look(site).entries[name])
    assert found.state == "invalid"
    assert words in found.reason
    assert f"{info}/entry_points.txt" in found.reason


def test_a_wrong_manifest_makes_its_own_handler_invalid_and_no_other(site: Site, look: Look) -> None:
    site.plugin("wrong", "wrong", manifest="titel = 'x'")
    site.plugin("right", "right", manifest="title = 'x'")
    found = look(site).entries
    assert found["right"].problem is None
    assert problem(found["wrong"]).state == "invalid"
    assert "handler.toml:1: unknown key 'titel'; did you mean 'title'?" in problem(found["wrong"]).reason


def test_a_setting_that_the_host_keeps_for_itself_is_invalid(site: Site, look: Look) -> None:
    site.plugin("wrong", "wrong", manifest="[config.pin]\ntype = 'boolean'")
    assert problem(look(site).entries["wrong"]).state == "invalid"


# Case 41: two distributions, one name.


@pytest.mark.parametrize("names", [("one", "other"), ("other", "one")])
def test_case_41_two_distributions_of_one_name_are_a_conflict_that_names_both(
    site: Site, another_site: Site, look: Look, names: tuple[str, str]
) -> None:
    for place, name in zip((site, another_site), names, strict=True):
        place.plugin(name, "gpt_a")
    found = look(site, another_site)
    entry = found.entries["gpt_a"]
    assert problem(entry).state == "conflict"
    assert entry.distribution == "one, other"
    assert "one and other" in problem(entry).reason
    assert '[catalog.pins] gpt_a = "one"' in problem(entry).reason
    assert "one" not in sys.modules


@pytest.mark.parametrize("pin", ["other", "Other"])
def test_case_41_a_pin_decides(site: Site, look: Look, pin: str) -> None:
    site.plugin("one", "gpt_a")
    site.plugin("other", "gpt_a")
    entry = look(site, pins={"gpt_a": pin}).entries["gpt_a"]
    assert (entry.distribution, entry.problem) == ("other", None)


def test_a_pin_to_somebody_else_lets_nobody_run(site: Site, look: Look) -> None:
    site.plugin("one", "gpt_a")
    found = problem(look(site, pins={"gpt_a": "oen"}).entries["gpt_a"])
    assert found.state == "conflict"
    assert "catalog.pins.gpt_a = 'oen'" in found.reason
    assert "offered by one" in found.reason


def test_a_pin_of_an_unknown_handler_is_a_warning_with_the_nearest(site: Site, look: Look) -> None:
    site.plugin("one", "gpt_a")
    (warning,) = look(site, pins={"gpt_aa": "one"}).warnings
    assert "catalog.pins.gpt_aa" in warning
    assert "did you mean 'gpt_a'?" in warning


def test_a_handler_for_another_api_is_no_rival(site: Site, look: Look) -> None:
    site.plugin("now", "gpt")
    info = site.install("later", "[handler_host.v2]\ngpt = later:Plugin\n", package="later")
    found = look(site)
    assert (found.entries["gpt"].distribution, found.entries["gpt"].problem) == ("now", None)
    assert found.warnings == (f"{info}/entry_points.txt: 'gpt' is for API v2, and left aside",)


# Case 42: the same distribution twice.


def test_case_42_a_root_listed_twice_or_by_a_link_has_its_handlers_once(tmp_path: Path, site: Site, look: Look) -> None:
    site.plugin("one", "gpt_a")
    (tmp_path / "lib64").symlink_to(site.path)
    found = look(site, site, tmp_path / "lib64", search_path=[str(site.path), str(tmp_path / "lib64")])
    assert found.entries["gpt_a"].problem is None
    assert (found.distributions, found.warnings) == (1, ())


@pytest.mark.parametrize("spelling", ["my_plugin", "My.Plugin", "my__plugin"])
def test_case_42_a_distribution_in_two_roots_counts_once_and_the_first_wins(
    site: Site, another_site: Site, look: Look, spelling: str
) -> None:
    site.install("my_plugin", "[handler_host.v1]\ngpt = my_plugin:New\n", version="2.0", package="my_plugin")
    another_site.install(spelling, "[handler_host.v1]\ngpt = my_plugin:Old\nold = my_plugin:Old\n", package="my_plugin")
    found = look(site, another_site)
    assert {entry.entry_point for entry in found.entries.values()} == {"my_plugin:New"}
    assert found.entries["gpt"].problem is None
    assert list(look(another_site, site).entries) == ["gpt", "old"]


def test_what_the_host_imports_from_wins_over_configured_roots(site: Site, another_site: Site, look: Look) -> None:
    site.plugin("plugin", "gpt", version="1.0")
    another_site.plugin("plugin", "gpt", version="2.0")
    assert look(another_site, search_path=[str(site.path)]).entries["gpt"].version == "1.0"


def test_case_42_an_installation_and_the_build_directory_beside_it_count_once(site: Site, look: Look) -> None:
    site.install("plugin", "[handler_host.v1]\nold = plugin:Plugin\n", kind="egg-info", version="9.0")
    site.plugin("plugin", "gpt")
    found = look(site)
    assert list(found.entries) == ["gpt"]
    assert "plugin-9.0.egg-info" in found.warnings[0]


def test_of_what_an_interrupted_upgrade_left_the_newest_counts(site: Site, look: Look) -> None:
    site.plugin("plugin", "gpt", version="1.9")
    site.plugin("plugin", "gpt", version="1.10")
    (site.path / "plugin-1.9.dist-info").rename(site.path / "~lugin-1.9.dist-info")
    site.plugin("plugin", "gpt", version="1.2")
    found = look(site)
    assert found.entries["gpt"].version == "1.10"
    assert "plugin-1.2.dist-info" in found.warnings[0]


# Case 44: what can be known before any process is started.


def test_a_plugin_of_another_api_is_incompatible(site: Site, look: Look) -> None:
    site.install("later", "[handler_host.v2]\ngpt = later:Plugin\n", package="later")
    found = problem(look(site).entries["gpt"])
    assert found.state == "incompatible"
    assert "API v2" in found.reason
    assert "handler_host.v1" in found.reason
    assert "later" not in sys.modules


def test_a_plugin_for_both_apis_runs(site: Site, look: Look) -> None:
    site.install("both", "[handler_host.v2]\ngpt = both.v2:P\n[handler_host.v1]\ngpt = both:P\n", package="both")
    found = look(site)
    assert (found.entries["gpt"].entry_point, found.entries["gpt"].problem) == ("both:P", None)
    assert found.warnings == ()


def test_a_plugin_that_requires_another_host_is_incompatible(site: Site, look: Look) -> None:
    site.plugin("newer", "gpt", manifest="requires_host = '>=99'")
    found = problem(look(site).entries["gpt"])
    assert found.state == "incompatible"
    assert f"requires handler-host >=99, this is {__version__}" in found.reason


SECRETS = "[secrets.API_KEY]\n[secrets.OTHER]\n[secrets.OPTIONAL]\nrequired = false\n"


@pytest.mark.parametrize("environ", [{}, {"API_KEY": "", "OTHER": ""}])
def test_missing_secrets_are_named_with_both_ways_to_set_them(site: Site, look: Look, environ: dict[str, str]) -> None:
    site.plugin("plugin", "gpt-a", manifest=SECRETS)
    entry = look(site, environ=environ).entries["gpt-a"]
    assert problem(entry).state == "missing-secret"
    assert "API_KEY (or, for this handler only, HANDLER_HOST_SECRET_GPT_A_API_KEY)" in problem(entry).reason
    assert "OTHER (or, for this handler only, HANDLER_HOST_SECRET_GPT_A_OTHER)" in problem(entry).reason
    assert "OPTIONAL" not in problem(entry).reason


def test_secrets_may_be_set_for_one_handler_and_are_not_kept(site: Site, look: Look) -> None:
    site.plugin("plugin", "gpt-a", manifest=SECRETS)
    environ = {
        "API_KEY": "common-value",
        "HANDLER_HOST_SECRET_GPT_A_API_KEY": "own-value",
        "HANDLER_HOST_SECRET_GPT_A_OTHER": "other-value",
        "UNRELATED": "x",
    }
    found = look(site, environ=environ)
    entry = found.entries["gpt-a"]
    assert entry.problem is None
    assert secret_values(entry, environ) == {"API_KEY": "own-value", "OTHER": "other-value"}
    assert "value" not in repr(found)


def test_a_variable_that_two_handlers_would_read_is_a_warning(site: Site, look: Look) -> None:
    site.plugin("one", "gpt", manifest="[secrets.A_KEY]\nrequired = false")
    site.plugin("two", "gpt-a", manifest="[secrets.KEY]\nrequired = false")
    assert look(site).warnings == ()
    (warning,) = look(site, environ={"HANDLER_HOST_SECRET_GPT_A_KEY": "value"}).warnings
    assert "HANDLER_HOST_SECRET_GPT_A_KEY is A_KEY of gpt and KEY of gpt-a alike" in warning


@pytest.mark.parametrize("rivals", [1, 2])
def test_a_handler_that_the_configuration_disables_is_blocked(site: Site, look: Look, rivals: int) -> None:
    for number in range(rivals):
        site.plugin(f"plugin{number}", "gpt", manifest="titel = 1")
    found = problem(look(site, blocked=["gpt"]).entries["gpt"])
    assert found.state == "blocked"
    assert "[handlers.gpt] enabled = false" in found.reason


# Case 45: the installation changes while the host runs.


def test_a_rescan_tells_what_was_added_removed_and_upgraded(site: Site, look: Look) -> None:
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


def test_a_rescan_without_a_change_tells_none(site: Site, look: Look) -> None:
    site.plugin("plugin", "gpt", manifest=SECRETS)
    changes = diff(look(site), look(site))
    assert (changes.added, changes.removed, changes.changed) == ((), (), ())


def test_another_installation_of_the_same_version_is_a_change(site: Site, look: Look) -> None:
    info = site.plugin("plugin", "gpt")
    before = look(site)
    os.utime(info / "entry_points.txt", ns=(1, 1))
    assert diff(before, look(site)).changed == ("gpt",)


def test_an_edited_manifest_is_a_change(site: Site, look: Look) -> None:
    site.plugin("plugin", "gpt", manifest="title = 'a'")
    before = look(site)
    (site.path / "plugin" / "handler.toml").write_text("title = 'b'")
    assert diff(before, look(site)).changed == ("gpt",)


# Roots.


def test_a_worker_must_add_roots_that_the_host_does_not_import_from(site: Site, another_site: Site, look: Look) -> None:
    site.plugin("inside", "inside")
    another_site.plugin("outside", "outside")
    found = look(another_site, search_path=[str(site.path)]).entries
    assert found["inside"].paths == ()
    assert found["outside"].paths == (str(another_site.path),)


@pytest.mark.parametrize("named", [False, True])
def test_a_worker_must_add_what_only_this_process_has_on_its_path(
    site: Site, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    """``python -m handler_host`` adds its own directory; workers get the paths of ``PYTHONPATH`` from it."""
    site.plugin("plugin", "gpt")
    monkeypatch.syspath_prepend(site.path)
    found = scan(CatalogConfig(), {"PYTHONPATH": str(site.path)} if named else {}).entries["gpt"]
    assert found.paths == (() if named else (str(site.path),))


def test_configured_roots_win_over_what_only_this_process_has_on_its_path(
    site: Site, another_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.plugin("plugin", "gpt", version="1.0")
    another_site.plugin("plugin", "gpt", version="2.0")
    monkeypatch.syspath_prepend(site.path)
    assert scan(CatalogConfig(roots=(another_site.path,)), {}).entries["gpt"].version == "2.0"


def test_what_this_process_shares_with_its_workers_is_not_added(monkeypatch: pytest.MonkeyPatch) -> None:
    found = scan(CatalogConfig(), {}).entries
    assert found["gpt_a"].paths == ()


def test_a_configured_root_that_is_none_is_a_warning(tmp_path: Path, site: Site, look: Look) -> None:
    site.plugin("plugin", "gpt")
    found = look(site, tmp_path / "nowhere")
    assert list(found.entries) == ["gpt"]
    assert found.warnings == (f"catalog.roots: {tmp_path / 'nowhere'} is no directory",)


def test_sources_that_an_uninstall_left_on_the_path_of_the_running_host_do_not_count(site: Site, look: Look) -> None:
    site.install("plugin", "[handler_host.v1]\ngpt = plugin:Plugin\n", package="plugin", kind="egg-info")
    assert list(look(search_path=[str(site.path)]).entries) == []
    assert list(look(search_path=[str(site.path)], environ={"PYTHONPATH": str(site.path)}).entries) == ["gpt"]
    assert list(look(site).entries) == ["gpt"]
