"""`handler-host doctor`: finds what is wrong from metadata alone, says the remedy, and plans the memory."""

from __future__ import annotations

import compileall
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handler_host.cli.plan import HOST, Footprint, advice, expected_of, needs
from handler_host.config import MB, Config, HandlerPolicy, MemoryConfig
from handler_host.memory.cgroups import MemoryLimit, read_limit
from tests.integration.cli.running import PARROT, TOKEN, Run, serving
from tests.support import install_plugin

MANIFEST = 'title = "A parrot"\n[memory]\nestimate = "100MB"\n[config.volume]\ntype = "integer"\n'


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for plugins, and a configuration that looks nowhere else."""
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    config = tmp_path / "host.toml"
    config.write_text(f'[catalog]\nroots = ["{plugins}"]\ninclude_sys_path = false\n[memory]\nlimit = "512MB"\n')
    monkeypatch.setenv("HANDLER_HOST_CONFIG", str(config))
    monkeypatch.setenv("HANDLER_HOST_DATA_DIR", str(tmp_path / "data"))
    return plugins


def configure(root: Path, text: str) -> None:
    with (root.parent / "host.toml").open("a") as file:
        file.write(text)


def require(root: Path, name: str, requirement: str) -> None:
    (info,) = root.glob(f"{name}-*.dist-info")
    with (info / "METADATA").open("a") as file:
        file.write(f"Requires-Dist: {requirement}\n")


def report(run: Run, *words: str) -> tuple[int, dict[str, Any]]:
    result = run("doctor", "--json", *words)
    return result.status, json.loads(result.out)


def findings(response: dict[str, Any], level: str) -> list[tuple[str, str]]:
    return [(one["place"], one["text"]) for one in response["findings"] if one["level"] == level]


def test_given_all_is_well_then_nothing_is_a_problem_and_nothing_is_imported(root: Path, run: Run) -> None:
    install_plugin(root, "parrot", "raise RuntimeError('imported')", manifest=MANIFEST)
    compileall.compile_dir(root, quiet=2)
    status, response = report(run)
    assert status == 0
    assert findings(response, "problem") == findings(response, "warning") == []
    assert ("parrot", "parrot 1.0") in findings(response, "ok")


def test_what_keeps_a_handler_from_running_is_a_problem_with_its_remedy(root: Path, run: Run) -> None:
    install_plugin(root, "parrot", PARROT, manifest="[secrets.KEY_OF_NOBODY]\n")
    install_plugin(root, "macaw", PARROT, manifest="titel = 'M'\n")
    configure(root, "[handlers.parot]\nvolume = 1\n")
    status, response = report(run)
    problems = dict(findings(response, "problem"))
    assert status == 1
    assert "KEY_OF_NOBODY" in problems["parrot"]
    assert "did you mean 'title'?" in problems["macaw"]
    assert ("[handlers.parot]", "no such handler is installed; did you mean 'parrot'?") in findings(response, "warning")


def test_a_setting_that_does_not_fit_the_manifest_is_a_problem_that_names_it(root: Path, run: Run) -> None:
    install_plugin(root, "parrot", PARROT, manifest=MANIFEST)
    configure(root, "[handlers.parrot]\nvolume = 'loud'\n")
    _, response = report(run)
    ((place, text),) = findings(response, "problem")
    assert place == "[handlers.parrot]"
    assert "volume" in text
    assert "'loud'" in text


@pytest.mark.parametrize(
    ("requirement", "said"),
    [
        ("msgspec<0.1", "parrot 1.0 requires msgspec<0.1, and "),
        ("no-such-thing>=2", "parrot 1.0 requires no-such-thing>=2, which is not installed"),
    ],
)
def test_versions_that_clash_are_a_problem_whose_remedy_is_an_environment_of_its_own(
    root: Path, run: Run, requirement: str, said: str
) -> None:
    install_plugin(root, "parrot", PARROT)
    require(root, "parrot", requirement)
    require(root, "parrot", "other-thing; extra == 'more'")
    _, response = report(run)
    ((place, text),) = findings(response, "problem")
    assert place == "parrot"
    assert text.startswith(said)
    assert text.endswith("handler-host env create parrot")


def test_a_clash_further_down_is_found_as_well(root: Path, run: Run) -> None:
    install_plugin(root, "parrot", PARROT)
    install_plugin(root, "seeds", "", group="other.group")
    require(root, "parrot", "seeds[husk]")
    require(root, "seeds", "msgspec<0.1 ; extra == 'husk'")
    _, response = report(run)
    ((_, text),) = findings(response, "problem")
    assert text.startswith("seeds 1.0 requires msgspec<0.1")


def test_modules_without_bytecode_are_a_warning_with_the_command_that_compiles_them(root: Path, run: Run) -> None:
    install_plugin(root, "parrot", PARROT)
    _, before = report(run)
    compileall.compile_dir(root, quiet=2)
    _, after = report(run)
    ((_, text),) = findings(before, "warning")
    assert f"-m compileall -q {root}" in text
    assert findings(after, "warning") == []


def test_the_limit_in_force_is_shown_with_its_source_and_people_get_a_table(root: Path, run: Run) -> None:
    install_plugin(root, "parrot", PARROT, manifest=MANIFEST)
    result = run("doctor")
    assert "the limit is 512.0 MB, configured; 460.8 MB of it is the budget" in result.out
    (line,) = (line for line in result.out.splitlines() if line.startswith("parrot "))
    assert line.split() == ["parrot", "152.0", "MB", "fits", "fits", "fits", "fits", "estimated"]


def test_the_first_lines_say_what_is_judged_and_the_plan_says_who_is_left_out_and_expected(
    root: Path, run: Run, tmp_path: Path
) -> None:
    for name in ("parrot", "macaw", "heron"):
        install_plugin(root, name, PARROT, manifest=MANIFEST)
    install_plugin(root, "keyless", PARROT, manifest="[secrets.KEY_OF_NOBODY]\n")
    result = run("doctor")
    lines = result.out.splitlines()
    assert "a host that is started from this shell" in lines[0]
    assert str(tmp_path / "host.toml") in lines[0]
    assert str(tmp_path / "data/.handler-host/memory.json") in lines[1]
    assert lines[1].endswith("which is not there yet")
    assert "none is asked" in lines[2]
    (problem,) = (line for line in lines if line.startswith("PROBLEM"))
    assert problem.endswith("this shell's lacks it, a running host's may not")
    assert "all at once (3)" in result.out
    assert "Left out of all sums: keyless (missing-secret)." in lines
    assert "expected: heron, macaw, taken to be active at a time; --expect A,B names others." in lines
    assert "COLD START" not in result.out  # nobody knows one


@pytest.fixture
def other_host(root: Path, tmp_path: Path) -> Iterator[str]:
    """Run a host of the same configuration, with the secret, and a state file of its own; return its URL."""
    own = {
        "KEY_OF_NOBODY": "secret",
        "HANDLER_HOST_DATA_DIR": f"{tmp_path}/other",
        "HANDLER_HOST_DEFAULTS__PRELOAD": "[]",
    }
    with serving(own) as url:
        yield url


def test_given_a_running_host_then_its_secrets_and_what_it_has_learned_count(
    root: Path, run: Run, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    install_plugin(root, "parrot", PARROT, manifest=MANIFEST + "[secrets.KEY_OF_NOBODY]\n")
    url = request.getfixturevalue("other_host")
    monkeypatch.setenv("HANDLER_HOST_URL", url)
    monkeypatch.setenv("HANDLER_HOST_ADMIN_TOKEN", TOKEN)
    assert run("load", "parrot").status == 0
    status, response = report(run)
    assert (status, findings(response, "problem")) == (0, [])
    assert any(place == "running host" and url in text for place, text in findings(response, "ok"))
    (parrot,) = response["footprints"]
    assert parrot["known"] == "learned"
    assert parrot["activate_seconds"] > 0
    assert run("doctor").out.count("COLD START") == 1
    # Of another version it knows nothing.
    install_plugin(root, "parrot", PARROT, manifest=MANIFEST + "[secrets.KEY_OF_NOBODY]\n", version="2.0")
    status, response = report(run)
    assert (status, response["left_out"]) == (1, {"parrot": "missing-secret"})


def test_given_a_host_that_does_not_answer_then_that_is_a_warning_and_the_rest_is_judged(root: Path, run: Run) -> None:
    install_plugin(root, "parrot", PARROT, manifest=MANIFEST)
    compileall.compile_dir(root, quiet=2)
    status, response = report(run, "--url", "http://127.0.0.1:9")
    ((place, text),) = findings(response, "warning")
    assert (status, place) == (0, "running host")
    assert text.startswith("not asked, no host at http://127.0.0.1:9")


@pytest.mark.slow
def test_measuring_activates_each_handler_once_and_shows_what_it_took(root: Path, run: Run) -> None:
    install_plugin(root, "parrot", PARROT, manifest=MANIFEST)
    install_plugin(root, "broken", "raise ImportError('no such thing')")
    status, response = report(run, "--measure")
    assert status == 1
    ((place, text),) = findings(response, "problem")
    assert (place, "no such thing" in text) == ("broken", True)
    (parrot,) = (one for one in response["footprints"] if one["handler"] == "parrot")
    assert parrot["known"] == "measured"
    assert MB < parrot["bytes"] < 100 * MB
    assert parrot["activate_seconds"] > 0
    # The host of --measure has kept it for the next ones, and for the next look.
    _, response = report(run)
    (parrot,) = (one for one in response["footprints"] if one["handler"] == "parrot")
    assert parrot["known"] == "learned"
    assert MB < parrot["bytes"] < 100 * MB


def test_expecting_a_handler_that_is_not_there_is_refused_with_the_nearest(root: Path, run: Run) -> None:
    install_plugin(root, "parrot", PARROT)
    result = run("doctor", "--expect", "parot")
    assert result.status == 2
    assert "did you mean 'parrot'?" in result.err


def footprints(**sizes: int) -> list[Footprint]:
    return [Footprint(name, size * MB, "measured", name.startswith("pinned")) for name, size in sizes.items()]


def advised(limit: int, config: Config | None = None, **sizes: int) -> list[str]:
    config = config or Config()
    known = footprints(**sizes)
    in_force = read_limit(MemoryConfig(limit=limit * MB))
    return list(advice(config, in_force, known, needs(known, expected_of(known))))


def test_without_pins_the_idle_host_is_all_that_is_always_there() -> None:
    by_name = {need.name: need for need in needs(footprints(a=100, b=50), ["a"])}
    assert by_name["idle"].bytes == HOST
    assert by_name["a"].bytes == by_name["expected"].bytes == by_name["b"].bytes + 50 * MB
    assert by_name["all at once"].bytes == by_name["a"].bytes + 50 * MB


def test_given_all_fit_at_once_then_a_longer_idle_time_is_advised() -> None:
    said = advised(1024, a=100, b=100)
    assert said[0].startswith("all handlers at once fit into 921.6 MB")
    assert "idle_after is 5m" in said[1]
    never = Config(defaults=HandlerPolicy(idle_after=None))
    assert len(advised(1024, never, a=100, b=100)) == 1


def test_given_the_busiest_set_does_not_fit_then_the_smallest_plan_that_does_is_named() -> None:
    said = advised(512, a=300, b=300, c=10)
    assert any("needs 652.0 MB of 460.8 MB" in line and "take a plan of 1.0 GB" in line for line in said)


def test_a_handler_that_never_fits_and_pins_that_hold_too_much_are_named() -> None:
    said = advised(512, pinned_a=250, b=5000)
    assert any(line.startswith("b never fits") and "no common plan is enough" in line for line in said)
    assert any(line.startswith("pinned handlers (pinned_a) hold 302.0 MB for ever") for line in said)


def test_the_headroom_of_the_configuration_counts() -> None:
    limit = MemoryLimit(512 * MB, 412 * MB, "configured")
    config = Config(memory=MemoryConfig(headroom=100 * MB))
    (need,) = (need for need in needs(footprints(a=370), []) if need.name == "a")
    assert need.fits(config, 512 * MB) is False
    assert need.fits(Config(memory=MemoryConfig(headroom=50 * MB)), 512 * MB) is True
    assert any("never fits" in line for line in advice(config, limit, footprints(a=370), needs(footprints(a=370), [])))
