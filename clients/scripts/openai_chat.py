"""openai (Python), chat completions."""

from harness import HANDLER, KEY, PDF, PNG, URL, WEATHER, City, expect, fails, run
from openai import OpenAI

client = OpenAI(base_url=f"{URL}/v1", api_key=KEY)
TOOL = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}


def chat(content, **options):
    messages = [{"role": "user", "content": content}]
    return client.chat.completions.create(model=HANDLER, messages=messages, **options)


def stream():
    chunks = list(chat("hi", stream=True, stream_options={"include_usage": True}))
    expect("".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices))
    assert chunks[-1].usage.completion_tokens in (9, 13)  # Gemini counts thoughts apart


def tools():
    messages = [{"role": "user", "content": "task-call"}]
    with client.chat.completions.stream(model=HANDLER, messages=messages, tools=[TOOL]) as events:
        message = events.get_final_completion().choices[0].message
    (call,) = message.tool_calls
    messages += [message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    reply = client.chat.completions.create(model=HANDLER, messages=messages, tools=[TOOL])
    expect(reply.choices[0].message.content)


def structured():
    messages = [{"role": "user", "content": "where"}]
    parsed = client.chat.completions.parse(model=HANDLER, messages=messages, response_format=City)
    assert parsed.choices[0].message.parsed == City(city="Paris")


def attach(part):
    expect(chat([{"type": "text", "text": "see"}, part]).choices[0].message.content)


def cancel():
    with chat("task-slow", stream=True) as events:
        next(iter(events))


run(
    plain=lambda: expect(chat("hi").choices[0].message.content),
    stream=stream,
    tools=tools,
    structured=structured,
    image=lambda: attach({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}),
    document=lambda: attach(
        {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}}
    ),
    reasoning=lambda: expect(chat("hi", reasoning_effort="low").choices[0].message.content),
    caching=lambda: expect(chat("hi", prompt_cache_key="k").usage.prompt_tokens_details.cached_tokens, "4321"),
    errors=lambda: fails(lambda: chat("task-fail")),
    cancel=cancel,
)
