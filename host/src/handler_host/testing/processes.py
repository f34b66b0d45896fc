"""A handler in a real worker process, and a running host, for tests that are not asynchronous."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from handler_host.chat.types import ChatChunk, ChatResponse
from handler_host.config import CatalogConfig, Config, HandlerPolicy, MemoryConfig, ServerConfig, WorkersConfig
from handler_host.dispatch.dispatcher import Dispatcher
from handler_host.dispatch.handler_calls import HandlerCalls
from handler_host.lifecycle.reports import HandlerStatus, LoadReceipt, UnloadReceipt
from handler_host.lifecycle.supervisor import Supervisor
from handler_host.plugin.errors import HostError
from handler_host.server import serving
from handler_host.testing.loop_thread import TIMEOUT_S, LoopThread

LEAN_VARIABLE = "HANDLER_HOST_DEFAULTS__LEAN"
"""The one variable of the host that tests take from their caller: a suite runs with lean and with eager imports."""

ADMIN_TOKEN = "the-admin-token-of-a-test"  # noqa: S105 - for hosts on loopback that end with their test
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class WorkerUnderTest:
    """One handler, with a supervisor of its own; its worker is a real process, started by the first call.

    Calls raise the :class:`handler_host.plugin.errors.HostError` that a client would get.
    """

    def __init__(self, name: str, supervisor: Supervisor, thread: LoopThread) -> None:
        self.name = name
        self._supervisor = supervisor
        self._thread = thread

    @property
    def status(self) -> HandlerStatus:
        """The handler's status: state, generation, pid, last exit."""
        return self._supervisor.status(self.name)

    def pss(self) -> int:
        """Return the PSS of the worker, in bytes."""
        return self._thread.run(self._supervisor.memory()).workers[self.name].pss

    def activate(self) -> LoadReceipt:
        """Activate the handler; return when it is ready."""
        limit_s = self._limit_s()
        return self._thread.run(self._supervisor.load(self.name), limit_s)

    def unload(self) -> UnloadReceipt:
        """Unload the handler; return when its process is gone."""
        return self._thread.run(self._supervisor.unload(self.name))

    def dispatch(self, operation: str, request: object, *, timeout: float = TIMEOUT_S) -> Any:
        """Run an operation and return its response; ``timeout`` is the deadline of the dispatch, in seconds."""
        limit_s = self._limit_s() + timeout
        return self._thread.run(self._dispatch(operation, request, timeout), limit_s)

    def dispatch_stream(self, operation: str, request: object) -> Generator[Any, None, None]:
        """Run an operation and yield its chunks; closing the iterator is what a client does that disconnects."""
        return self._thread.iterate(self._dispatch_stream(operation, request), self._limit_s())

    def start_dispatch(self, operation: str, request: object, *, timeout: float = TIMEOUT_S) -> Future[Any]:
        """Start an operation; ``result(30)`` of the future is its response, ``cancel()`` disconnects."""
        return self._thread.start(self._dispatch(operation, request, timeout))

    def chat(self, text: str | Sequence[Mapping[str, Any]], **fields: Any) -> ChatResponse:
        """Run the operation ``chat`` with one question, or with messages; ``fields`` are further fields of the request.

        Returns the whole response.
        """
        return msgspec.convert(self.dispatch("chat", _chat_request(text, fields)), ChatResponse)

    def chat_chunks(self, text: str | Sequence[Mapping[str, Any]], **fields: Any) -> Generator[ChatChunk, None, None]:
        """Run the operation ``chat`` as a stream; close the iterator to leave before its end."""
        with closing(self.dispatch_stream("chat", _chat_request(text, fields))) as chunks:
            for chunk in chunks:
                yield msgspec.convert(chunk, ChatChunk)

    def error_of(self, operation: str, request: object) -> HostError:
        """Run an operation that must fail, and return its error."""
        try:
            response = self.dispatch(operation, request)
        except HostError as error:
            return error
        raise AssertionError(f"no error, but {response!r}")

    def wait_until(self, condition: Callable[[HandlerStatus], bool]) -> None:
        """Wait until the handler's status meets a condition; raises ``TimeoutError`` after a minute."""
        self._thread.run(self._wait_until(condition))

    def _limit_s(self) -> float:
        """Return the seconds for a call that may activate the handler: more than the host itself gives it."""
        return self._supervisor.activate_timeout(self.name) + TIMEOUT_S

    async def _wait_until(self, condition: Callable[[HandlerStatus], bool]) -> None:
        while not condition(self.status):  # noqa: ASYNC110 - not every change of the status has an event
            await asyncio.sleep(0.005)

    async def _dispatch(self, operation: str, request: object, timeout: float) -> Any:
        body = msgspec.json.encode(request)
        async with self._supervisor.lease(self.name, operation) as lease:
            call = lease.call(operation, body, streamed=False, request_id="test", timeout=timeout)
            return json.loads(await call.read_response())

    async def _dispatch_stream(self, operation: str, request: object) -> AsyncIterator[Any]:
        body = msgspec.json.encode(request)
        async with self._supervisor.lease(self.name, operation) as lease:
            call = lease.call(operation, body, streamed=True, request_id="test", timeout=None)
            async for chunk in call:
                yield json.loads(chunk)


def _chat_request(text: str | Sequence[Mapping[str, Any]], fields: Mapping[str, Any]) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}] if isinstance(text, str) else list(text)
    return {"messages": messages, **fields}


@contextmanager
def worker_under_test(
    name: str,
    settings: Mapping[str, Any] | None = None,
    *,
    secrets: Mapping[str, str] | None = None,
    policy: Mapping[str, Any] | None = None,
    roots: Sequence[Path] = (),
    include_sys_path: bool = True,
    data_dir: Path | None = None,
) -> Iterator[WorkerUnderTest]:
    """Give a handler in a worker of its own; on exit, all of its processes are gone.

    Its imports are lean as far as its packages are compiled (``handler-host compile``); the environment variable
    ``HANDLER_HOST_DEFAULTS__LEAN`` (``off``, ``force``) changes that for a whole run of tests.

    Args:
        name: The handler, which is installed (an editable install will do) or lies in one of ``roots``.
        settings: Its keys of ``[handlers.NAME]``.
        secrets: Values of the environment variables that it declares as secrets.
        policy: The host's own keys of ``[handlers.NAME]``; durations in seconds, sizes in bytes.
        roots: Directories of installed distributions, in addition to ``sys.path``.
        include_sys_path: Whether handlers on ``sys.path`` count as installed.
        data_dir: Directory for the data of handlers; None: they have none.
    """
    config = _config(name, settings, policy, roots, data_dir, include_sys_path=include_sys_path)
    supervisor = Supervisor(config, environ={**os.environ, **(secrets or {})})
    with LoopThread() as thread, thread.enter(_started(supervisor)):
        yield WorkerUnderTest(name, supervisor, thread)


@contextmanager
def served_worker(
    name: str,
    settings: Mapping[str, Any] | None = None,
    *,
    secrets: Mapping[str, str] | None = None,
    policy: Mapping[str, Any] | None = None,
    roots: Sequence[Path] = (),
    data_dir: Path | None = None,
) -> Iterator[tuple[WorkerUnderTest, str]]:
    """Give a handler in a worker of its own, and the URL of a host in this process that serves it.

    The arguments are those of :func:`worker_under_test`.
    """
    config = _config(name, settings, policy, roots, data_dir)
    environ = {**os.environ, **(secrets or {})}
    with LoopThread() as thread, thread.enter(serving(config, environ)) as (supervisor, url):
        yield WorkerUnderTest(name, supervisor, thread), url


def _config(
    name: str,
    settings: Mapping[str, Any] | None,
    policy: Mapping[str, Any] | None,
    roots: Sequence[Path],
    data_dir: Path | None,
    *,
    include_sys_path: bool = True,
) -> Config:
    return Config(
        # Without a drain: it would wait for dispatches that a failed test has left in flight.
        server=ServerConfig(port=0, drain_timeout=0.0),
        # The handler under test stays active while the machine that runs the tests is short of memory.
        memory=MemoryConfig(pressure=None),
        workers=WorkersConfig(compile_lean=False),
        defaults=HandlerPolicy(**{"preload": (), **_lean_policy(), **(policy or {})}),
        catalog=CatalogConfig(roots=tuple(roots), include_sys_path=include_sys_path),
        data_dir=data_dir,
        handlers={name: dict(settings or {})},
    )


def _lean_policy() -> dict[str, Any]:
    value = os.environ.get(LEAN_VARIABLE)
    return {"lean": value} if value else {}


@asynccontextmanager
async def _started(supervisor: Supervisor) -> AsyncIterator[None]:
    dispatcher = Dispatcher(supervisor, supervisor.config.server.request_timeout)
    await supervisor.start(functools.partial(HandlerCalls, dispatcher))
    try:
        yield
    finally:
        supervisor.force_shutdown()
        await supervisor.close()


class HostUnderTest:
    """A running host: the command itself, in a process of its own, on a free port of 127.0.0.1."""

    def __init__(self, process: subprocess.Popen[str], url: str, log: Path) -> None:
        self.process = process
        self.url = url
        """The address, without a path: ``{url}/v1`` is the base URL of an OpenAI client."""
        self._log = log

    @property
    def log(self) -> str:
        """The log so far."""
        return self._log.read_text()

    def request(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        """Send a request; return the status and the JSON of the response."""
        data = None if body is None else msgspec.json.encode(body)
        names = {"Content-Type": "application/json", **{key.replace("_", "-"): value for key, value in headers.items()}}
        request = urllib.request.Request(self.url + path, data, names, method=method)  # noqa: S310 - always http
        try:
            with _opener.open(request, timeout=TIMEOUT_S) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def admin_request(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Send a request to an admin route, with the admin token; ``path`` comes after ``/admin``."""
        return self.request(method, f"/admin{path}", body, Authorization=f"Bearer {ADMIN_TOKEN}")


@contextmanager
def host_under_test(config: str = "", *, environ: Mapping[str, str] | None = None) -> Iterator[HostUnderTest]:
    """Run ``handler-host serve`` on a free port, with the text of a ``host.toml`` and further environment variables.

    The admin token is ``ADMIN_TOKEN``. The host does not see the variables ``HANDLER_HOST_…`` and the proxies of the
    caller's environment. On exit the host is stopped, and killed if that takes too long.
    """
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HANDLER_HOST_") and not name.lower().endswith("_proxy")
    }
    own = {"HANDLER_HOST_ADMIN_TOKEN": ADMIN_TOKEN, "HANDLER_HOST_WORKERS__COMPILE_LEAN": "false"}
    if LEAN_VARIABLE in os.environ:
        own[LEAN_VARIABLE] = os.environ[LEAN_VARIABLE]
    variables = {**clean, **own, **(environ or {})}
    with tempfile.TemporaryDirectory(prefix="handler-host-") as directory:
        file, log = Path(directory, "host.toml"), Path(directory, "log")
        file.write_text(config)
        # A data directory of its own, so that the test neither sees nor leaves data of other hosts.
        variables["XDG_DATA_HOME"] = directory
        command = [sys.executable, "-m", "handler_host", "serve", "--config", str(file), "--port", "0"]
        with log.open("w") as sink:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=sink, text=True, env=variables, cwd=directory
            )
        assert process.stdout is not None
        try:
            first = process.stdout.readline()
            if not first.startswith("ready "):
                raise AssertionError(f"the host did not start:\n{log.read_text()}")
            yield HostUnderTest(process, first.split()[1], log)
        finally:
            _stop(process)
            process.stdout.close()


WorkerFactory = Callable[..., WorkerUnderTest]
"""The type of the fixture ``worker``, which takes the arguments of :func:`worker_under_test`."""
HostFactory = Callable[..., HostUnderTest]
"""The type of the fixture ``handler_host``, which takes the arguments of :func:`host_under_test`."""


def _stop(process: subprocess.Popen[str]) -> None:
    # The second signal ends the dispatches that a test has left in flight.
    for number in (signal.SIGTERM, signal.SIGTERM):
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2)
            return
    try:
        process.wait(TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
