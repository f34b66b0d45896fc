"""Haystack: the chat generator of each protocol."""

import os

from harness import KEY, MODEL, PDF, PNG, PROTOCOL, URL, WEATHER, expect, fails, run
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage, FileContent, ImageContent
from haystack.tools import Tool
from haystack.utils import Secret
from haystack_integrations.components.generators.anthropic import AnthropicChatGenerator
from haystack_integrations.components.generators.google_genai import GoogleGenAIChatGenerator
from haystack_integrations.components.generators.ollama import OllamaChatGenerator

# The generators of Anthropic and Google have no argument for the address; their SDKs read it here.
os.environ |= {"ANTHROPIC_BASE_URL": URL, "GOOGLE_GEMINI_BASE_URL": URL}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
OPENAI_FORMAT = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}
REASONING = {
    "openai": {"reasoning_effort": "low"},
    "anthropic": {"thinking": {"type": "enabled", "budget_tokens": 2000}, "max_tokens": 4000},
    "gemini": {"thinking_budget": 2000},
    "ollama": {},
}[PROTOCOL]
FORMAT = {
    "openai": {"response_format": OPENAI_FORMAT},
    "anthropic": {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    "gemini": {"response_format": SCHEMA},
    "ollama": {"response_format": SCHEMA},
}[PROTOCOL]


def make_generator(settings=None, **options):
    match PROTOCOL:
        case "openai":
            return OpenAIChatGenerator(
                Secret.from_token(KEY), MODEL, api_base_url=f"{URL}/v1", max_retries=0, generation_kwargs=settings
            )
        case "anthropic":
            return AnthropicChatGenerator(
                Secret.from_token(KEY), MODEL, max_retries=0, generation_kwargs=settings,
                ignore_tools_thinking_messages=False,
            )  # fmt: skip
        case "gemini":
            return GoogleGenAIChatGenerator(api_key=Secret.from_token(KEY), model=MODEL, generation_kwargs=settings)
        case _:
            return OllamaChatGenerator(MODEL, URL, think=settings == REASONING, **options)


generator = make_generator()
weather = Tool("weather", "Return the weather.", WEATHER, lambda city: f"rain in {city}")


def send(content, to=generator, **options):
    message = (
        ChatMessage.from_user(content_parts=content) if isinstance(content, list) else ChatMessage.from_user(content)
    )
    return to.run([message], **options)["replies"][0]


def stream():
    chunks = []
    send("hi", streaming_callback=lambda chunk: chunks.append(chunk.content))
    assert len(chunks) > 2
    expect("".join(chunks))


def tools():
    thinking = make_generator(REASONING)
    user = ChatMessage.from_user("task-call")
    reply = thinking.run([user], tools=[weather], streaming_callback=lambda _: None)["replies"][0]
    result = ChatMessage.from_tool("rain", origin=reply.tool_calls[0])
    expect(thinking.run([user, reply, result], tools=[weather])["replies"][0].text)


def structured():
    to = make_generator(**FORMAT) if PROTOCOL == "ollama" else make_generator(FORMAT)
    expect(send("where", to).text, "Paris")


checks = {
    "plain": lambda: expect(send("hi").text),
    "stream": stream,
    "tools": tools,
    "structured": structured,
    "image": lambda: expect(send(["see", ImageContent(PNG, "image/png")]).text),
    "document": lambda: expect(send(["see", FileContent(PDF, "application/pdf", "a.pdf")]).text),
    "reasoning": lambda: expect(send("hi", make_generator(REASONING)).text),
    "caching": lambda: expect(send("hi").meta, "4321"),
    "errors": lambda: fails(lambda: send("task-fail")),
}
if PROTOCOL == "ollama":
    del checks["document"], checks["caching"]
run(**checks)
