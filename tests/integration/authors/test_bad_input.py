"""Each thing that an author gets wrong, in a real worker: one message with file, line, value and remedy."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from handler_host.lifecycle.status import HandlerStatus
from handler_host.plugin.errors import ActivationFailed, ConfigError, HandlerFault, HostError
from tests.support import error_of, install_plugin, supervisor_harness, within

HEAD = "from handler_host.plugin import hookimpl, operation\nclass Handler:\n"
ECHO = "    @operation\n    async def echo(self, request: dict) -> dict:\n        return request\n"


async def activation_error(root: Path, source: str, attribute: str = "Handler") -> str:
    """Return what a dispatch to a plugin of this source is told, and what the list says."""
    install_plugin(root, "mine", source, attribute=attribute)
    async with supervisor_harness(root) as host:
        error = await error_of(host.ask("mine"))
        status = host.supervisor.status("mine")
        assert isinstance(error, ActivationFailed)
        assert "\n" not in error.message
        assert (status.state, status.reason) == ("failed", error.message)
        return error.message


async def problem(root: Path, **plugin: str) -> HandlerStatus:
    """Return the status of a plugin that the catalog refuses; nothing is forked for it."""
    install_plugin(root, "mine", HEAD + ECHO, **plugin)
    async with supervisor_harness(root) as host:
        error = await error_of(host.ask("mine"))
        status = host.supervisor.status("mine")
        assert (status.generation, status.pid) == (0, None)
        assert status.reason is not None
        assert status.reason in error.message
        return status


MISTAKES = {
    "a module that is not there": (HEAD + ECHO, "nowhere:Handler", ["'mine.nowhere'", "package it, or correct"]),
    "an attribute that is not there": (
        "class Handlr:\n    pass\n",
        "Handler",
        ["mine/__init__.py) has no 'Handler'", "pyproject.toml; did you mean 'Handlr'?"],
    ),
    "a class that is no plugin": (
        "\n\nclass Handler:\n    def answer(self): ...\n",
        "Handler",
        ["mine/__init__.py:3) has no operation", "@handler_host.plugin.operation", "handler_host.chat.ChatHandler"],
    ),
    "a dependency that is not installed": (
        "import json\nimport not_installed_anywhere\n",
        "Handler",
        ["ModuleNotFoundError: No module named 'not_installed_anywhere'", "mine/__init__.py:2)"],
    ),
    "an import that raises": (
        "def connect():\n    raise OSError('no route')\nconnect()\n",
        "Handler",
        ["could not be imported: OSError: no route", "mine/__init__.py:2)"],
    ),
    "no Python": ("x = 1\nclass Handler\n", "Handler", ["SyntaxError: expected ':'", "mine/__init__.py:2)"]),
    "a hook that is asked for too much": (
        HEAD + ECHO + "    @hookimpl\n    def activate(self, context, sessions): ...\n",
        "Handler",
        ["mine/__init__.py:6): the hook 'activate' takes sessions, and is given context only"],
    ),
    "a hook whose argument is misspelt": (
        HEAD + ECHO + "    @hookimpl\n    async def deactivate(self, contxt): ...\n",
        "Handler",
        ["mine/__init__.py:6): the hook 'deactivate' takes contxt", "did you mean 'context'?"],
    ),
    "a hook that is misspelt": (
        HEAD + ECHO + "    @hookimpl\n    def deactivte(self): ...\n",
        "Handler",
        ["mine/__init__.py:6): there is no hook 'deactivte'; did you mean 'deactivate'?"],
    ),
    "an operation of two arguments": (
        HEAD + "    @operation\n    async def add(self, left: int, right: int) -> int: ...\n",
        "Handler",
        ["mine/__init__.py:3): operation 'add' takes left, right; it may take the request, and 'call'"],
    ),
    "a chat handler that does not yield": (
        "from handler_host.chat import ChatHandler\nclass Handler(ChatHandler):\n    async def stream(self, r): ...\n",
        "Handler",
        ["mine/__init__.py:3) has to be `async def`, and to yield"],
    ),
    "a chat handler without stream": (
        "from handler_host.chat import ChatHandler\n\nclass Handler(ChatHandler):\n    pass\n",
        "Handler",
        ["mine/__init__.py:3) has no stream: write `async def stream(self, request)`"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_what_keeps_a_plugin_from_being_activated_is_said_with_its_place_and_remedy(
    tmp_path: Path, mistake: str
) -> None:
    source, attribute, told = MISTAKES[mistake]
    if ":" in attribute:
        install_plugin(tmp_path, "mine", source)
        info = tmp_path / "mine-1.0.dist-info" / "entry_points.txt"
        info.write_text(f"[handler_host.v1]\nmine = mine.{attribute}\n")
        async with supervisor_harness(tmp_path) as host:
            message = (await error_of(host.ask("mine"))).message
    else:
        message = await activation_error(tmp_path, source, attribute)
    for words in told:
        assert words in message


async def test_a_top_level_module_that_is_missing_is_found_without_a_worker(tmp_path: Path) -> None:
    package = install_plugin(tmp_path, "mine", HEAD + ECHO)
    package.rename(tmp_path / "elsewhere")
    async with supervisor_harness(tmp_path) as host:
        status = host.supervisor.status("mine")
        assert status.state == "invalid"
        assert status.reason is not None
        assert "module 'mine' of entry point 'mine:Handler' is not installed" in status.reason
        assert f"correct {tmp_path}/mine-1.0.dist-info/entry_points.txt" in status.reason


async def test_the_log_has_the_authors_traceback_and_none_of_the_hosts_frames(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = (
        "from handler_host.chat import ChatHandler\nclass Handler(ChatHandler):\n"
        "    async def open(self):\n        self.connect()\n    def connect(self):\n        raise OSError('no route')\n"
        "    async def stream(self, request):\n        yield ''\n"
    )
    message = await activation_error(tmp_path, source)
    assert "activate failed: OSError: no route" in message
    assert "mine/__init__.py:6)" in message
    trace = "\n".join(record.getMessage() for record in caplog.records if "Traceback" in record.getMessage())
    assert "self.connect()" in trace
    assert "raise OSError('no route')" in trace
    assert "/host/" not in trace
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
        ("7", ["TypeError: stream", "mine/__init__.py:3) has yielded 7: yield a str or a ChatPiece"]),
    ],
)
async def test_a_stream_that_fails_after_its_first_piece_ends_with_an_error_and_the_log_says_where(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, second: str, logged: list[str]
) -> None:
    install_plugin(tmp_path, "mine", STREAM.format(second))
    async with supervisor_harness(tmp_path) as host:
        chunks = []

        async def read() -> None:
            async for chunk in host.chunks("mine", "chat", messages=[{"role": "user", "content": "Hi"}]):
                chunks.append(chunk)

        error = await error_of(read())
        assert chunks == [{"text": "Bon"}]
        assert isinstance(error, HandlerFault)
        assert "the log has it under test" in error.message
        assert host.supervisor.status("mine").generation == 1
        (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
        for words in logged:
            assert words in record.getMessage()
        assert "/host/" not in record.getMessage()


ANSWERS = """
from collections.abc import AsyncGenerator, AsyncIterator
import msgspec
from handler_host.plugin import operation

class Result(msgspec.Struct):
    value: float

def joined(pieces: list[int]) -> int:
    return "".join(map(str, pieces))

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
async def test_an_answer_that_does_not_fit_its_declared_type_is_an_error_that_names_the_operation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, operation: str, line: int, flaw: str, value: str
) -> None:
    install_plugin(tmp_path, "mine", ANSWERS)
    async with supervisor_harness(tmp_path) as host:
        error = await error_of(host.ask("mine", operation))
        assert isinstance(error, HandlerFault)
        assert f"{operation} answered with what " in error.message
        assert flaw in error.message
        assert await within(host.ask("mine", "right")) == [{"value": 1.0}, {"value": 2.5}]
        (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
        said = record.getMessage()
        assert f"mine/__init__.py:{line})" in said
        assert value in said
        assert "correct the answer, or the type that the method is annotated with" in said


async def test_pieces_of_a_stream_that_fit_are_delivered_before_the_one_that_does_not(tmp_path: Path) -> None:
    install_plugin(tmp_path, "mine", ANSWERS)
    async with supervisor_harness(tmp_path) as host:
        chunks = []

        async def read() -> None:
            async for chunk in host.chunks("mine", "stream"):
                chunks.append(chunk)

        error = await error_of(read())
        assert chunks == [1]
        assert "Expected `int`, got `str`" in error.message


MANIFEST = "[config.retries]\ntype = 'integer'\nmaximum = 9\n[config.model]\ntype = 'string'\nrequired = true\n"


@pytest.mark.parametrize(
    ("settings", "line", "said"),
    [
        ("retries = 'many'\nmodel = 'x'", 3, "retries: 'many' is not a whole number"),
        ("model = 'x'\nretries = 10", 4, "retries: 10 is more than 9"),
        ("model = 'x'\nretris = 1", 4, "unknown key 'retris'; did you mean 'retries'?"),
        ("retries = 1", 2, "model is missing (string); set it there"),
    ],
)
async def test_settings_that_do_not_fit_the_manifest_are_said_with_the_line_of_the_file(
    tmp_path: Path, settings: str, line: int, said: str
) -> None:
    from handler_host.config.loader import load_config
    from handler_host.lifecycle.supervisor import Supervisor

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
        assert error.message == f"{file}:{line}: [handlers.mine]: {said}"
        assert supervisor.status("mine").pid is None
    finally:
        await within(supervisor.close())


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (
            "title = 'Mine'\ntitle = \n",
            "handler.toml is no TOML: Invalid value (at line 2, column 9); correct it there",
        ),
        ("title = 'Mine'\n[secrets.KEY]\nrequird = true\n", "handler.toml:3: unknown key 'requird' in [secrets.KEY]"),
        ("[config.retries]\ntype = 'integer'\ndefault = 'x'\n", "handler.toml:3: config.retries.default: 'x' is not"),
        ("title = ''\n[config.retries]\ndefault = 'x'\n", "handler.toml:2: config.retries.type: is missing"),
        ("[memory]\nestimate = 'much'\n", "handler.toml:2: memory.estimate: "),
    ],
)
async def test_a_manifest_that_is_wrong_is_said_with_its_line(tmp_path: Path, manifest: str, said: str) -> None:
    status = await problem(tmp_path, manifest=manifest)
    assert status.state == "invalid"
    assert status.reason is not None
    assert said in status.reason


async def test_another_api_major_is_said_with_both_and_the_remedy(tmp_path: Path) -> None:
    status = await problem(tmp_path, group="handler_host.v2")
    assert status.state == "incompatible"
    assert status.reason is not None
    for words in ("mine 1.0 is made for API v2", "has API v1", "the group handler_host.v1"):
        assert words in status.reason


async def test_a_name_that_is_taken_is_said_with_all_who_claim_it_and_how_to_choose(tmp_path: Path) -> None:
    install_plugin(tmp_path, "theirs", HEAD + ECHO)
    (tmp_path / "theirs-1.0.dist-info" / "entry_points.txt").write_text("[handler_host.v1]\nmine = theirs:Handler\n")
    status = await problem(tmp_path)
    assert status.state == "conflict"
    assert status.reason is not None
    for words in ("mine and theirs", "uninstall all but one", '[catalog.pins] mine = "mine"'):
        assert words in status.reason


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


@pytest.mark.parametrize("where", ["import", "fork", "fork_in_a_thread"])
async def test_a_plugin_that_forks_gets_one_answer_from_one_worker(tmp_path: Path, where: str) -> None:
    """The other process comes back into the worker's code, where it has to end, and must not touch the channel."""
    install_plugin(tmp_path, "mine", FORKING.format(at_import="os.fork()" if where == "import" else ""))
    async with supervisor_harness(tmp_path) as host:
        for _ in range(3):
            if where != "import":
                assert await within(host.ask("mine", where)) == host.pid("mine")
            assert await within(host.ask("mine", "pid")) == host.pid("mine")
        assert host.supervisor.status("mine").generation == 1
        await within(host.supervisor.unload("mine"))


async def test_what_a_plugin_prints_reaches_the_log_under_its_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install_plugin(tmp_path, "mine", "print('hello from the import')\n" + HEAD + ECHO)
    with caplog.at_level(logging.INFO):
        async with supervisor_harness(tmp_path) as host:
            assert await within(host.ask("mine", number=1)) == {"number": 1}
            await within(host.supervisor.unload("mine"))
    (record,) = [record for record in caplog.records if record.getMessage() == "hello from the import"]
    assert record.name == "handler.mine"


async def test_a_function_that_blocks_keeps_nobody_waiting(tmp_path: Path) -> None:
    source = (
        HEAD
        + ECHO
        + "    @operation\n    def read(self, request: dict) -> str:\n        return open(request['fifo']).read()\n"
    )
    install_plugin(tmp_path, "mine", source)
    async with supervisor_harness(tmp_path) as host:
        host.control.make("go")
        blocked = host.begin(host.ask("mine", "read", fifo=str(host.control.directory / "go")))
        assert await within(host.ask("mine", number=1)) == {"number": 1}
        assert not blocked.done()
        await host.control.say("go")
        assert await within(blocked) == "now"
