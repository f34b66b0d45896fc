"""smolagents: OpenAI by its own model class, Anthropic by LiteLLM; a tool-calling agent for the tools."""

import base64
import io

from harness import KEY, MODEL, PNG, PROTOCOL, URL, expect, fails, run
from PIL import Image
from smolagents import LiteLLMModel, OpenAIModel, ToolCallingAgent, tool

FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "city", "schema": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


def make_model(**options):
    if PROTOCOL == "openai":
        return OpenAIModel(MODEL, api_base=f"{URL}/v1", api_key=KEY, **options)
    return LiteLLMModel(f"anthropic/{MODEL}", api_base=URL, api_key=KEY, **options)


model = make_model()


@tool
def weather(city: str) -> str:
    """Return the weather.

    Args:
        city: The city.
    """
    return f"rain in {city}"


def messages(text, *parts):
    return [{"role": "user", "content": [{"type": "text", "text": text}, *parts]}]


def text(text, **options):
    return model.generate(messages(text), **options).content


def tools():
    agent = ToolCallingAgent(tools=[weather], model=model, max_steps=2, verbosity_level=0)
    agent.run("task-call")
    observations = [step.observations for step in agent.memory.steps if getattr(step, "observations", None)]
    expect(observations, "rain in Paris")


def image():
    part = {"type": "image", "image": Image.open(io.BytesIO(base64.b64decode(PNG)))}
    expect(model.generate(messages("see", part)).content)


checks = {
    "plain": lambda: expect(text("hi")),
    "stream": lambda: expect("".join(delta.content or "" for delta in model.generate_stream(messages("hi")))),
    "tools": tools,
    "structured": lambda: expect(text("where", response_format=FORMAT), "Paris"),
    "image": image,
    "reasoning": lambda: expect(make_model(reasoning_effort="low").generate(messages("hi")).content),
    "errors": lambda: fails(lambda: text("task-fail")),
    "cancel": lambda: next(iter(model.generate_stream(messages("task-slow")))),
}
run(**checks)
