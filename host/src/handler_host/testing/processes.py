"""A handler in a real worker process, and a whole running host, for tests that are not asynchronous."""

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
from handler_host.config import CatalogConfig, Config, HandlerPolicy
from handler_host.dispatch.dispatcher import Dispatcher
from handler_host.dispatch.handler_calls import HandlerCalls
from handler_host.lifecycle.reports import HandlerStatus, LoadReceipt, UnloadReceipt
from handler_host.lifecycle.supervisor import Supervisor
from handler_host.plugin.errors import HostError
from handler_host.testing.loop_thread import LIMIT, Background

ADMIN_TOKEN = "the-admin-token-of-a-test"  # noqa: S105 - that is what it says
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class WorkerUnderTest:
    """One handler, with a supervisor of its own; its worker is a real process, started by the first call.

    What a call raises is the :class:`handler_host.plugin.errors.HostError` that a client would get.
    """

    def __init__(self, name: str, supervisor: Supervisor, background: Background) -> None:
        self.name = name
        self._supervisor = supervisor
        self._background = background

    @property
    def status(self) -> HandlerStatus:
        """What the host tells of it: state, generation, pid, last exit."""
        return self._supervisor.status(self.name)

    def pss(self) -> int:
        """Return what its worker takes, in bytes."""
        return self._background.run(self._supervisor.memory()).workers[self.name].pss

    def activate(self) -> LoadReceipt:
        """Activate it; returns when it is ready."""
        return self._background.run(self._supervisor.load(self.name))

    def unload(self) -> UnloadReceipt:
        """Unload it; returns when its process is gone."""
        return self._background.run(self._supervisor.unload(self.name))

    def ask(self, operation: str, request: object, *, timeout: float = LIMIT) -> Any:
        """Run an operation; return its answer. ``timeout`` is the dispatch's deadline, in seconds."""
        return self._background.run(self._ask(operation, request, timeout), timeout + LIMIT)

    def stream(self, operation: str, request: object) -> Generator[Any, None, None]:
        """Run an operation as a stream; closing the iterator is what a client does that leaves."""
        return self._background.iterate(self._stream(operation, request))

    def begin(self, operation: str, request: object, *, timeout: float = LIMIT) -> Future[Any]:
        """Begin an operation; ``result(30)`` of what is returned is the answer, and ``cancel()`` is to leave."""
        return self._background.start(self._ask(operation, request, timeout))

    def chat(self, text: str | Sequence[Mapping[str, Any]], **fields: Any) -> ChatResponse:
        """Run the operation ``chat`` with one question, or with messages; ``fields`` are further fields of the request.

        Returns the whole response.
        """
        return msgspec.convert(self.ask("chat", _chat_request(text, fields)), ChatResponse)

    def chat_chunks(self, text: str | Sequence[Mapping[str, Any]], **fields: Any) -> Generator[ChatChunk, None, None]:
        """Run the operation ``chat`` as a stream; close the iterator to leave before its end."""
        with closing(self.stream("chat", _chat_request(text, fields))) as chunks:
            for chunk in chunks:
                yield msgspec.convert(chunk, ChatChunk)

    def error_of(self, operation: str, request: object) -> HostError:
        """Return the error that an operation ends with; fails if there is none."""
        try:
            response = self.ask(operation, request)
        except HostError as error:
            return error
        raise AssertionError(f"no error, but {response!r}")

    def until(self, condition: Callable[[HandlerStatus], bool]) -> None:
        """Wait until the handler's status is as told; raises ``TimeoutError`` after a minute."""
        self._background.run(self._until(condition))

    async def _until(self, condition: Callable[[HandlerStatus], bool]) -> None:
        while not condition(self.status):  # noqa: ASYNC110 - the status is told by nobody
            await asyncio.sleep(0.005)

    async def _ask(self, operation: str, request: object, timeout: float) -> Any:
        body = msgspec.json.encode(request)
        async with self._supervisor.lease(self.name, operation) as lease:
            call = lease.call(operation, body, streamed=False, request_id="test", timeout=timeout)
            return json.loads(await call.read_response())

    async def _stream(self, operation: str, request: object) -> AsyncIterator[Any]:
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
    """Give a handler that is installed (an editable install will do), or lies in one of ``roots`` as installed.

    ``settings`` are its keys of ``[handlers.NAME]``, ``secrets`` the environment variables that it declares,
    ``policy`` the host's own keys (durations in seconds, sizes in bytes). At the end no process is left.
    """
    config = Config(
        defaults=HandlerPolicy(**{"preload": (), **(policy or {})}),
        catalog=CatalogConfig(roots=tuple(roots), include_sys_path=include_sys_path),
        data_dir=data_dir,
        handlers={name: dict(settings or {})},
    )
    supervisor = Supervisor(config, environ={**os.environ, **(secrets or {})})
    with Background() as background, background.entered(_started(supervisor)):
        yield WorkerUnderTest(name, supervisor, background)


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
        """Without a path: ``{url}/v1`` is the base URL of an OpenAI client."""
        self._log = log

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self._log.read_text()

    def json(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        """Send a request; return the status and the JSON of the answer."""
        data = None if body is None else msgspec.json.encode(body)
        names = {"Content-Type": "application/json", **{key.replace("_", "-"): value for key, value in headers.items()}}
        request = urllib.request.Request(self.url + path, data, names, method=method)  # noqa: S310 - it is http
        try:
            with _direct.open(request, timeout=LIMIT) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def admin(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Send a request as an operator; ``path`` comes after ``/admin``."""
        return self.json(method, f"/admin{path}", body, Authorization=f"Bearer {ADMIN_TOKEN}")


@contextmanager
def host_under_test(config: str = "", *, environ: Mapping[str, str] | None = None) -> Iterator[HostUnderTest]:
    """Run ``handler-host serve`` with the text of a ``host.toml`` and further environment variables.

    The port is a free one, and the admin token is ``ADMIN_TOKEN``; what of ``HANDLER_HOST_…``
    and of proxies stands in the environment does not count. The host is told to stop at the
    end, and killed if it does not.
    """
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HANDLER_HOST_") and not name.lower().endswith("_proxy")
    }
    variables = {**clean, "HANDLER_HOST_ADMIN_TOKEN": ADMIN_TOKEN, **(environ or {})}
    with tempfile.TemporaryDirectory(prefix="handler-host-") as directory:
        file, log = Path(directory, "host.toml"), Path(directory, "log")
        file.write_text(config)
        # What handlers keep goes with the host, and what others have kept is not looked at.
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


Worker = Callable[..., WorkerUnderTest]
"""The fixture ``worker``: takes the arguments of :func:`worker_under_test`."""
Host = Callable[..., HostUnderTest]
"""The fixture ``handler_host``: takes the arguments of :func:`host_under_test`."""


def _stop(process: subprocess.Popen[str]) -> None:
    # Twice: the second signal ends what a test has left under way.
    for number in (signal.SIGTERM, signal.SIGTERM):
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2)
            return
    try:
        process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
