"""Exceptions of a plugin outside of ``Exception``: one error for that dispatch, and no other effect."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import pytest

from handler_host.plugin.errors import (
    ActivationFailed,
    HandlerCrashed,
    HandlerFault,
    InvalidInput,
    OutOfResources,
    UpstreamError,
)
from tests.support import error_of, install_plugin, supervisor_harness, until, within

RAISING = """
import asyncio, fcntl, os, resource, sys
from handler_host.plugin.errors import InvalidInput, UpstreamError
from handler_host.plugin import hookimpl, operation

KINDS = {
    kind.__name__: kind
    for kind in (
        KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError, StopIteration, StopAsyncIteration
    )
}

class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no text")

KINDS["Unspeakable"] = Unspeakable

class Handler:
    @hookimpl
    async def activate(self, context):
        if "at_activation" in context.config:
            raise KINDS[context.config["at_activation"]]()
        if "descriptors" in context.config:
            resource.setrlimit(resource.RLIMIT_NOFILE, (context.config["descriptors"],) * 2)
            open("/dev/null")

    @operation
    async def wait(self, request: dict) -> dict:
        await asyncio.sleep(request["seconds"])
        return {"waited": True}

    @operation
    async def coroutine(self, request: dict) -> dict:
        raise KINDS[request["kind"]]()

    @operation
    async def stream(self, request: dict):
        yield 1
        raise KINDS[request["kind"]]()

    @operation
    def thread(self, request: dict) -> dict:
        raise KINDS[request["kind"]]()

    @operation
    def iterator(self, request: dict):
        yield 1
        raise KINDS[request["kind"]]()

    @operation
    async def cancels_itself(self, request: dict) -> dict:
        asyncio.current_task().cancel()
        await asyncio.sleep(0)
        return {}

    @operation
    async def ends_the_loop(self, request: dict) -> dict:
        asyncio.get_running_loop().call_soon(sys.exit, 3)
        await asyncio.Event().wait()

    @operation
    async def without_descriptors(self, request: dict) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        open("/dev/null")

    @operation
    async def upstream_without_descriptors(self, request: dict) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        try:
            open("/dev/null")
        except OSError as error:
            raise UpstreamError("no provider") from error

    @operation
    async def locked_twice(self, request: dict) -> None:
        for _ in range(2):
            fcntl.flock(os.open(__file__, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)

    @operation
    async def odd_error(self, request: dict) -> dict:
        raise InvalidInput({"not": "a text"}, param=7, retry_after="soon")
"""
KINDS = (
    "KeyboardInterrupt",
    "SystemExit",
    "GeneratorExit",
    "CancelledError",
    "StopIteration",
    "StopAsyncIteration",
    "Unspeakable",
)


@pytest.mark.parametrize("operation", ["coroutine", "stream", "thread", "iterator"])
async def test_any_exception_of_an_operation_leaves_the_worker_alive(tmp_path: Path, operation: str) -> None:
    install_plugin(tmp_path, "puppet", RAISING)
    async with supervisor_harness(tmp_path, handlers={"puppet": {}}) as host:
        other = host.start(host.ask("puppet", "wait", seconds=0.1))
        for kind in KINDS:
            chunks: list[object] = []

            async def read(kind: str = kind, chunks: list[object] = chunks) -> None:
                async for chunk in host.chunks("puppet", operation, kind=kind):
                    chunks.append(chunk)

            error = await error_of(read())
            assert isinstance(error, HandlerFault), kind
            assert operation in error.message
            assert chunks == ([1] if operation in ("stream", "iterator") else [])
            assert isinstance(await error_of(host.ask("puppet", operation, kind=kind)), HandlerFault)
        assert await within(other) == {"waited": True}
        status = host.supervisor.status("puppet")
        assert (status.generation, status.in_flight) == (1, 0)


async def test_an_operation_that_cancels_itself_gets_a_response(tmp_path: Path) -> None:
    install_plugin(tmp_path, "puppet", RAISING)
    async with supervisor_harness(tmp_path, handlers={"puppet": {}}) as host:
        assert isinstance(await error_of(host.ask("puppet", "cancels_itself")), HandlerFault)


async def test_an_error_with_odd_content_does_not_break_the_channel(tmp_path: Path) -> None:
    install_plugin(tmp_path, "puppet", RAISING)
    async with supervisor_harness(tmp_path, handlers={"puppet": {}}) as host:
        assert isinstance(await error_of(host.ask("puppet", "odd_error")), InvalidInput)
        assert host.supervisor.status("puppet").generation == 1


@pytest.mark.parametrize("kind", ["KeyboardInterrupt", "GeneratorExit", "CancelledError", "Unspeakable"])
@pytest.mark.parametrize("isolation", ["process", "inline"])
async def test_any_exception_of_activate_is_the_reason(
    tmp_path: Path, kind: str, isolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = f"raising_{isolation}_{kind.lower()}"
    install_plugin(tmp_path, name, RAISING)
    handlers = {name: {"at_activation": kind}}
    async with supervisor_harness(tmp_path, handlers=handlers, policy={"isolation": isolation}) as host:
        error = await error_of(host.ask(name, "wait"))
        assert isinstance(error, ActivationFailed)
        assert "activate failed" in error.message
        assert kind in error.message
        assert error.retryable, "it may come from a network"


@pytest.mark.parametrize("raised", ["KeyboardInterrupt", "GeneratorExit", "asyncio.CancelledError"])
async def test_any_exception_of_an_import_is_the_reason(tmp_path: Path, raised: str) -> None:
    install_plugin(tmp_path, "puppet", f"import asyncio\nraise {raised}\n")
    async with supervisor_harness(tmp_path) as host:
        error = await error_of(host.ask())
        assert isinstance(error, ActivationFailed)
        assert raised.rpartition(".")[2] in error.message


async def test_a_client_that_leaves_causes_no_handler_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    install_plugin(tmp_path, "puppet", RAISING)
    async with supervisor_harness(tmp_path, handlers={"puppet": {}}) as host:
        await host.ask("puppet", "wait", seconds=0)
        asked = host.start(host.ask("puppet", "wait", seconds=60))
        await asyncio.sleep(0)
        asked.cancel()
        await asyncio.wait({asked})
        await host.ask("puppet", "wait", seconds=0)
    assert "failed" not in caplog.text


async def test_a_callback_that_ends_the_worker_is_a_crash(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    install_plugin(tmp_path, "puppet", RAISING)
    with caplog.at_level(logging.INFO):
        async with supervisor_harness(tmp_path, handlers={"puppet": {}}) as host:
            assert isinstance(await error_of(host.ask("puppet", "ends_the_loop")), HandlerCrashed)
            await until(lambda: host.state() == "cold")
            assert await host.ask("puppet", "wait", seconds=0) == {"waited": True}
    assert "SystemExit: 3" in caplog.text


CLOSING = """
import asyncio
from handler_host.plugin import hookimpl, operation

class Handler:
    @hookimpl
    async def activate(self, context):
        context.on_close(lambda: context.log.warning("the first is closed"))
        context.on_close(self.fail)

    async def fail(self):
        raise KIND()

    @operation
    def nothing(self) -> None: ...
"""


@pytest.mark.parametrize("kind", ["SystemExit", "GeneratorExit", "asyncio.CancelledError"])
async def test_any_exception_of_a_closing_callback_stops_no_other(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    install_plugin(tmp_path, "puppet", CLOSING.replace("KIND", kind))
    async with supervisor_harness(tmp_path, handlers={"puppet": {}}) as host:
        await host.ask("puppet", "nothing")
        receipt = await within(host.supervisor.unload("puppet"))
    assert receipt.exit == "exit code 0"
    assert "the first is closed" in caplog.text
    assert "closing failed in Handler.fail" in caplog.text


async def test_a_limit_of_the_system_is_no_fault_of_the_handler(tmp_path: Path) -> None:
    install_plugin(tmp_path, "raising", RAISING)
    async with supervisor_harness(tmp_path) as host:
        error = await error_of(host.ask("raising", "without_descriptors"))
        assert isinstance(error, OutOfResources)
        assert error.message.endswith("file of without_descriptors: Too many open files; raise ulimit -n")
        assert (await host.ask("raising", "wait", seconds=0))["waited"]


async def test_a_providers_failure_without_descriptors_is_told(tmp_path: Path) -> None:
    install_plugin(tmp_path, "raising", RAISING)
    async with supervisor_harness(tmp_path) as host:
        error = await error_of(host.ask("raising", "upstream_without_descriptors"))
        assert isinstance(error, UpstreamError)
        assert error.message == "no provider"


async def test_a_limit_of_the_system_at_activation_is_no_fault_of_the_handler(tmp_path: Path) -> None:
    install_plugin(tmp_path, "raising", RAISING)
    async with supervisor_harness(tmp_path, handlers={"raising": {"descriptors": 3}}) as host:
        for _ in range(2):
            error = await error_of(host.ask("raising", "wait", seconds=0))
            assert isinstance(error, OutOfResources)
            assert error.retry_after == 1.0
            assert "Too many open files: '/dev/null'; raise ulimit -n" in error.message


async def test_a_busy_lock_of_a_handler_is_no_limit_of_the_system(tmp_path: Path) -> None:
    install_plugin(tmp_path, "raising", RAISING)
    async with supervisor_harness(tmp_path) as host:
        error = await error_of(host.ask("raising", "locked_twice"))
        assert isinstance(error, HandlerFault)
        assert "BlockingIOError" in error.message
