"""pydantic-ai, with the provider of the handler's own protocol."""

import base64

from harness import HANDLER, KEY, PDF, PNG, URL, City, expect, fails, run, weather
from pydantic_ai import Agent, BinaryContent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.google import GoogleModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.google import GoogleProvider
from pydantic_ai.providers.openai import OpenAIProvider


def make_model():
    if HANDLER.startswith("gpt_b"):
        return AnthropicModel(HANDLER, provider=AnthropicProvider(base_url=URL, api_key=KEY))
    if HANDLER.startswith("gpt_c"):
        return GoogleModel(HANDLER, provider=GoogleProvider(base_url=URL, api_key=KEY))
    return OpenAIChatModel(HANDLER, provider=OpenAIProvider(base_url=f"{URL}/v1", api_key=KEY))


model = make_model()
agent = Agent(model)
with_tools = Agent(model)
with_tools.tool_plain(weather)


def attach(data, media_type):
    content = BinaryContent(data=base64.b64decode(data), media_type=media_type)
    expect(agent.run_sync(["see", content]).output)


run(
    plain=lambda: expect(agent.run_sync("hi").output),
    tools=lambda: expect(with_tools.run_sync("task-call").output),
    structured=lambda: expect(Agent(model, output_type=City).run_sync("where").output.city, "Paris"),
    image=lambda: attach(PNG, "image/png"),
    document=lambda: attach(PDF, "application/pdf"),
    caching=lambda: expect(agent.run_sync("hi").usage, "4321"),
    errors=lambda: fails(lambda: agent.run_sync("task-fail")),
)
