"""The documentation names every key, code, route, metric and command, and its examples run."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from aiohttp import web

import handler_host
from handler_host import testing
from handler_host.app import create_app
from handler_host.cli.parser import make_parser
from handler_host.config import Config
from handler_host.config.loader import load_config
from handler_host.config.values import SECTIONS
from handler_host.plugin.errors import BY_CODE
from handler_host.plugin.hooks import HandlerHooks
from handler_host.telemetry.events import KINDS
from handler_host.telemetry.metric_families import MEANINGS
from handler_host.testing import ChatConformance, NativeConformance, OperationsConformance
from tests.support import install_plugin, supervisor_harness, within

DOCS = Path(__file__).parents[3] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def text(page: str) -> str:
    return (DOCS / page).read_text()


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_configuration_key_is_documented_in_its_section(section: str) -> None:
    part = text("reference/configuration.md").partition(f"## `[{section}]`")[2].partition("\n## ")[0]
    documented = set(re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE))
    assert documented == set(SECTIONS[section].__struct_fields__)


def test_every_error_code_is_documented_with_its_status() -> None:
    documented = {
        code: int(status)
        for status, code in re.findall(r"^\| (\d+) \| `(\w+)` \|", text("reference/http.md"), re.MULTILINE)
    }
    assert documented == {code: error.status for code, error in BY_CODE.items()}


def test_every_route_is_documented() -> None:
    app = create_app(Config())
    routes = {
        f"{route.method} {route.resource.canonical}"
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    documented = set(re.findall(r"^\| `((?:GET|POST|DELETE) /[^`]*)` \|", text("reference/http.md"), re.MULTILINE))
    assert documented == routes


def test_every_kind_of_event_is_documented() -> None:
    part = text("reference/http.md").partition("### Events")[2].partition("\n## ")[0].partition("| kind |")[2]
    assert dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", part, re.MULTILINE)) == KINDS


def test_every_metric_is_documented() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .*\| (.*) \|$", text("reference/metrics.md"), re.MULTILINE)
    assert dict(rows) == MEANINGS


def test_every_command_is_documented() -> None:
    subparsers = argparse._SubParsersAction
    (commands,) = (action.choices for action in make_parser()._actions if isinstance(action, subparsers))
    documented = set(re.findall(r"^\| `(\w+)` \|", text("reference/command-line.md"), re.MULTILINE))
    assert documented == set(commands)


def test_every_flag_is_documented_with_its_command() -> None:
    page = text("reference/command-line.md")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE))
    subparsers = argparse._SubParsersAction
    (commands,) = (action.choices for action in make_parser()._actions if isinstance(action, subparsers))
    shared = {"--help", "--url", "--token-file", "--json", *re.findall(r"`(--[a-z-]+)`", rows["serve"])}
    assert all(f"`{flag}`" in page for flag in shared - {"--help"})
    for name, command in commands.items():
        flags = {word for action in command._actions for word in action.option_strings if word.startswith("--")}
        documented = set(re.findall(r"`(--[a-z-]+)`", rows[name]))
        assert flags - shared == documented - shared, name
    serve = {word for action in commands["serve"]._actions for word in action.option_strings}
    assert set(re.findall(r"`(--[a-z-]+)`", rows["serve"])) == serve - {"-h", "--help"}


def test_every_hook_is_documented() -> None:
    page = text("reference/plugins.md")
    for name in (name for name in vars(HandlerHooks) if not name.startswith("_")):
        assert f"`{name}(context)`" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_every_page_is_linked_from_the_index() -> None:
    linked = set(re.findall(r"\]\(([^)#]+\.md)\)", text("index.md")))
    assert linked == {str(page.relative_to(DOCS)) for page in PAGES} - {"index.md"}


def test_the_how_tos_configuration_is_valid(tmp_path: Path) -> None:
    for number, block in enumerate(blocks(DOCS / "how-to/run.md", "toml")):
        path = tmp_path / f"{number}.toml"
        path.write_text(block)
        load_config(path, {})


def test_the_how_tos_mounted_application_can_be_made() -> None:
    (source,) = blocks(DOCS / "how-to/run.md", "python")
    scope: dict[str, object] = {}
    exec(compile(source, "run.md", "exec"), scope)
    assert isinstance(scope["app"], web.Application)
    assert handler_host.create_app is create_app


async def test_the_tutorials_plugin_runs(tmp_path: Path) -> None:
    page = DOCS / "tutorial/first-plugin.md"
    (project,), (source,) = blocks(page, "toml"), blocks(page, "python")
    assert tomllib.loads(project)["project"]["entry-points"]["handler_host.v1"] == {"parrot": "parrot:Parrot"}
    install_plugin(tmp_path, "parrot", source, attribute="Parrot")
    async with supervisor_harness(tmp_path) as running:
        messages = [{"role": "user", "content": "Polly wants a cracker"}]
        response = await within(running.ask("parrot", "chat", messages=messages))
        assert response["content"][0]["text"].strip() == "Polly wants a cracker"
        chunks = [chunk async for chunk in running.chunks("parrot", "chat", messages=messages)]
        assert [chunk.get("text") for chunk in chunks] == ["Polly ", "wants ", "a ", "cracker ", None]
        assert chunks[-1] == {"type": "finish", "reason": "stop"}


async def test_the_references_handler_counts_tokens(tmp_path: Path) -> None:
    _, source = blocks(DOCS / "reference/plugins.md", "python")
    install_plugin(tmp_path, "counting", source, attribute="Counting")
    async with supervisor_harness(tmp_path) as running:
        messages = [{"role": "user", "content": "Polly wants a cracker"}]
        assert await within(running.ask("counting", "count_tokens", messages=messages)) == {"input_tokens": 4}


async def test_the_references_handler_dispatches_to_another_one(tmp_path: Path) -> None:
    source, _ = blocks(DOCS / "reference/plugins.md", "python")
    (parrot,) = blocks(DOCS / "tutorial/first-plugin.md", "python")
    install_plugin(tmp_path, "twice", source, attribute="Twice")
    install_plugin(tmp_path, "parrot", parrot, attribute="Parrot")
    async with supervisor_harness(tmp_path) as running:
        messages = [{"role": "user", "content": "Hello"}]
        response = await within(running.ask("twice", "ask", handler="parrot", messages=messages))
        assert response == {"first": "Hello ", "second": "Hello "}


def test_every_name_of_handler_host_testing_is_documented() -> None:
    page = text("reference/testing.md")
    missing = [name for name in testing.__all__ if not re.search(rf"`{name}\b", page)]
    assert not missing
    for attributes in (ChatConformance, NativeConformance, OperationsConformance):
        own = {name for kind in attributes.__mro__[:-1] for name in vars(kind).get("__annotations__", {})}
        assert not [name for name in own if not name.startswith("_") and f"`{name}`" not in page]
    for name in ("upstream", "worker", "handler_host"):
        assert f"| `{name}` |" in page


def write_the_how_tos_tests(directory: Path) -> list[Path]:
    """Write the tests of the how-to on tests into files; gpt_a's tests use the imports of the blocks before."""
    python = blocks(DOCS / "how-to/test-a-handler.md", "python")
    of_gpt_a = [block for block in blocks(DOCS / "how-to/test-a-handler.md", "text") if "def test_" in block]
    files = []
    for number, block in enumerate([*python, *(python[1] + HEAD + block for block in of_gpt_a)]):
        files.append(directory / f"test_{number}.py")
        files[-1].write_text(block)
    return files


HEAD = "from handler_host.testing import Reply, Status, Upstream\n"


@pytest.mark.slow
def test_the_how_tos_tests_pass_for_the_tutorials_plugin(tmp_path: Path) -> None:
    (source,) = blocks(DOCS / "tutorial/first-plugin.md", "python")
    root = tmp_path / "site"
    install_plugin(root, "parrot", source, attribute="Parrot")
    files = write_the_how_tos_tests(tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:llmock", *map(str, files)]
    environ = {**os.environ, "PYTHONPATH": str(root), "OPENAI_API_KEY": "a-key"}
    run = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout


@pytest.mark.slow
def test_tests_of_how_tos_are_typed_as_in_generated_projects(tmp_path: Path) -> None:
    files = write_the_how_tos_tests(tmp_path)
    # The project's own settings are strict, too, and `make check` has left what mypy knows of the libraries.
    command = [sys.executable, "-m", "mypy", *map(str, files)]
    run = subprocess.run(command, cwd=DOCS.parent, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout
