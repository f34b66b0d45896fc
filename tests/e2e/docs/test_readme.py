"""The commands of the README print what it shows."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from handler_host.testing import HostUnderTest, host_under_test
from tests.e2e.docs.reading import ROOT, Reader, steps

README = (ROOT / "README.md").read_text()
EAGER = (ROOT / "docs/explanation/lean.md").read_text()
"""The page with the table of ``examples/demo.py --eager``."""
SHOWN = dict(steps(README))
TOKEN = "a-token-of-the-readers"
ADDRESS = "http://127.0.0.1:8080"


def pattern(line: str) -> str:
    """Return a pattern for a line of the README, in which ``…`` stands for any text and columns may be wider."""
    return r"\s+".join(".*".join(map(re.escape, column.split("…"))) for column in line.split("  ") if column)


def command(start: str) -> str:
    (match,) = (each for each in SHOWN if each.startswith(start))
    return match


@pytest.fixture(scope="module")
def host() -> Iterator[HostUnderTest]:
    with host_under_test("[handlers.gpt_e]\nmax_tokens = 8\n", environ={"HANDLER_HOST_ADMIN_TOKEN": TOKEN}) as running:
        yield running


@pytest.mark.slow
def test_the_response_and_the_list_are_as_shown(reader: Reader, host: HostUnderTest) -> None:
    reader.environment |= {"HANDLER_HOST_URL": host.url, "HANDLER_HOST_ADMIN_TOKEN": TOKEN}
    # A block shows the request on two lines; the second line is part of the command.
    curl = command("curl ")
    data, *lines = SHOWN[curl].splitlines()
    events = reader.run(f"{curl}\n{data}".replace(ADDRESS, host.url).replace("-N", "-sN"))
    for line in lines:
        assert re.search(rf"^{pattern(line)}", events, re.MULTILINE), f"{line}\n{events}"

    listed = reader.run("handler-host ps")
    head, row, *_ = SHOWN["handler-host ps"].splitlines()
    assert re.search(rf"^{pattern(head)}$", listed, re.MULTILINE), listed
    assert re.search(rf"^{pattern(row)}", listed, re.MULTILINE), listed
    assert "gpt_e" in reader.run("handler-host unload gpt_e")


def demo_module() -> ModuleType:
    """Import the demo from its file."""
    spec = importlib.util.spec_from_file_location("demo", ROOT / "examples" / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    return demo


def table_of(text: str, title: str) -> list[str]:
    """Return the lines of the demo's table in a page, without its title."""
    return text.partition(f"```text\n{title}")[2].partition("\n```")[0].splitlines()


@pytest.mark.parametrize("text", [README, EAGER], ids=["lean", "eager"])
def test_the_table_of_memory_is_one_that_the_demo_writes(tmp_path: Path, text: str) -> None:
    """Its columns, its rows in the demo's order, sums that agree, and a page into which the demo can write it."""
    demo = demo_module()
    head, *rows = table_of(text, demo.TABLE)
    assert head.split() == ["host", "fork", *demo.HANDLERS, "all"]
    answers, unloads = ([f"{name} {text}" for name in demo.HANDLERS] for text in ("has answered", "is unloaded"))
    assert [row[:20].strip() for row in rows] == ["all cold", *answers, *reversed(unloads), "memory is back"]
    for row in rows:
        *parts, total, _ = row[20:].split()
        # Each figure is rounded by itself.
        assert sum(int(part) for part in parts if part != "-") == pytest.approx(int(total), abs=len(parts) / 2), row
    page = tmp_path / "page.md"
    page.write_text(text)
    demo.write_table(page, [f"{demo.TABLE}  new", "row"])
    assert page.read_text() == text.replace("\n".join([f"{demo.TABLE}{head}", *rows]), f"{demo.TABLE}  new\nrow")


def test_the_memory_without_lean_imports_is_the_one_of_its_table() -> None:
    lean, eager = (
        [int(row.split()[-2]) for row in table_of(text, demo_module().TABLE)[1:]] for text in (README, EAGER)
    )
    assert max(lean) < max(eager)
    assert f"{max(eager)} MB at most" in README


def test_the_named_modules_exist() -> None:
    how = README.partition("\n## How it works\n")[2].partition("\n## ")[0]
    modules = re.findall(r"`([a-z_/]+\.py)`", how)
    assert len(modules) >= 6
    assert [name for name in modules if not (ROOT / "host/src/handler_host" / name).exists()] == []


def test_the_required_python_is_that_of_the_distribution() -> None:
    required = re.search(r'requires-python = ">=(3\.\d+)"', (ROOT / "pyproject.toml").read_text())
    assert required is not None
    assert f"Python {required[1]} or newer" in README
    assert sys.version_info >= tuple(map(int, required[1].split(".")))
