"""Strands: an agent with the model class of each protocol."""

import asyncio
import base64

from harness import KEY, MODEL, PDF, PNG, PROTOCOL, URL, expect, fails, run, weather
from pydantic import BaseModel
from strands import Agent, tool
from strands.models.anthropic import AnthropicModel
from strands.models.gemini import GeminiModel
from strands.models.ollama import OllamaModel
from strands.models.openai import OpenAIModel

REASONING = {
    "openai": {"reasoning_effort": "low"},
    "anthropic": {"thinking": {"type": "enabled", "budget_tokens": 2000}},
    "gemini": {"thinking_config": {"include_thoughts": True, "thinking_budget": 2000}},
    "ollama": {"think": True},
}[PROTOCOL]


class City(BaseModel):
    """A city."""

    city: str


def make_model(params=None):
    match PROTOCOL:
        case "openai":
            return OpenAIModel(
                client_args={"base_url": f"{URL}/v1", "api_key": KEY, "max_retries": 1}, model_id=MODEL, params=params
            )
        case "anthropic":
            arguments = {"base_url": URL, "api_key": KEY, "max_retries": 1}
            return AnthropicModel(client_args=arguments, model_id=MODEL, max_tokens=4000, params=params)
        case "gemini":
            arguments = {"api_key": KEY, "http_options": {"base_url": URL}}
            return GeminiModel(client_args=arguments, model_id=MODEL, params=params or {})
        case _:
            return OllamaModel(URL, model_id=MODEL, additional_args=params)


def make_agent(params=None, **options):
    return Agent(make_model(params), callback_handler=None, **options)


def stream():
    async def read():
        return [event["data"] async for event in make_agent().stream_async("hi") if "data" in event]

    parts = asyncio.run(read())
    assert len(parts) > 2
    expect("".join(parts))


def attach(kind, suffix, data, **fields):
    block = {kind: {"format": suffix, "source": {"bytes": base64.b64decode(data)}, **fields}}
    expect(make_agent()([{"text": "see"}, block]))


def reasoning():
    agent = make_agent(REASONING)
    agent("hi")
    if PROTOCOL != "ollama":  # its model class leaves the thoughts out
        expect(agent.messages, "I think")
    expect(agent("hi again"))


def cancel():
    async def start():
        async for event in make_agent().stream_async("task-slow"):
            if "data" in event:
                return

    asyncio.run(start())


checks = {
    "plain": lambda: expect(make_agent()("hi")),
    "stream": stream,
    "tools": lambda: expect(make_agent(REASONING, tools=[tool(weather)])("task-call")),
    "structured": lambda: expect(
        make_agent()("task-call", structured_output_model=City).structured_output.city, "Paris"
    ),
    "image": lambda: attach("image", "png", PNG),
    "document": lambda: attach("document", "pdf", PDF, name="paper"),
    "reasoning": reasoning,
    "caching": lambda: expect(make_agent()("hi").metrics.accumulated_usage, "4321"),
    "errors": lambda: fails(lambda: make_agent()("task-fail")),
    "cancel": cancel,
}
if PROTOCOL == "ollama":
    del checks["document"], checks["caching"]
run(**checks)
