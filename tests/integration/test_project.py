"""The project's own files: locks, distributions, commands."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import version as installed_version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import handler_host

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements"
LOCKS = sorted(set(REQUIREMENTS.glob("*.txt")) - {REQUIREMENTS / "constraints.txt", REQUIREMENTS / "overrides.txt"})
CLIENT_LOCKS = ("aider", "clients", "crewai", "instructor", "llama-index", "pydantic-ai")
SEPARATE_LOCKS = {REQUIREMENTS / f"{name}.txt" for name in (*CLIENT_LOCKS, "docs", "openai3", "peer")}
"""Locks of environments with other versions on purpose."""
DISTRIBUTIONS = [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
PLUGINS = DISTRIBUTIONS[1:]
LAUNCHERS = sorted(path.parent for path in ROOT.glob("launchers/*/pyproject.toml"))

# Joined here, so that this file does not name what it forbids.
INDEX_HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("pypi", "python", "org"),
        ("registry", "npmjs", "org"),
        ("deb", "debian", "org"),
        ("conda", "anaconda", "org"),
    )
]
BAD_LITELLM = ("1.82.7", "1.82.8", "1.107.0")
"""Releases that were compromised or withdrawn."""


def project_files() -> list[Path]:
    """Return the files that are committed, or are neither committed nor ignored."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    if listing.returncode != 0:
        pytest.skip("no git repository: the list of the project's files is unknown")
    paths = (ROOT / name for name in listing.stdout.decode().split("\0") if name)
    return [path for path in paths if path.is_file()]


def locked(lock: Path) -> Iterator[tuple[Requirement, int]]:
    """Yield each requirement of a lock with the number of its hashes."""
    text = re.sub(r"#.*", "", lock.read_text(encoding="utf-8")).replace("\\\n", " ")
    for line in filter(None, map(str.strip, text.splitlines())):
        requirement, *hashes = line.split("--hash=")
        yield Requirement(requirement), len(hashes)


def metadata(root: Path) -> dict[str, object]:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert isinstance(project, dict)
    return project


def dependencies(root: Path) -> list[Requirement]:
    declared = metadata(root)["dependencies"]
    assert isinstance(declared, list)
    return [Requirement(line) for line in declared]


@pytest.mark.parametrize("root", [*PLUGINS, *LAUNCHERS], ids=lambda path: path.name)
def test_a_plugin_has_the_version_of_the_host(root: Path) -> None:
    """`make version` sets both: host and plugins are released together."""
    assert metadata(root)["version"] == handler_host.__version__


def test_the_version_of_the_host_is_read_from_its_code() -> None:
    assert metadata(ROOT)["dynamic"] == ["version"]
    assert installed_version("handler-host") == handler_host.__version__


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ("http: limit the size of request bodies", None),
        ("http: limit bodies\n\nProblem, choice, evidence.", None),
        ("http: limit bodies\n# a comment of git's template", None),
        ("tests, bench: keep mypy strict", None),
        ('Revert "http: limit the size of request bodies"', None),
        ("fixup! http: limit the size of request bodies", None),
        ("limit the size of request bodies", "no area before the summary"),
        ("http:limit bodies", "no area before the summary"),
        ("Let the host limit bodies", "no area before the summary"),
        ("http: let the host limit bodies", "begins with 'let'"),
        ("http: Tell of bodies", "begins with 'Tell'"),
        ("http: limit bodies.", "full stop"),
        ("http: " + "l" * 66, None),
        ("http: " + "l" * 67, "subject has 73 characters"),
        ("http: limit bodies\nProblem", "second line is not empty"),
        ("", "no area before the summary"),
    ],
)
def test_a_commit_message_has_its_form(tmp_path: Path, message: str, complaint: str | None) -> None:
    path = tmp_path / "COMMIT_EDITMSG"
    path.write_text(message + "\n")
    check = subprocess.run([ROOT / ".ci/commit-message", path], capture_output=True, text=True)
    assert check.returncode == (0 if complaint is None else 1), check.stderr
    assert complaint is None or complaint in check.stderr


def test_no_file_names_a_package_index() -> None:
    """Users choose the index, by the configuration of pip."""
    named = [
        f"{path.relative_to(ROOT)}: {host}"
        for path in project_files()
        for host in INDEX_HOSTS
        if host.encode() in path.read_bytes()
    ]
    assert not named


def test_no_lock_has_a_withdrawn_release() -> None:
    """``constraints.txt`` lists withdrawn and compromised releases; a lock may be older than its entry there."""
    text = (REQUIREMENTS / "constraints.txt").read_text(encoding="utf-8")
    constraints = [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]
    withdrawn = {canonicalize_name(item.name): item.specifier for item in constraints if "!=" in str(item.specifier)}
    assert withdrawn
    found = [
        f"{lock.name}: {requirement}"
        for lock in LOCKS
        for requirement, _ in locked(lock)
        for pin in requirement.specifier
        if not withdrawn.get(canonicalize_name(requirement.name), SpecifierSet()).contains(
            pin.version, prereleases=True
        )
    ]
    assert found == []


def test_no_lock_names_an_index() -> None:
    assert [path for path in project_files() if path.name == "uv.lock"] == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_locked_package_has_one_version_and_its_hashes(lock: Path) -> None:
    """For older pips ``name[extra]==1`` does not pin ``name``: they fail once a newer version is published."""
    for requirement, hashes in locked(lock):
        assert not requirement.extras, f"{lock.name}: {requirement.name} is locked with extras"
        assert re.fullmatch(r"==[\w.!+]+", str(requirement.specifier)), f"{requirement} is not one version"
        assert hashes, f"{requirement} has no hash"


def test_the_locks_of_the_shared_environment_agree() -> None:
    versions: dict[str, set[str]] = {}
    for lock in set(LOCKS) - SEPARATE_LOCKS:
        for requirement, _ in locked(lock):
            versions.setdefault(canonicalize_name(requirement.name), set()).add(str(requirement.specifier))
    assert {name: pins for name, pins in versions.items() if len(pins) > 1} == {}


@pytest.mark.parametrize(
    ("lock", "roots"),
    [("host.txt", [ROOT]), ("plugins.txt", DISTRIBUTIONS), ("dev.txt", DISTRIBUTIONS)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_lock_has_the_declared_dependencies(lock: str, roots: list[Path]) -> None:
    versions = {canonicalize_name(pin.name): str(pin.specifier)[2:] for pin, _ in locked(REQUIREMENTS / lock)}
    for declared in (requirement for root in roots for requirement in dependencies(root)):
        if declared.name == "handler-host":
            continue
        version = versions.get(canonicalize_name(declared.name))
        assert version is not None, f"{lock} lacks {declared}: run make lock"
        assert declared.specifier.contains(version), f"{lock} has {declared.name} {version}, not {declared}"


@pytest.mark.parametrize("version", BAD_LITELLM)
def test_no_lock_has_a_bad_release_of_litellm(version: str) -> None:
    lines = (REQUIREMENTS / "constraints.txt").read_text(encoding="utf-8").splitlines()
    constraints = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert any(pin.name == "litellm" and not pin.specifier.contains(version) for pin in constraints)
    assert not any(
        pin.name == "litellm" and pin.specifier.contains(version) for lock in LOCKS for pin, _ in locked(lock)
    )


def test_the_host_depends_on_four_packages_only() -> None:
    assert sorted(requirement.name for requirement in dependencies(ROOT)) == ["aiohttp", "msgspec", "pluggy", "psutil"]


@pytest.mark.parametrize("root", PLUGINS, ids=lambda path: path.name)
def test_a_plugin_depends_on_the_host_and_on_no_weights(root: Path) -> None:
    names = {requirement.name for requirement in dependencies(root)}
    assert "handler-host" in names
    assert not {name for name in names if name.startswith("llm-")}, "the weights' package pulls in a compiler"


@pytest.mark.parametrize("root", DISTRIBUTIONS, ids=lambda path: path.name)
def test_a_wheel_has_every_file_of_the_package(root: Path, tmp_path: Path) -> None:
    """An editable installation finds data files in the tree; a wheel may lack them."""
    build = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert build.returncode == 0, build.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata_files = {name.rpartition("/")[2]: name for name in archive.namelist() if ".dist-info/" in name}
        entry_points = archive.read(metadata_files["entry_points.txt"]).decode()
    source = root / ("src" if root in PLUGINS else "host/src")
    packages = sorted(path for path in source.iterdir() if path.is_dir() and not path.name.endswith(".egg-info"))
    files = {
        str(path.relative_to(source))
        for package in packages
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == files
    assert ("[handler_host.v1]" if root in PLUGINS else "handler-host = handler_host.cli.main:main") in entry_points


def commands_of(text: str) -> set[str]:
    """Return the targets of ``make`` that a Markdown text shows as code."""
    code = re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL)
    return {target for block in code for target in re.findall(r"\bmake ([a-z][a-z-]*)\b(?!=)", block)}


def test_every_make_command_in_the_documentation_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    lists = re.findall(r"^(?:long_)?benches := (.*)$", makefile, re.MULTILINE)
    targets |= {f"bench-{name}" for names in lists for name in names.split()}
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("plugins/*/*.md")]
    unknown = {
        f"{page.relative_to(ROOT)}: make {target}"
        for page in pages
        for target in commands_of(page.read_text(encoding="utf-8")) - targets
    }
    assert not unknown
