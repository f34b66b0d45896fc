"""Mistakes of authors in a real worker: each becomes one message with file, line, value and remedy."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from handler_host.config.loader import load_config
from handler_host.lifecycle.supervisor import Supervisor
from handler_host.plugin.errors import ActivationFailed, ConfigError, HandlerFault, HostError
from tests.support import SupervisorHarness, error_of, install_plugin, supervisor_harness, within

HEAD = "from handler_host.plugin import hookimpl, operation\nclass Handler:\n"
ECHO = "    @operation\n    async def echo(self, request: dict) -> dict:\n        return request\n"


async def activation_error(root: Path, source: str, attribute: str = "Handler") -> str:
    """Return the error of a dispatch to a plugin with this source, which the list of handlers repeats."""
    install_plugin(root, "mine", source, attribute=attribute)
    async with supervisor_harness(root) as host:
        error = await error_of(host.ask("mine"))
        status = host.supervisor.status("mine")
        assert isinstance(error, ActivationFailed)
        assert "\n" not in error.message
        assert (status.state, status.reason) == ("failed", error.message)
        return error.message


async def catalog_problem(root: Path, **plugin: str) -> tuple[str, str]:
    """Return state and reason of a plugin that the catalog refuses; no worker is started for it."""
    install_plugin(root, "mine", HEAD + ECHO, **plugin)
    async with supervisor_harness(root) as host:
        error = await error_of(host.ask("mine"))
        status = host.supervisor.status("mine")
        assert (status.generation, status.pid) == (0, None)
        assert status.reason is not None
        assert status.reason in error.message
        return status.state, status.reason


async def read_all(host: SupervisorHarness, operation: str, chunks: list[object], **request: object) -> None:
    """Append the chunks of a stream to ``chunks``."""
    async for chunk in host.chunks("mine", operation, **request):
        chunks.append(chunk)


MISTAKES = {
    "missing module": (HEAD + ECHO, "nowhere:Handler", ["'mine.nowhere'", "package it, or correct"]),
    "missing attribute": (
        "class Handlr:\n    pass\n",
        "Handler",
        ["mine/__init__.py) has no 'Handler'", "pyproject.toml; did you mean 'Handlr'?"],
    ),
    "class without operations": (
        "\n\nclass Handler:\n    def answer(self): ...\n",
        "Handler",
        ["mine/__init__.py:3) has no operation", "@handler_host.plugin.operation", "handler_host.chat.ChatHandler"],
    ),
    "missing dependency": (
        "import json\nimport not_installed_anywhere\n",
        "Handler",
        [
            "ModuleNotFoundError: No module named 'not_installed_anywhere'; name its package in the dependencies",
            "mine/__init__.py:2)",
        ],
    ),
    "import that raises": (
        "def connect():\n    raise OSError('no route')\nconnect()\n",
        "Handler",
        ["could not be imported: OSError: no route", "mine/__init__.py:2)"],
    ),
    "syntax error": ("x = 1\nclass Handler\n", "Handler", ["SyntaxError: expected ':'", "mine/__init__.py:2)"]),
    "hook with an unknown argument": (
        HEAD + ECHO + "    @hookimpl\n    def activate(self, context, sessions): ...\n",
        "Handler",
        ["mine/__init__.py:6): the hook 'activate' takes sessions, but the host passes only context"],
    ),
    "misspelt hook argument": (
        HEAD + ECHO + "    @hookimpl\n    async def deactivate(self, contxt): ...\n",
        "Handler",
        ["mine/__init__.py:6): the hook 'deactivate' takes contxt", "did you mean 'context'?"],
    ),
    "misspelt hook": (
        HEAD + ECHO + "    @hookimpl\n    def deactivte(self): ...\n",
        "Handler",
        ["mine/__init__.py:6): unknown hook 'deactivte'; did you mean 'deactivate'?"],
    ),
    "operation with two arguments": (
        HEAD + "    @operation\n    async def add(self, left: int, right: int) -> int: ...\n",
        "Handler",
        ["mine/__init__.py:3): operation 'add' takes left, right; it may take only the request, and 'call'"],
    ),
    "chat handler that does not yield": (
        "from handler_host.chat import ChatHandler\nclass Handler(ChatHandler):\n    async def stream(self, r): ...\n",
        "Handler",
        ["mine/__init__.py:3) is not an asynchronous generator; write `async def`, and `yield` its chunks"],
    ),
    "chat handler without stream": (
        "from handler_host.chat import ChatHandler\n\nclass Handler(ChatHandler):\n    pass\n",
        "Handler",
        ["mine/__init__.py:3) has no stream; write `async def stream(self, request)`"],
    ),
}


class TestActivation:
    @pytest.mark.parametrize("mistake", MISTAKES)
    async def test_mistake_has_place_and_remedy(self, tmp_path: Path, mistake: str) -> None:
        source, attribute, parts = MISTAKES[mistake]
        if ":" in attribute:
            install_plugin(tmp_path, "mine", source)
            info = tmp_path / "mine-1.0.dist-info" / "entry_points.txt"
            info.write_text(f"[handler_host.v1]\nmine = mine.{attribute}\n")
            async with supervisor_harness(tmp_path) as host:
                message = (await error_of(host.ask("mine"))).message
        else:
            message = await activation_error(tmp_path, source, attribute)
        for part in parts:
            assert part in message

    async def test_a_long_reason_of_an_activation_is_shortened(self, tmp_path: Path) -> None:
        """It fits into a frame, and its start and its place stay."""
        source = (
            "from handler_host.chat import ChatHandler\nclass Handler(ChatHandler):\n"
            "    async def open(self):\n        raise OSError('no route' * 500_000)\n"
            "    async def stream(self, request):\n        yield ''\n"
        )
        message = await activation_error(tmp_path, source)
        assert "activate failed: OSError: no route" in message
        assert "mine/__init__.py:4)" in message
        assert len(message) < 5_000

    async def test_log_has_the_traceback_of_the_author_only(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        source = (
            "from handler_host.chat import ChatHandler\nclass Handler(ChatHandler):\n"
            "    async def open(self):\n        self.connect()\n"
            "    def connect(self):\n        raise OSError('no route')\n"
            "    async def stream(self, request):\n        yield ''\n"
        )
        message = await activation_error(tmp_path, source)
        assert "activate failed: OSError: no route" in message
        assert "mine/__init__.py:6)" in message
        trace = "\n".join(record.getMessage() for record in caplog.records if "Traceback" in record.getMessage())
        assert "self.connect()" in trace
        assert "raise OSError('no route')" in trace
        assert "/handler_host/" not in trace
        assert "pluggy" not in trace
        assert "importlib" not in trace


STREAM = (
    "from handler_host.chat import ChatHandler\nclass Handler(ChatHandler):\n    async def stream(self, request):\n"
    "        yield 'Bon'\n        yield {}\n"
)


@pytest.mark.parametrize(
    ("second", "logged"),
    [
        ("1 / 0", ["ZeroDivisionError: division by zero", "mine/__init__.py", "line 5", "1 / 0"]),
        ("7", ["TypeError: stream", "mine/__init__.py:3) yielded 7; yield a str or a chunk"]),
    ],
)
async def test_stream_that_fails_after_its_first_chunk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, second: str, logged: list[str]
) -> None:
    install_plugin(tmp_path, "mine", STREAM.format(second))
    async with supervisor_harness(tmp_path) as host:
        chunks: list[object] = []
        messages = [{"role": "user", "content": "Hi"}]
        error = await error_of(read_all(host, "chat", chunks, messages=messages))
        assert chunks == [{"type": "text", "text": "Bon"}]
        assert isinstance(error, HandlerFault)
        assert "see request test in the log" in error.message
        assert host.supervisor.status("mine").generation == 1
        (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
        for part in logged:
            assert part in record.getMessage()
        assert "/handler_host/" not in record.getMessage()


RESPONSES = """
from collections.abc import AsyncGenerator, AsyncIterator
import msgspec
from handler_host.plugin import operation

class Result(msgspec.Struct):
    value: float

def joined(chunks: list[int]) -> int:
    return "".join(map(str, chunks))

class Handler:
    @operation
    async def struct(self) -> Result:
        return Result(value="much")
    @operation
    def plain(self) -> int:
        return "7"
    @operation
    async def nothing(self) -> Result: ...
    @operation
    async def stream(self) -> AsyncIterator[int]:
        yield 1
        yield "two"
    @operation
    async def generator(self) -> AsyncGenerator[int, None]:
        yield 1
        yield "two"
    @operation(collect=joined)
    async def collected(self) -> AsyncIterator[int]:
        yield 1
    @operation
    async def object(self) -> dict:
        return {"value": object()}
    @operation
    async def right(self) -> list[Result]:
        return [Result(1), Result(2.5)]
"""


class TestResponseType:
    @pytest.mark.parametrize(
        ("operation", "line", "flaw", "value"),
        [
            ("struct", 13, "Expected `float`, got `str` - at `$.value`", "Result(value='much')"),
            ("plain", 16, "Expected `int`, got `str`", "'7'"),
            ("nothing", 19, "Expected `object`, got `null`", "None"),
            ("stream", 21, "Expected `int`, got `str` - at `$[1]`", "[1, 'two']"),
            ("generator", 25, "Expected `int`, got `str` - at `$[1]`", "[1, 'two']"),
            ("collected", 29, "Expected `int`, got `str`", "'1'"),
            ("object", 32, "object", "{'value': <object"),
        ],
    )
    async def test_error_names_the_operation(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, operation: str, line: int, flaw: str, value: str
    ) -> None:
        install_plugin(tmp_path, "mine", RESPONSES)
        async with supervisor_harness(tmp_path) as host:
            error = await error_of(host.ask("mine", operation))
            assert isinstance(error, HandlerFault)
            assert f"the response of {operation} " in error.message
            assert flaw in error.message
            assert await within(host.ask("mine", "right")) == [{"value": 1.0}, {"value": 2.5}]
            (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
            message = record.getMessage()
            assert f"mine/__init__.py:{line})" in message
            assert value in message
            assert "correct the response, or the return type of the method" in message

    async def test_chunks_before_the_wrong_one_are_delivered(self, tmp_path: Path) -> None:
        install_plugin(tmp_path, "mine", RESPONSES)
        async with supervisor_harness(tmp_path) as host:
            chunks: list[object] = []
            error = await error_of(read_all(host, "stream", chunks))
            assert chunks == [1]
            assert "Expected `int`, got `str`" in error.message


MANIFEST = "[config.retries]\ntype = 'integer'\nmaximum = 9\n[config.model]\ntype = 'string'\nrequired = true\n"


@pytest.mark.parametrize(
    ("settings", "line", "flaw"),
    [
        ("retries = 'many'\nmodel = 'x'", 3, "retries: 'many' is not a whole number"),
        ("model = 'x'\nretries = 10", 4, "retries: 10 is more than 9"),
        ("model = 'x'\nretris = 1", 4, "unknown key 'retris'; did you mean 'retries'?"),
        ("retries = 1", 2, "missing key model (string); set it there"),
    ],
)
async def test_setting_names_the_line_of_the_file(tmp_path: Path, settings: str, line: int, flaw: str) -> None:
    site = tmp_path / "site"
    install_plugin(site, "mine", HEAD + ECHO, manifest=MANIFEST)
    file = tmp_path / "host.toml"
    catalog = f'[catalog]\nroots = ["{site}"]\ninclude_sys_path = false\n'
    file.write_text(f"# mine\n[handlers.mine]\n{settings}\n{catalog}")
    supervisor = Supervisor(load_config(file, {}).config, environ={})
    await supervisor.start()
    try:

        async def ask() -> None:
            async with supervisor.lease("mine", "echo"):
                raise AssertionError("it was admitted")

        error: HostError = await error_of(ask())
        assert isinstance(error, ConfigError)
        assert error.message == f"{file}:{line}: [handlers.mine]: {flaw}"
        assert supervisor.status("mine").pid is None
    finally:
        await within(supervisor.close())


class TestCatalog:
    async def test_missing_top_level_module(self, tmp_path: Path) -> None:
        package = install_plugin(tmp_path, "mine", HEAD + ECHO)
        package.rename(tmp_path / "elsewhere")
        async with supervisor_harness(tmp_path) as host:
            status = host.supervisor.status("mine")
            assert status.state == "invalid"
            assert status.reason is not None
            assert "module 'mine' of entry point 'mine:Handler' is not installed" in status.reason
            assert f"correct {tmp_path}/mine-1.0.dist-info/entry_points.txt" in status.reason

    @pytest.mark.parametrize(
        ("manifest", "flaw"),
        [
            (
                "title = 'Mine'\ntitle = \n",
                "handler.toml: not valid TOML: Invalid value (at line 2, column 9); correct it there",
            ),
            (
                "title = 'Mine'\n[secrets.KEY]\nrequird = true\n",
                "handler.toml:3: unknown key 'requird' in [secrets.KEY]",
            ),
            (
                "[config.retries]\ntype = 'integer'\ndefault = 'x'\n",
                "handler.toml:3: config.retries.default: 'x' is not",
            ),
            ("title = ''\n[config.retries]\ndefault = 'x'\n", "handler.toml:2: config.retries.type: is missing"),
            ("[memory]\nestimate = 'much'\n", "handler.toml:2: memory.estimate: "),
        ],
    )
    async def test_invalid_manifest(self, tmp_path: Path, manifest: str, flaw: str) -> None:
        state, reason = await catalog_problem(tmp_path, manifest=manifest)
        assert state == "invalid"
        assert flaw in reason

    async def test_other_api_major(self, tmp_path: Path) -> None:
        state, reason = await catalog_problem(tmp_path, group="handler_host.v2")
        assert state == "incompatible"
        for part in ("mine 1.0 is for API v2", "has API v1", "the group handler_host.v1"):
            assert part in reason

    async def test_name_claimed_twice(self, tmp_path: Path) -> None:
        install_plugin(tmp_path, "theirs", HEAD + ECHO)
        entry_points = tmp_path / "theirs-1.0.dist-info" / "entry_points.txt"
        entry_points.write_text("[handler_host.v1]\nmine = theirs:Handler\n")
        state, reason = await catalog_problem(tmp_path)
        assert state == "conflict"
        for part in ("mine and theirs", "uninstall all but one", '[catalog.pins] mine = "mine"'):
            assert part in reason


FORKING = """
import os
from handler_host.plugin import operation

{at_import}

class Handler:
    @operation
    async def pid(self) -> int:
        return os.getpid()
    @operation
    async def fork(self) -> int:
        os.fork()
        return os.getpid()
    @operation
    def fork_in_a_thread(self) -> int:
        os.fork()
        return os.getpid()
"""


class TestProcess:
    @pytest.mark.parametrize("where", ["import", "fork", "fork_in_a_thread"])
    async def test_fork_in_the_plugin(self, tmp_path: Path, where: str) -> None:
        """The child returns into the worker's code, where it must exit without touching the channel."""
        install_plugin(tmp_path, "mine", FORKING.format(at_import="os.fork()" if where == "import" else ""))
        async with supervisor_harness(tmp_path) as host:
            for _ in range(3):
                if where != "import":
                    assert await within(host.ask("mine", where)) == host.pid("mine")
                assert await within(host.ask("mine", "pid")) == host.pid("mine")
            assert host.supervisor.status("mine").generation == 1
            await within(host.supervisor.unload("mine"))

    async def test_output_is_logged(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        install_plugin(tmp_path, "mine", "print('hello from the import')\n" + HEAD + ECHO)
        with caplog.at_level(logging.INFO):
            async with supervisor_harness(tmp_path) as host:
                assert await within(host.ask("mine", number=1)) == {"number": 1}
                await within(host.supervisor.unload("mine"))
        (record,) = [record for record in caplog.records if record.getMessage() == "hello from the import"]
        assert record.name == "handler.mine"

    async def test_blocking_function_does_not_block_others(self, tmp_path: Path) -> None:
        read = (
            "    @operation\n    def read(self, request: dict) -> str:\n        return open(request['fifo']).read()\n"
        )
        install_plugin(tmp_path, "mine", HEAD + ECHO + read)
        async with supervisor_harness(tmp_path) as host:
            host.control.make("go")
            blocked = host.start(host.ask("mine", "read", fifo=str(host.control.directory / "go")))
            assert await within(host.ask("mine", number=1)) == {"number": 1}
            assert not blocked.done()
            await host.control.signal("go")
            assert await within(blocked) == "now"
