"""The process of a worker, its environment, its secrets and its errors, by all three launchers."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import signal
import sys
from pathlib import Path

import pytest

from handler_host.plugin.errors import (
    HandlerFault,
    HandlerUnavailable,
    InvalidInput,
    UnknownOperation,
    UpstreamError,
    UpstreamRateLimited,
)
from handler_host.workers.runtime.process_setup import LOADING_THRESHOLD
from tests.support import (
    WORKERS,
    children_of,
    error_of,
    gone,
    install_plugin,
    install_puppet,
    supervisor_harness,
    until,
    within,
)

MANIFEST = """
title = "Puppet"
[secrets.PUPPET_KEY]
required = true
description = "a key"
[secrets.SPARE_KEY]
required = false
[config.control]
type = "string"
"""
ENVIRON = {**os.environ, "PUPPET_KEY": "puppet-secret-value", "OTHER_KEY": "other-secret-value", "LC_ALL": "C.UTF-8"}


@pytest.mark.parametrize("isolation", ["process", "exec"])
async def test_a_worker_sees_only_its_own_secrets(tmp_path: Path, isolation: str) -> None:
    install_plugin(tmp_path, "puppet", (WORKERS / "puppet.py").read_text(), attribute="Puppet", manifest=MANIFEST)
    async with supervisor_harness(tmp_path, environ=ENVIRON, policy={"isolation": isolation}) as host:
        seen = await host.ask("puppet", "environment")
        assert seen["secrets"] == {"PUPPET_KEY": "puppet-secret-value"}
        assert seen["environ"]["PUPPET_KEY"] == "puppet-secret-value"
        assert seen["environ"]["LC_ALL"] == "C.UTF-8"
        assert seen["environ"]["PYDANTIC_DISABLE_PLUGINS"] == "__all__"
        assert "OTHER_KEY" not in seen["environ"]
        assert "secret-value" not in seen["initial"]
        assert "secret-value" not in seen["shown"]


@pytest.mark.parametrize("isolation", ["process", "exec"])
async def test_a_worker_leads_a_group_and_is_killed_first(tmp_path: Path, isolation: str) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path, policy={"isolation": isolation}) as host:
        seen = await host.ask("puppet", "environment")
        assert seen["group"] == seen["pid"] == host.pid()
        assert seen["oom_score_adj"] >= 500
        parent = host.pid() in children_of(os.getpid())
        assert parent is (isolation == "exec")


COLLECTING = """
import gc
from handler_host.plugin import hookimpl, operation

class Handler:
    @hookimpl
    def activate(self):
        self.loading = list(gc.get_threshold())
        self.frozen = gc.get_freeze_count()
        self.made = [[number] for number in range(100_000)]

    @operation
    def collector(self) -> dict:
        frozen = gc.get_freeze_count()
        return {"loading": self.loading, "frozen": frozen - self.frozen, "serving": list(gc.get_threshold())}
"""


@pytest.mark.parametrize("isolation", ["process", "exec"])
async def test_gc_is_reduced_while_a_handler_is_loaded(tmp_path: Path, isolation: str) -> None:
    install_plugin(tmp_path, "collecting", COLLECTING)
    async with supervisor_harness(tmp_path, policy={"isolation": isolation}) as host:
        seen = await within(host.ask("collecting", "collector"))
        assert seen["loading"][0] == LOADING_THRESHOLD
        assert seen["frozen"] > 100_000
        assert seen["serving"] == list(gc.get_threshold())


SPAWNING = """
import subprocess
from handler_host.plugin import operation

class Handler:
    @operation
    def descriptors(self) -> str:
        return subprocess.run(["ls", "-l", "/proc/self/fd"], close_fds=False, capture_output=True, text=True).stdout
"""


@pytest.mark.parametrize("isolation", ["process", "exec"])
async def test_child_processes_of_a_plugin_do_not_inherit_the_channel(tmp_path: Path, isolation: str) -> None:
    install_plugin(tmp_path, "puppet", SPAWNING)
    async with supervisor_harness(tmp_path, handlers={"puppet": {}}, policy={"isolation": isolation}) as host:
        shown = await host.ask("puppet", "descriptors")
        assert "pipe:" in shown
        assert "socket:" not in shown


@pytest.mark.parametrize("isolation", ["exec", "inline"])
async def test_the_other_launchers_use_the_same_channel(
    tmp_path: Path, isolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An inline handler is imported into this process: under a name of its own, and removed again.
    name = f"puppet_{isolation}"
    monkeypatch.setattr(sys, "path", list(sys.path))
    install_puppet(tmp_path, name)
    try:
        async with supervisor_harness(tmp_path, policy={"isolation": isolation}) as host:
            responses = await within(asyncio.gather(*(host.ask(name, number=number) for number in range(20))))
            assert [response["number"] for response in responses] == list(range(20))
            assert [chunk["number"] async for chunk in host.chunks(name, steps=["", "", ""])] == [0, 1, 2]
            receipt = await within(host.supervisor.unload(name))
            assert receipt.exit == "exit code 0"
            assert (await host.ask(name))["generation"] == 2
            assert (name in sys.modules) is (isolation == "inline")
    finally:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("isolation", ["process", "exec"])
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, errno.EMFILE])
async def test_without_pidfd_the_exit_of_a_process_is_noticed(
    tmp_path: Path, isolation: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old kernels lack it, some containers forbid it, and descriptors run out."""

    def refused(pid: int, flags: int = 0) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pidfd_open", refused)
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path, policy={"isolation": isolation}) as host:
        pid = (await within(host.ask()))["pid"]
        await within(host.supervisor.unload("puppet"))
        assert gone(pid)
        error = await error_of(host.ask("puppet", "script", steps=["exit:3"]))
        assert "exit code 3" in error.message
        pid = (await within(host.ask()))["pid"]
        for server in (await host.supervisor.memory()).fork_server_pids:
            os.kill(server, signal.SIGKILL)
            await until(lambda: gone(pid))
            assert (await within(host.ask()))["generation"] == 4


async def test_a_path_added_by_an_inline_handler_reaches_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = "puppet_beside_another"
    install_puppet(tmp_path, name)
    install_puppet(tmp_path)
    try:
        async with supervisor_harness(tmp_path, handlers={name: {"isolation": "inline"}}, installed=True) as host:
            assert (await host.ask(name))["pid"] == os.getpid()
            assert str(tmp_path) in sys.path
            await within(host.supervisor.rescan())
            assert (await host.ask())["pid"] != os.getpid()
    finally:
        sys.modules.pop(name, None)


async def test_a_missing_interpreter_is_a_clear_error(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    policy = {"isolation": "exec", "python": Path("/nowhere/python")}
    async with supervisor_harness(tmp_path, policy=policy) as host:
        error = await error_of(host.ask())
        assert error.code == "activation_failed"
        assert "/nowhere/python" in error.message


async def test_case_44_a_missing_secret_is_named_and_nothing_is_forked(tmp_path: Path) -> None:
    install_plugin(tmp_path, "puppet", (WORKERS / "puppet.py").read_text(), attribute="Puppet", manifest=MANIFEST)
    before = children_of(os.getpid())
    async with supervisor_harness(tmp_path, environ={"PATH": os.environ["PATH"]}) as host:
        assert host.state() == "missing-secret"
        error = await error_of(host.ask())
        assert isinstance(error, HandlerUnavailable)
        assert "PUPPET_KEY" in error.message
        assert children_of(os.getpid()) == before


async def test_case_44_a_plugin_of_another_major_is_not_imported(tmp_path: Path) -> None:
    marker = tmp_path / "imported"
    install_plugin(tmp_path, "puppet", f"open({str(marker)!r}, 'w')\n", group="handler_host.v2")
    async with supervisor_harness(tmp_path) as host:
        assert host.state() == "incompatible"
        assert isinstance(await error_of(host.ask()), HandlerUnavailable)
        assert not marker.exists()


async def test_only_errors_of_the_handler_show_their_detail(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        refused = await error_of(host.ask("puppet", "refuse"))
        assert isinstance(refused, InvalidInput)
        assert (refused.message, refused.param) == ("no good", "field")
        limited = await error_of(host.ask("puppet", "refuse", limit=True))
        assert isinstance(limited, UpstreamRateLimited)
        assert limited.retry_after == 7.0
        with caplog.at_level(logging.ERROR):
            failed = await error_of(host.ask("puppet", "fail"))
        assert isinstance(failed, HandlerFault)
        assert "secret detail" not in failed.message
        assert "ValueError: a secret detail" in caplog.text
        assert f"{os.sep}host{os.sep}runtime.py" not in caplog.text
        unknown = await error_of(host.ask("puppet", "ehco"))
        assert isinstance(unknown, UnknownOperation)
        assert (await host.ask("puppet", "in_thread", number=1))["answer"] == 2
        assert host.supervisor.status("puppet").generation == 1


WORDY = """
from handler_host.plugin import NativeResponse, UpstreamError, operation

class Handler:
    @operation("fail")
    async def fail(self, request: dict):
        error = UpstreamError("é" * request["size"], param="p" * request["size"], cause="c" * request["size"])
        if request["size"] > 100:
            error.response = NativeResponse(500, {}, b"r" * request["size"])
        raise error
"""


@pytest.mark.parametrize("max_frame", [4096, 1024 * 1024])
async def test_an_error_longer_than_a_frame_is_cut(tmp_path: Path, max_frame: int) -> None:
    install_plugin(tmp_path, "puppet", WORDY)
    async with supervisor_harness(tmp_path, handlers={"puppet": {}}, workers={"max_frame": max_frame}) as host:
        error = await error_of(host.ask("puppet", "fail", size=2_000_000))
        assert isinstance(error, UpstreamError)
        assert 200 < len(error.message) < max_frame
        assert set(error.message) == {"é", "…"}
        assert error.response is None
        error = await error_of(host.ask("puppet", "fail", size=100))
        assert (error.message, error.param) == ("é" * 100, "p" * 100)
        assert host.supervisor.status("puppet").generation == 1


TYPED = """
import msgspec
from handler_host.plugin import hookimpl, operation

class Item(msgspec.Struct):
    count: int

class Request(msgspec.Struct, forbid_unknown_fields=True):
    items: list[Item]

class Handler:
    @operation("sum.all", summary="Add them up.")
    async def add(self, request: Request) -> int:
        return sum(item.count for item in request.items)

    @operation("zero")
    async def zero(self) -> int:
        return 0
"""
TYPED_MANIFEST = '[operations."sum.all"]\nsummary = "Of the manifest."\n[operations.zero]\nsummary = "Return 0."\n'


async def test_an_invalid_type_is_named_by_its_path(tmp_path: Path) -> None:
    install_plugin(tmp_path, "puppet", TYPED, manifest=TYPED_MANIFEST)
    async with supervisor_harness(tmp_path, handlers={"puppet": {}}) as host:
        assert await host.ask("puppet", "sum.all", items=[{"count": 1}, {"count": 2}]) == 3
        error = await error_of(host.ask("puppet", "sum.all", items=[{"count": 1}, {"count": "two"}]))
        assert isinstance(error, InvalidInput)
        assert error.param == "items[1].count"
        unknown = await error_of(host.ask("puppet", "sum.all", items=[], itmes=1))
        assert "itmes" in unknown.message
        operations = host.supervisor.status("puppet").operations
        assert operations is not None
        assert operations[0].input_schema is not None
        assert (operations[0].name, operations[0].summary) == ("sum.all", "Add them up.")
        assert (operations[1].name, operations[1].summary) == ("zero", "Return 0."), "only the manifest has a summary"


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (
            (
                "from handler_host.plugin import hookimpl, operation\n"
                "class Handler:\n    @operation\n    def a(self): ...\n"
                "    @hookimpl\n    def activte(self): ...\n"
            ),
            "did you mean 'activate'?",
        ),
        (
            (
                "from handler_host.plugin import hookimpl, operation\n"
                "class Handler:\n    @operation\n    def a(self): ...\n"
                "    @hookimpl\n    def activate(self, contxt): ...\n"
            ),
            "contxt",
        ),
        (
            (
                "from handler_host.plugin import operation\n"
                "class Handler:\n    @operation\n    def a(self, one, two): ...\n"
            ),
            "takes one, two",
        ),
        ("class Handler:\n    def __init__(self): 1 / 0\n", "ZeroDivisionError"),
        (
            (
                "from handler_host.plugin import hookimpl, operation\n"
                "class Handler:\n    @operation\n    def a(self): ...\n"
                "    @hookimpl\n    async def activate(self): raise OSError('no disk')\n"
            ),
            "OSError: no disk",
        ),
    ],
)
async def test_a_mistake_of_an_author_is_explained_in_one_sentence(tmp_path: Path, source: str, told: str) -> None:
    install_plugin(tmp_path, "puppet", source)
    async with supervisor_harness(tmp_path, handlers={"puppet": {}}) as host:
        error = await error_of(host.ask())
        assert error.code in ("activation_failed", "unknown_operation")
        assert told in error.message
        assert "\n" not in error.message


async def test_a_handlers_log_has_its_name_and_request_id(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = (
        "import logging, warnings\nfrom handler_host.plugin import operation\nclass Handler:\n"
        "    @operation\n    async def say(self, request: dict) -> dict:\n"
        "        logging.getLogger('mine').warning('said %s', request['text'])\n"
        "        warnings.warn('careful', UserWarning)\n        return {}\n"
    )
    install_plugin(tmp_path, "puppet", source)
    with caplog.at_level(logging.INFO):
        async with supervisor_harness(tmp_path, handlers={"puppet": {}}) as host:
            await host.ask("puppet", "say", text="hello")
    (record,) = [record for record in caplog.records if record.getMessage() == "said hello"]
    assert record.name == "handler.puppet"
    assert record.levelno == logging.WARNING
    fields = record.__dict__["fields"]
    assert fields == {"handler": "puppet", "generation": 1, "logger": "mine", "request_id": "test"}
    assert any("careful" in record.getMessage() for record in caplog.records)


async def test_a_flood_of_output_is_bounded_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = (
        "from handler_host.plugin import operation\nclass Handler:\n    @operation\n    def flood(self) -> int:\n"
        "        for number in range(20000):\n            print('line', number)\n        return 1\n"
    )
    install_plugin(tmp_path, "puppet", source)
    with caplog.at_level(logging.INFO, "handler.puppet"):
        async with supervisor_harness(
            tmp_path, handlers={"puppet": {}}, workers={"output_lines_per_second": 10}
        ) as host:
            assert await host.ask("puppet", "flood") == 1
            await host.supervisor.unload("puppet")
    lines = [record.getMessage() for record in caplog.records if record.name == "handler.puppet"]
    assert len(lines) < 200
    assert any("more lines of output suppressed" in line for line in lines)


async def test_the_host_never_imports_a_plugin_or_its_dependencies(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        await host.ask()
        assert "puppet" not in sys.modules
