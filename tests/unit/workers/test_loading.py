"""Mistakes in a plugin become one sentence with place and remedy, and the author's own traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
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

STRICT = """\
class Strict(type):
    def __getattribute__(cls, name):
        raise OSError(name)

class Handler(metaclass=Strict): ...
"""

LoadSource = Callable[..., LoadError]


@pytest.fixture
def load_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> LoadSource:
    """A function that loads a module with this source, and returns the error."""
    name = f"loaded_{abs(hash(request.node.name))}"
    monkeypatch.syspath_prepend(tmp_path)

    def load_module(source: str, entry_point: str = "{}:Handler") -> LoadError:
        (tmp_path / f"{name}.py").write_text(source)
        spec = WorkerSpec(handler="x", entry_point=entry_point.format(name), distribution="x", version="1")
        try:
            with pytest.raises(LoadError) as caught:
                load(spec)
        finally:
            sys.modules.pop(name, None)
        return caught.value

    return load_module


def handler(body: str) -> str:
    return HANDLER.format(body=body)


class TestTraceback:
    def test_syntax_error(self, load_source: LoadSource, tmp_path: Path) -> None:
        error = load_source("x = 1\ndef broken(:\n")
        assert "SyntaxError" in error.reason
        assert f"({tmp_path}" in error.reason
        assert error.reason.endswith(".py:2)")
        assert not error.is_retryable
        assert "importlib" not in error.trace
        assert "def broken(:" in error.trace

    def test_frames_of_the_author_only(self, load_source: LoadSource) -> None:
        error = load_source("def deep():\n    raise ValueError('too deep')\n\ndeep()\n")
        assert "could not be imported: ValueError: too deep" in error.reason
        assert error.is_retryable
        assert error.reason.endswith(".py:2)")
        assert "deep()" in error.trace
        assert "importlib" not in error.trace
        assert "loading.py" not in error.trace


class TestMistake:
    """Mistakes that a real worker reports as well are in tests/integration/authors/test_bad_input.py."""

    def test_missing_module(self, load_source: LoadSource) -> None:
        sentence = "the module 'no_such_module_here' of entry point"
        assert sentence in load_source("", "no_such_module_here:Handler").reason

    @pytest.mark.parametrize(
        ("source", "sentence"),
        [
            ("Handler = 7\n", "has no operation"),
            ("raise SystemExit(3)\n", "it called sys.exit(3)"),
            (handler("    def __init__(self):\n        self(1)\n" + OPERATION), "could not be created: TypeError"),
            (
                handler("    def __init__(self, db, url='x', *more):\n        pass\n" + OPERATION),
                "takes the arguments db, but the host creates the handler without arguments; move the work of __init__",
            ),
            (
                "import os\nos.environ['NO_KEY']\n",
                "KeyError: 'NO_KEY'; a worker sees only declared secrets of the host",
            ),
            (
                "import os\nos.environ['NO_KEY']\n",
                "declare [secrets.NO_KEY] in handler.toml, and read context.secrets[",
            ),
            (handler(OPERATION + "    @hookimpl\n    def unloaded(self): ...\n"), "the hooks are activate"),
            (STRICT, "could not be created: OSError: __"),
            ("def __getattr__(name):\n    raise OSError(name)\n", "could not be created: OSError: Handler"),
            (handler("    @operation\n    async def a(self, b: 'Nobody'): ...\n"), "annotations cannot be read"),
            (handler("    @operation\n    async def a(self, b: list | tuple): ...\n"), "cannot be decoded from JSON"),
        ],
        ids=[
            "not a handler",
            "exit at import",
            "constructor",
            "arguments",
            "environment",
            "secret",
            "unknown hook",
            "attribute of the class",
            "attribute of the module",
            "annotation",
            "request type",
        ],
    )
    def test_sentence(self, load_source: LoadSource, source: str, sentence: str) -> None:
        assert sentence in load_source(source).reason
