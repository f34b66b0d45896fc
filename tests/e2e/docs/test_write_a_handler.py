"""The recipes for plugin authors run as they stand, in real workers, against a scripted provider."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from handler_host.catalog.manifest import parse_manifest
from handler_host.plugin.errors import InvalidInput
from handler_host.testing import NativeConformance, Reply, Upstream
from tests.support import error_of, install_plugin, supervisor_harness, within

PAGE = (Path(__file__).parents[3] / "docs/how-to/write-a-handler.md").read_text()
(MANIFEST,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
CHAT, NATIVE, TOOLS, TYPED, STATE = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


async def test_the_recipe_for_a_provider_streams_the_providers_text(tmp_path: Path) -> None:
    assert set(parse_manifest(MANIFEST, "handler.toml").secrets) == {"MY_GPT_KEY"}
    install_plugin(tmp_path, "my_gpt", CHAT, attribute="MyGpt", manifest=MANIFEST)
    upstream = Upstream(key="a-key")
    async with upstream.serve():
        upstream.respond_with(Reply(("Bon", "jour")))
        settings = {"my_gpt": {"base_url": upstream.base_url("openai")}}
        async with supervisor_harness(tmp_path, handlers=settings, environ={"MY_GPT_KEY": "a-key"}) as host:
            messages = [{"role": "user", "content": "Hello"}]
            response = await within(host.ask("my_gpt", "chat", messages=messages))
            assert response["content"] == [{"type": "text", "text": "Bonjour"}]
            chunks = [chunk async for chunk in host.chunks("my_gpt", "chat", messages=messages)]
            assert [chunk["text"] for chunk in chunks if chunk["type"] == "text"] == ["Bon", "jour"]
        assert upstream.last_request.parsed.model == "small"
        assert [turn.text for turn in upstream.last_request.parsed.turns] == ["Hello"]


@pytest.fixture(scope="class", autouse=True)
def _recipe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Install the recipe before the class's own set-up looks for it."""
    if request.cls is not None:
        root = tmp_path_factory.mktemp("plugins")
        manifest = f'[operations.chat]\n[operations."openai.chat"]\n{MANIFEST}'
        install_plugin(root, "my_gpt", CHAT + NATIVE, attribute="MyNativeGpt", manifest=manifest)
        request.cls.roots = (root,)


class TestTheRecipeForANativeOperation(NativeConformance):
    handler = "my_gpt"
    operations = ("openai.chat",)
    secrets = {"MY_GPT_KEY": "a-key"}


async def test_the_recipe_for_tools_calls_a_tool_and_reads_its_result(tmp_path: Path) -> None:
    install_plugin(tmp_path, "clerk", TOOLS, attribute="Clerk")
    question = {"role": "user", "content": "How warm is it in Rome?"}
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    async with supervisor_harness(tmp_path) as host:
        response = await within(host.ask("clerk", "chat", messages=[question], tools=[tool]))
        assert response["finish_reason"] == "tool_calls"
        (call,) = response["content"]
        assert (call["type"], call["name"], call["arguments"]) == ("tool_call", "weather", '{"city": "Rome"}')
        called = {"role": "assistant", "content": response["content"]}
        result = {"role": "tool", "tool_call_id": call["id"], "content": "31 degrees"}
        response = await within(host.ask("clerk", "chat", messages=[question, called, result], tools=[tool]))
        assert response["content"] == [{"type": "text", "text": "The tool said: 31 degrees"}]
        assert response["finish_reason"] == "stop"
        without = await within(host.ask("clerk", "chat", messages=[question]))
        assert without["content"] == [{"type": "text", "text": "I have no tools."}]


async def test_the_recipe_for_typed_operations_validates_its_input(tmp_path: Path) -> None:
    install_plugin(tmp_path, "calculator", TYPED, attribute="Calculator")
    async with supervisor_harness(tmp_path) as host:
        assert await within(host.ask("calculator", "add", numbers=[1, 2.5])) == {"value": 3.5}
        assert await within(host.ask("calculator", "mean", numbers=[1, 2])) == {"value": 1.5}
        empty = await error_of(host.ask("calculator", "mean", numbers=[]))
        assert (type(empty), empty.param) == (InvalidInput, "numbers")
        wrong = await error_of(host.ask("calculator", "add", numbers=["x"]))
        assert (type(wrong), wrong.param) == (InvalidInput, "numbers[0]")


async def test_the_recipe_for_state_keeps_it_across_workers(tmp_path: Path) -> None:
    source = STATE.replace("INTERVAL_S = 60.0", "INTERVAL_S = 0.05")
    install_plugin(tmp_path / "site", "counter", source, attribute="Counter")
    summary = tmp_path / "data" / "counter" / "summary.txt"
    async with supervisor_harness(tmp_path / "site", data_dir=tmp_path / "data") as host:
        assert await within(host.ask("counter", "add", number=2)) == 2
        await within(_until(lambda: summary.exists() and summary.read_text() == "2\n"))
        assert await within(host.ask("counter", "add", number=3)) == 5
        receipt = await within(host.supervisor.unload("counter"))
        assert receipt.seconds < 2, "the task did not end by itself"
        assert summary.read_text() == "5\n"
        assert await within(host.ask("counter", "add")) == 6


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - the worker writes a file
        await asyncio.sleep(0.01)
