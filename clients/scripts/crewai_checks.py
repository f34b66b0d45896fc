"""CrewAI: a crew of one agent, with the native model class of each protocol."""

import os

os.environ |= {"CREWAI_STORAGE_DIR": os.environ["HOME"]}

from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool
from harness import KEY, MODEL, PNG, PROTOCOL, URL, City, expect, fails, run, weather

ADDRESSES = {
    "openai": {"model": f"openai/{MODEL}", "base_url": f"{URL}/v1"},
    "anthropic": {"model": f"anthropic/{MODEL}", "base_url": URL},
    "gemini": {"model": f"gemini/{MODEL}", "client_params": {"http_options": {"base_url": URL}}},
}
REASONING = {
    "openai": {"reasoning_effort": "low"},
    "anthropic": {"thinking": {"type": "enabled", "budget_tokens": 2000}, "max_tokens": 4000},
    "gemini": {"thinking_config": {"thinking_budget": 2000, "include_thoughts": True}},
}[PROTOCOL]


def make_model(**options):
    return LLM(**ADDRESSES[PROTOCOL], api_key=KEY, **options)


def work(description, tools=(), output=None, **options):
    agent = Agent(
        role="clerk", goal="help", backstory="a clerk", llm=make_model(**options), tools=list(tools), max_retry_limit=0
    )
    task = Task(description=description, expected_output="a text", agent=agent, output_pydantic=output)
    return Crew(agents=[agent], tasks=[task]).kickoff()


def stream():
    expect(make_model(stream=True).call("hi"))


def image():
    url = {"url": f"data:image/png;base64,{PNG}"}
    content = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": url}]
    expect(make_model().call([{"role": "user", "content": content}]))


checks = {
    "plain": lambda: expect(work("hi").raw),
    "stream": stream,
    "tools": lambda: expect(work("task-call", [tool(weather)], **REASONING).raw),
    "structured": lambda: expect(work("where", output=City).pydantic.city, "Paris"),
    "image": image,
    "reasoning": lambda: expect(make_model(**REASONING).call("hi")),
    "caching": lambda: expect(work("hi").token_usage, "4321"),
    "errors": lambda: fails(lambda: work("task-fail")),
}
if PROTOCOL != "openai":
    del checks["image"]
run(**checks)
