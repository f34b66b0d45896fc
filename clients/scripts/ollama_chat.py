"""ollama (Python)."""

import json

from harness import HANDLER, PNG, URL, WEATHER, expect, fails, run
from ollama import Client

client = Client(host=URL)
TOOL = {"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": WEATHER}}


def chat(content, **options):
    return client.chat(model=HANDLER, messages=[{"role": "user", "content": content}], **options)


def tools():
    messages = [{"role": "user", "content": "task-call"}]
    message = client.chat(model=HANDLER, messages=messages, tools=[TOOL]).message
    (call,) = message.tool_calls
    messages += [message, {"role": "tool", "tool_name": call.function.name, "content": "rain"}]
    expect(client.chat(model=HANDLER, messages=messages, tools=[TOOL]).message.content)


def image():
    messages = [{"role": "user", "content": "see", "images": [PNG]}]
    expect(client.chat(model=HANDLER, messages=messages).message.content)


run(
    plain=lambda: expect(chat("hi").message.content),
    stream=lambda: expect("".join(chunk.message.content for chunk in chat("hi", stream=True))),
    tools=tools,
    structured=lambda: expect(json.loads(chat("where", format=WEATHER).message.content), "Paris"),
    image=image,
    reasoning=lambda: expect(chat("hi", think="low").message.content),
    errors=lambda: fails(lambda: chat("task-fail")),
    cancel=lambda: next(iter(chat("task-slow", stream=True))),
)
