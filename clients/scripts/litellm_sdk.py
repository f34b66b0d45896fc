"""LiteLLM's SDK as a client."""

import litellm
from harness import KEY, MODEL, PDF, PNG, PROTOCOL, URL, WEATHER, City, expect, fails, run

OPTIONS = {
    "openai": {"model": f"openai/{MODEL}", "api_base": f"{URL}/v1"},
    "anthropic": {"model": f"anthropic/{MODEL}", "api_base": URL},
    "gemini": {"model": f"gemini/{MODEL}", "api_base": f"{URL}/v1beta"},
    "ollama": {"model": f"ollama_chat/{MODEL}", "api_base": URL},
}[PROTOCOL]
TOOL = {"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": WEATHER}}


def chat(content, **options):
    messages = content if isinstance(content, list) and "role" in content[0] else [{"role": "user", "content": content}]
    return litellm.completion(**OPTIONS, api_key=KEY, messages=messages, num_retries=0, **options)


def text(response):
    return response.choices[0].message.content


def stream():
    chunks = list(chat("hi", stream=True, stream_options={"include_usage": True}))
    expect("".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices))
    assert [chunk.usage for chunk in chunks if getattr(chunk, "usage", None)], chunks


def tools():
    options = {"tools": [TOOL], "drop_params": True, "reasoning_effort": "low"}
    user = {"role": "user", "content": "task-call"}
    message = litellm.stream_chunk_builder(list(chat([user], stream=True, **options))).choices[0].message
    (call,) = message.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    expect(text(chat([user, message.model_dump(), result], **options)))


def attach(part):
    expect(text(chat([{"type": "text", "text": "see"}, part])))


def cached():
    message = {"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]}
    expect(chat([message]).usage.prompt_tokens_details.cached_tokens, "4321")


checks = {
    "plain": lambda: expect(text(chat("hi"))),
    "stream": stream,
    "tools": tools,
    "structured": lambda: expect(text(chat("where", response_format=City)), "Paris"),
    "image": lambda: attach({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}),
    "document": lambda: attach({"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PDF}"}}),
    "reasoning": lambda: expect(chat("hi", reasoning_effort="low").choices[0].message.reasoning_content, "I think"),
    "caching": cached,
    "errors": lambda: fails(lambda: chat("task-fail")),
    "cancel": lambda: next(iter(chat("task-slow", stream=True))),
}
if PROTOCOL == "ollama":
    del checks["document"], checks["caching"]
run(**checks)
