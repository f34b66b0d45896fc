"""openai-agents (Python), on responses."""

from agents import Agent, Runner, function_tool, set_default_openai_client, set_tracing_disabled
from harness import HANDLER, KEY, URL, City, expect, fails, run, weather
from openai import AsyncOpenAI

set_tracing_disabled(True)
set_default_openai_client(AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY))

agent = Agent(name="a", model=HANDLER.partition("/")[0])  # it reads a slash as a prefix of its own
run(
    plain=lambda: expect(Runner.run_sync(agent, "hi").final_output),
    tools=lambda: expect(Runner.run_sync(agent.clone(tools=[function_tool(weather)]), "task-call").final_output),
    structured=lambda: expect(Runner.run_sync(agent.clone(output_type=City), "where").final_output.city, "Paris"),
    errors=lambda: fails(lambda: Runner.run_sync(agent, "task-fail")),
)
