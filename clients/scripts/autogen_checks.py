"""AutoGen: the model client of each protocol, and an agent for the tools."""

import asyncio

from autogen_agentchat.agents import AssistantAgent
from autogen_core import Image
from autogen_core.models import UserMessage
from autogen_ext.models.anthropic import AnthropicChatCompletionClient
from autogen_ext.models.ollama import OllamaChatCompletionClient
from autogen_ext.models.openai import OpenAIChatCompletionClient
from harness import KEY, MODEL, PNG, PROTOCOL, URL, City, expect, fails, run, weather

INFO = {
    "vision": True, "function_calling": True, "json_output": True, "structured_output": True, "family": "unknown",
}  # fmt: skip


def make_client(**options):
    match PROTOCOL:
        case "openai":
            return OpenAIChatCompletionClient(
                model=MODEL, base_url=f"{URL}/v1", api_key=KEY, model_info=INFO, max_retries=0, **options
            )
        case "anthropic":
            return AnthropicChatCompletionClient(
                model=MODEL, base_url=URL, api_key=KEY, model_info=INFO, max_retries=0, **options
            )
        case _:
            return OllamaChatCompletionClient(model=MODEL, host=URL, model_info=INFO, **options)


def send(*content, **options):
    parts = content[0] if len(content) == 1 else list(content)
    message = UserMessage(content=parts, source="user")
    return asyncio.run(make_client().create([message], **options)).content


def stream():
    async def read():
        message = UserMessage(content="hi", source="user")
        return [part async for part in make_client().create_stream([message])]

    parts = asyncio.run(read())
    assert len(parts) > 2
    expect("".join(parts[:-1]))


def tools():
    agent = AssistantAgent("a", make_client(), tools=[weather], reflect_on_tool_use=True, model_client_stream=True)
    expect(asyncio.run(agent.run(task="task-call")).messages[-1].content)


def cancel():
    async def start():
        async for _ in make_client().create_stream([UserMessage(content="task-slow", source="user")]):
            return

    asyncio.run(start())


checks = {
    "plain": lambda: expect(send("hi")),
    "stream": stream,
    "tools": tools,
    "structured": lambda: expect(send("where", json_output=City), "Paris"),
    "image": lambda: expect(send("see", Image.from_base64(PNG))),
    "errors": lambda: fails(lambda: send("task-fail")),
    "cancel": cancel,
}
if PROTOCOL == "anthropic":
    del checks["structured"]  # its client refuses it
run(**checks)
