"""The fixtures, as the tests of a plugin's author use them."""

from __future__ import annotations

import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import openai
import pytest

from handler_host.plugin.errors import HandlerFault, InvalidInput
from handler_host.testing import HostFactory, Reply, Status, Upstream, WorkerFactory, processes
from handler_host.testing.loop_thread import TIMEOUT_S, LoopThread
from tests.support import gone, install_plugin, install_puppet

pytest_plugins = ["handler_host.testing.fixtures"]


def test_a_worker_answers_streams_and_goes(worker: WorkerFactory, tmp_path: Path) -> None:
    install_puppet(tmp_path)
    puppet = worker("puppet", roots=[tmp_path])
    assert puppet.status.state == "cold"
    response = puppet.dispatch("echo", {"a": 1})
    assert (response["a"], response["generation"]) == (1, 1)
    assert response["pid"] == puppet.status.pid != os.getpid()
    assert list(puppet.dispatch_stream("stream", {"steps": ["", ""]})) == [{"number": 0}, {"number": 1}]
    assert isinstance(puppet.error_of("refuse", {}), InvalidInput)
    assert isinstance(puppet.error_of("fail", {}), HandlerFault)
    with pytest.raises(AssertionError, match="no error, but"):
        puppet.error_of("echo", {})
    assert puppet.unload().generation == 1
    assert gone(response["pid"])
    assert puppet.activate().generation == 2


def test_an_activation_may_take_as_long_as_the_host_allows(
    worker: WorkerFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest of gpt_d allows 120 s, and the harness waited for 60."""
    limits: list[float] = []

    class Recorder(LoopThread):
        def run(self, work: Coroutine[Any, Any, Any], timeout_s: float = TIMEOUT_S) -> Any:
            limits.append(timeout_s)
            return super().run(work, timeout_s)

    monkeypatch.setattr(processes, "LoopThread", Recorder)
    install_puppet(tmp_path)
    puppet = worker("puppet", roots=[tmp_path], policy={"activate_timeout": 200.0})
    puppet.activate()
    puppet.dispatch("echo", {}, timeout=7)
    next(puppet.dispatch_stream("stream", {"steps": ["", ""]}))
    assert limits[:3] == [260.0, 267.0, 260.0]


def test_two_workers_and_their_settings_are_apart(worker: WorkerFactory, tmp_path: Path) -> None:
    install_plugin(tmp_path, "teller", TELLER, manifest=TELLER_MANIFEST)
    one = worker("teller", {"word": "one"}, roots=[tmp_path], secrets={"TELLER_KEY": "k1"})
    two = worker("teller", {"word": "two"}, roots=[tmp_path], data_dir=tmp_path / "data")
    assert one.dispatch("tell", {}) == ["one", "k1", False]
    assert two.dispatch("tell", {}) == ["two", None, True]


def test_no_process_is_left_when_the_test_is_over(tmp_path: Path) -> None:
    from handler_host.testing import worker_under_test

    install_puppet(tmp_path)
    with worker_under_test("puppet", roots=[tmp_path]) as puppet:
        pid = puppet.dispatch("echo", {})["pid"]
        hanging = puppet.start_dispatch("script", {"steps": ["forever"]})
        puppet.wait_until(lambda status: status.in_flight == 1)
    assert gone(pid)
    assert hanging.done()


def test_a_host_is_real_and_has_the_configuration_of_the_test(handler_host: HostFactory, upstream: Upstream) -> None:
    upstream.respond_with(Reply(("Bon", "jour")))
    config = f'[handlers.gpt_a]\nbase_url = "{upstream.base_url("openai")}"\nretries = 0\n'
    host = handler_host(config, environ={"HANDLER_HOST_API_KEYS": "a-consumer", "OPENAI_API_KEY": "a-key"})
    with openai.OpenAI(base_url=f"{host.url}/v1", api_key="a-consumer", max_retries=0) as client:
        response = client.chat.completions.create(model="gpt_a", messages=[{"role": "user", "content": "Hi"}])
    assert response.choices[0].message.content == "Bonjour"
    assert upstream.last_request.key == "a-key"
    assert host.request("GET", "/v1/handlers")[0] == 401
    status, content = host.request("GET", "/v1/handlers", Authorization="Bearer a-consumer")
    assert status == 200
    assert {"gpt_a", "gpt_e"} <= {handler["name"] for handler in content["handlers"]}
    assert host.admin_request("POST", "/handlers/gpt_a/unload")[0] == 200
    upstream.respond_with(Status(429, "slow down", retry_after=37))
    body: Any = {"messages": [{"role": "user", "content": "Hi"}]}
    status, content = host.request("POST", "/v1/handlers/gpt_a/chat", body, Authorization="Bearer a-consumer")
    assert (status, content["error"]["code"]) == (429, "upstream_rate_limited")
    assert "activated" in host.log


def test_a_host_that_does_not_start_says_why(handler_host: HostFactory) -> None:
    with pytest.raises(AssertionError, match=r"unknown key.*did you mean"):
        handler_host("[server]\nprot = 1\n")


TELLER = """
from handler_host.plugin import hookimpl, operation

class Handler:
    @hookimpl
    def activate(self, context):
        self.context = context

    @operation
    async def tell(self, request: dict) -> list:
        secret = self.context.secrets.get("TELLER_KEY")
        return [self.context.config["word"], secret and secret.reveal(), self.context.data_dir is not None]
"""
TELLER_MANIFEST = """
[config.word]
type = "string"
[secrets.TELLER_KEY]
required = false
"""
