"""openai-agents (Python), on responses."""

from agents import Agent, Runner, function_tool, set_default_openai_client, set_tracing_disabled
from harness import HANDLER, KEY, URL, expect, fails, run
from openai import AsyncOpenAI
from pydantic import BaseModel

set_tracing_disabled(True)
set_default_openai_client(AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY))


class City(BaseModel):
    city: str


@function_tool
def weather(city: str) -> str:
    """Return the weather."""
    return f"rain in {city}"


agent = Agent(name="a", model=HANDLER.partition("/")[0])  # it reads a slash as a prefix of its own
run(
    plain=lambda: expect(Runner.run_sync(agent, "hi").final_output),
    tools=lambda: expect(Runner.run_sync(agent.clone(tools=[weather]), "task-call").final_output),
    structured=lambda: expect(Runner.run_sync(agent.clone(output_type=City), "where").final_output.city, "Paris"),
    errors=lambda: fails(lambda: Runner.run_sync(agent, "task-fail")),
)
