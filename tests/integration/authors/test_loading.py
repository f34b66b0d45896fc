"""What a plugin's author gets wrong is said in one sentence with its place and remedy, and with their own traceback."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from handler_host.channel.frames import WorkerSpec
from handler_host.workers.runtime.loading import LoadError, load

HANDLER = """
from handler_host.plugin import hookimpl, operation

class Handler:
{body}
"""
OPERATION = """
    @operation
    async def echo(self, request: dict) -> dict:
        return request
"""


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> object:
    """Return a function that loads a module of this source, and returns the error."""
    name = f"loaded_{abs(hash(request.node.name))}"
    monkeypatch.syspath_prepend(tmp_path)

    def load_source(source: str, entry_point: str = "{}:Handler") -> LoadError:
        (tmp_path / f"{name}.py").write_text(source)
        spec = WorkerSpec(handler="x", entry_point=entry_point.format(name), distribution="x", version="1")
        try:
            with pytest.raises(LoadError) as caught:
                load(spec)
        finally:
            sys.modules.pop(name, None)
        return caught.value

    return load_source


def of(body: str) -> str:
    return HANDLER.format(body=body)


def test_a_syntax_error_is_named_with_its_own_file_and_line(said, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    error = said("x = 1\ndef broken(:\n")
    assert "SyntaxError" in error.reason
    assert f"({tmp_path}" in error.reason
    assert error.reason.endswith(".py:2)")
    assert "importlib" not in error.trace
    assert "def broken(:" in error.trace


def test_an_error_of_an_import_shows_the_authors_frames_and_none_of_the_hosts(said) -> None:  # type: ignore[no-untyped-def]
    error = said("def deep():\n    raise ValueError('too deep')\n\ndeep()\n")
    assert "could not be imported: ValueError: too deep" in error.reason
    assert error.reason.endswith(".py:2)")
    assert "deep()" in error.trace
    assert "importlib" not in error.trace
    assert "loading.py" not in error.trace


@pytest.mark.parametrize(
    ("source", "entry_point", "sentence"),
    [
        ("", "no_such_module_of_anybody:Handler", "the module 'no_such_module_of_anybody' of entry point"),
        ("import no_such_dependency\n", "{}:Handler", "ModuleNotFoundError: No module named 'no_such_dependency'"),
        ("class Handlr:\n    pass\n", "{}:Handler", "did you mean 'Handlr'?"),
        ("class Handler:\n    pass\n", "{}:Handler", "mark a method with @handler_host.plugin.operation"),
        ("Handler = 7\n", "{}:Handler", "has no operation"),
        ("raise SystemExit(3)\n", "{}:Handler", "it called sys.exit(3)"),
        (of("    def __init__(self, x):\n        pass\n" + OPERATION), "{}:Handler", "could not be made: TypeError"),
        (of(OPERATION + "    @hookimpl\n    def activat(self): ...\n"), "{}:Handler", "did you mean 'activate'?"),
        (of(OPERATION + "    @hookimpl\n    def unloaded(self): ...\n"), "{}:Handler", "the hooks are activate"),
        (of(OPERATION + "    @hookimpl\n    def activate(self, contxt): ...\n"), "{}:Handler", "contxt"),
        (of("    @operation\n    async def add(self, a: int, b: int): ...\n"), "{}:Handler", "it may take the request"),
        (of('    @operation\n    async def add(self, a: "Nobody"): ...\n'), "{}:Handler", "annotations cannot be read"),
        (
            of("    @operation\n    async def add(self, a: list | tuple): ...\n"),
            "{}:Handler",
            "cannot be read from JSON",
        ),
    ],
)
def test_each_mistake_has_its_sentence(said, source: str, entry_point: str, sentence: str) -> None:  # type: ignore[no-untyped-def]
    assert sentence in said(source, entry_point).reason
