"""Semantic Kernel: the chat service of each protocol."""

import asyncio

from anthropic import AsyncAnthropic
from google.genai import Client as GoogleClient
from harness import KEY, MODEL, PNG, PROTOCOL, URL, City, expect, fails, run
from openai import AsyncOpenAI
from semantic_kernel import Kernel
from semantic_kernel.connectors.ai import FunctionChoiceBehavior
from semantic_kernel.connectors.ai.anthropic import AnthropicChatCompletion
from semantic_kernel.connectors.ai.google.google_ai import GoogleAIChatCompletion
from semantic_kernel.connectors.ai.ollama import OllamaChatCompletion
from semantic_kernel.connectors.ai.open_ai import OpenAIChatCompletion
from semantic_kernel.contents import ChatHistory, ChatMessageContent, ImageContent, TextContent
from semantic_kernel.functions import kernel_function


class Weather:
    @kernel_function(name="weather", description="Return the weather.")
    def weather(self, city: str) -> str:
        """Return the weather."""
        return f"rain in {city}"


def make_service():
    match PROTOCOL:
        case "openai":
            client = AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
            return OpenAIChatCompletion(ai_model_id=MODEL, async_client=client)
        case "anthropic":
            client = AsyncAnthropic(base_url=URL, api_key=KEY, max_retries=0)
            return AnthropicChatCompletion(ai_model_id=MODEL, api_key=KEY, async_client=client)
        case "gemini":
            client = GoogleClient(api_key=KEY, http_options={"base_url": URL})
            return GoogleAIChatCompletion(gemini_model_id=MODEL, api_key=KEY, client=client)
        case _:
            return OllamaChatCompletion(ai_model_id=MODEL, host=URL)


def make_history(text, *items):
    history = ChatHistory()
    history.add_message(ChatMessageContent(role="user", items=[TextContent(text=text), *items]))
    return history


def send(text, *items, kernel=None, **options):
    async def ask():
        service = make_service()
        settings = service.get_prompt_execution_settings_class()(**options)
        return await service.get_chat_message_content(make_history(text, *items), settings, kernel=kernel)

    return asyncio.run(ask())


async def read(text, *, count=None):
    service = make_service()
    parts = []
    settings = service.get_prompt_execution_settings_class()()
    async for part in service.get_streaming_chat_message_content(make_history(text), settings):
        parts.append(str(part))
        if len(parts) == count:
            break
    return parts


def stream():
    parts = asyncio.run(read("hi"))
    assert len(parts) > 2
    expect("".join(parts))


def tools():
    kernel = Kernel()
    kernel.add_plugin(Weather(), "tools")
    expect(send("task-call", kernel=kernel, function_choice_behavior=FunctionChoiceBehavior.Auto()))


def structured():
    options = {
        "openai": {"response_format": City},
        "gemini": {"response_mime_type": "application/json", "response_schema": City},
        "ollama": {"format": City.model_json_schema()},
    }
    expect(send("where", **options[PROTOCOL]), "Paris")


checks = {
    "plain": lambda: expect(send("hi")),
    "stream": stream,
    "tools": tools,
    "structured": structured,
    "image": lambda: expect(send("see", ImageContent(data=PNG, data_format="base64", mime_type="image/png"))),
    "errors": lambda: fails(lambda: send("task-fail")),
    "cancel": lambda: asyncio.run(read("task-slow", count=1)),
}
if PROTOCOL == "openai":
    checks["reasoning"] = lambda: expect(send("hi", reasoning_effort="low"))
    checks["caching"] = lambda: expect(send("hi").metadata, "4321")
if PROTOCOL == "anthropic":
    del checks["structured"], checks["image"]  # its service sends neither
run(**checks)
