"""Handler calls over HTTP, with real workers: they are dispatches like those of clients."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from handler_host.config import AuthConfig
from handler_host.config.loader import hash_key
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
    async def at_once(self, request: dict[str, Any]) -> list[str]:
        """Dispatch ``count`` times at the same time; return the code of each failure."""
        calls = [self.context.dispatch(request["to"], "wait", {}) for _ in range(request["count"])]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        return [f"{error.code}: {error.message}" for error in outcomes if isinstance(error, HostError)]

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
import asyncio
from typing import Any

from handler_host.plugin import Context, hookimpl, operation
from handler_host.plugin.errors import BY_CODE

class Handler:
    """Returns its name, or fails as it is configured to."""

    @hookimpl
    async def activate(self, context: Context) -> None:
        self.context = context

    @operation
    async def wait(self, request: dict[str, Any]) -> None:
        await asyncio.sleep(0.3)

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


class TestLimits:
    async def test_one_call_does_not_take_the_places_of_all(self, tmp_path: Path) -> None:
        """It has 64 dispatches in flight; further ones are refused, and the handler keeps running."""
        install_plugin(tmp_path, "caller", CALLER)
        install_plugin(tmp_path, "first", CALLED)
        async with running(tmp_path, policy={"max_concurrency": 100, "max_queue": 100}) as host:
            body = {"to": "first", "count": 70}
            status, failures = await host.json("POST", "/v1/handlers/caller/at_once", json=body)
            assert (status, len(failures)) == (200, 6)
            assert set(failures) == {"queue_full: a call of caller has 64 dispatches to other handlers in flight"}
            body = {"to": "first", "count": 64}
            assert await host.json("POST", "/v1/handlers/caller/at_once", json=body) == (200, [])

    async def test_a_handlers_dispatches_count_to_its_consumer(self, tmp_path: Path) -> None:
        """Also two handlers deep, and although the key may not use the other handler itself."""
        key = "a-consumer-key"
        consumers = {"a": {"hash": hash_key(key), "handlers": ["caller"]}}
        auth = AuthConfig(consumers=json.dumps({"consumers": consumers}), admin_token=hash_key(ADMIN))
        install_plugin(tmp_path, "caller", CALLER)
        install_plugin(tmp_path, "first", CALLED)
        async with running(tmp_path, auth=auth) as host:
            body, headers = {"to": "first", "count": 2}, {"Authorization": f"Bearer {key}"}
            response = await host.json("POST", "/v1/handlers/caller/several", json=body, headers=headers)
            assert response == (200, ["first", "first"])
            async with host.ask("GET", "/metrics", headers=OPERATOR) as metrics:
                lines = (await metrics.text()).splitlines()
        name = "handler_host_consumer_dispatches_total"
        assert f'{name}{{consumer="a",handler="first",result="ok"}} 2.0' in lines


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
