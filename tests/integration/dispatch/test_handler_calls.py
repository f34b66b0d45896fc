"""Handler calls over HTTP, with real workers: they are dispatches like those of clients."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.integration.http.serving import ADMIN, Host, running
from tests.support import install_plugin

CALLER = '''
import asyncio
from collections.abc import AsyncIterator
from typing import Any

from handler_host.plugin import Context, HostError, hookimpl, operation

class Handler:
    """Dispatches to the handler ``to``, with ``options``."""

    @hookimpl
    async def activate(self, context: Context) -> None:
        self.context = context

    @operation
    async def several(self, request: dict[str, Any]) -> list[Any]:
        """Dispatch ``count`` times, one after the other."""
        return [await self.whole(request) for _ in range(request["count"])]

    @operation
    async def whole(self, request: dict[str, Any]) -> Any:
        return await self.context.dispatch(request["to"], "where", {}, **request.get("options", {}))

    @operation
    async def streamed(self, request: dict[str, Any]) -> AsyncIterator[Any]:
        async for chunk in self.context.dispatch_stream(request["to"], "where", {}, **request.get("options", {})):
            yield chunk

    @operation
    def in_thread(self, request: dict[str, Any]) -> Any:
        return self.context.dispatch_from_thread(request["to"], "where", {}, **request.get("options", {}))
'''
CALLED = '''
from typing import Any

from handler_host.plugin import Context, hookimpl, operation
from handler_host.plugin.errors import BY_CODE

class Handler:
    """Returns its name, or fails as it is configured to."""

    @hookimpl
    async def activate(self, context: Context) -> None:
        self.context = context

    @operation
    async def where(self, request: dict[str, Any]) -> str:
        how = self.context.config.get("how")
        if how is not None:
            raise BY_CODE[how]("as configured")
        return self.context.handler
'''
FRAGILE = '''
import os
from pathlib import Path
from typing import Any

from handler_host.plugin import operation

class Handler:
    """Crashes in every other dispatch."""

    @operation
    async def where(self, request: dict[str, Any]) -> str:
        dispatches = Path(__file__).with_name("dispatches")
        with dispatches.open("a") as file:
            file.write("x")
        if dispatches.stat().st_size % 2:
            os._exit(3)
        return "fragile"
'''
OPERATOR = {"Authorization": f"Bearer {ADMIN}"}
FORMS = ["whole", "streamed", "in_thread"]


@contextlib.asynccontextmanager
async def hosted(tmp_path: Path, *, retried: bool = False, **handlers: Mapping[str, Any]) -> AsyncIterator[Host]:
    """Run a host with ``caller``, ``first``, ``second`` and ``fragile``; ``retried``: its operation may run twice."""
    install_plugin(tmp_path, "caller", CALLER)
    install_plugin(tmp_path, "first", CALLED)
    install_plugin(tmp_path, "second", CALLED)
    manifest = f"[operations.where]\nretry_on_crash = {str(retried).lower()}\n"
    install_plugin(tmp_path, "fragile", FRAGILE, manifest=manifest)
    async with running(tmp_path, handlers=handlers) as host:
        yield host


async def call(host: Host, form: str, to: str = "first", **options: Any) -> tuple[int, Any]:
    """Return the status and the JSON of a request to ``caller``, which dispatches to the handler ``to``."""
    body = {"to": to, "options": options}
    status, response = await host.json("POST", f"/v1/handlers/caller/{form}", json=body)
    if status == 200 and form == "streamed":
        (response,) = response
    return status, response


async def dispatches(host: Host) -> dict[str, str]:
    """Return the finished dispatches in /metrics: labels and count."""
    async with host.ask("GET", "/metrics", headers=OPERATOR) as response:
        lines = (await response.text()).splitlines()
    name = "handler_host_dispatches_total"
    return dict(line.removeprefix(name).rsplit(" ", 1) for line in lines if line.startswith(name + "{"))


class TestMetrics:
    async def test_each_handler_call_counts(self, tmp_path: Path) -> None:
        async with hosted(tmp_path) as host:
            assert (await host.json("POST", "/v1/handlers/first/where", json={}))[0] == 200
            body = {"to": "first", "count": 6}
            assert await host.json("POST", "/v1/handlers/caller/several", json=body) == (200, ["first"] * 6)
            assert await dispatches(host) == {
                '{handler="caller",operation="several",result="ok"}': "1.0",
                '{handler="first",operation="where",result="ok"}': "7.0",
            }

    async def test_failed_calls_count_with_their_code(self, tmp_path: Path) -> None:
        async with hosted(tmp_path, first={"how": "upstream_error"}) as host:
            assert (await call(host, "whole"))[0] == 502
            assert (await dispatches(host))['{handler="first",operation="where",result="upstream_error"}'] == "1.0"


class TestCrashRetry:
    @pytest.mark.parametrize("form", FORMS)
    async def test_same_for_client_and_handler(self, tmp_path: Path, form: str) -> None:
        async with hosted(tmp_path, retried=True) as host:
            assert await host.json("POST", "/v1/handlers/fragile/where", json={}) == (200, "fragile")
            assert await call(host, form, "fragile") == (200, "fragile")
            assert (await dispatches(host))['{handler="fragile",operation="where",result="handler_crashed"}'] == "2.0"

    async def test_only_where_the_manifest_allows_it(self, tmp_path: Path) -> None:
        async with hosted(tmp_path) as host:
            status, response = await call(host, "whole", "fragile")
            assert (status, response["error"]["code"]) == (502, "handler_crashed")


class TestFallback:
    @pytest.mark.parametrize("form", FORMS)
    async def test_is_the_default(self, tmp_path: Path, form: str) -> None:
        async with hosted(tmp_path, first={"how": "upstream_error", "fallback": ("second",)}) as host:
            assert await call(host, form) == (200, "second")

    @pytest.mark.parametrize("form", FORMS)
    async def test_can_be_refused(self, tmp_path: Path, form: str) -> None:
        async with hosted(tmp_path, first={"how": "upstream_error", "fallback": ("second",)}) as host:
            status, response = await call(host, form, fallback=False)
            assert (status, response["error"]["message"]) == (502, "first: as configured")
            assert host.supervisor.status("second").state == "cold"

    async def test_never_goes_to_a_handler_that_waits(self, tmp_path: Path) -> None:
        async with hosted(tmp_path, first={"how": "upstream_error", "fallback": ("caller", "second")}) as host:
            assert await call(host, "whole") == (200, "second")
            assert await dispatches(host) == {
                '{handler="caller",operation="whole",result="ok"}': "1.0",
                '{handler="first",operation="where",result="upstream_error"}': "1.0",
                '{handler="second",operation="where",result="ok"}': "1.0",
            }

    async def test_does_not_hide_a_cycle(self, tmp_path: Path) -> None:
        async with hosted(tmp_path, caller={"fallback": ("second",)}) as host:
            status, response = await call(host, "whole", to="caller")
            assert (status, response["error"]["code"]) == (508, "dispatch_cycle")
            assert "caller → caller" in response["error"]["message"]

    async def test_names_the_fallbacks_that_failed(self, tmp_path: Path) -> None:
        failing = {"how": "upstream_error"}
        async with hosted(tmp_path, first={**failing, "fallback": ("second",)}, second=failing) as host:
            _, response = await call(host, "whole")
            expected = "first: as configured (its fallbacks failed, too: second: upstream_error)"
            assert (response["error"]["message"], response["error"]["code"]) == (expected, "upstream_error")
