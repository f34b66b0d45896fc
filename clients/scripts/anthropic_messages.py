"""anthropic (Python)."""

from anthropic import Anthropic
from harness import CITY, HANDLER, KEY, PDF, PNG, URL, WEATHER, expect, fails, run

client = Anthropic(base_url=URL, api_key=KEY)
TOOL = {"name": "weather", "input_schema": WEATHER}
THINKING = {"type": "enabled", "budget_tokens": 2000}
CACHE = {"type": "ephemeral"}


def send(content, **options):
    messages = content if isinstance(content, list) and "role" in content[0] else [{"role": "user", "content": content}]
    return client.messages.create(model=HANDLER, max_tokens=4000, messages=messages, **options)


def stream():
    with client.messages.stream(model=HANDLER, max_tokens=9, messages=[{"role": "user", "content": "hi"}]) as events:
        expect("".join(events.text_stream))
        assert events.get_final_message().usage.output_tokens in (9, 13)  # Gemini counts thoughts apart


def tools():
    user = {"role": "user", "content": "task-call"}
    with client.messages.stream(
        model=HANDLER, max_tokens=4000, messages=[user], tools=[TOOL], thinking=THINKING
    ) as events:
        first = events.get_final_message()
    (call,) = [block for block in first.content if block.type == "tool_use"]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}
    echoed = {"role": "assistant", "content": [block.model_dump() for block in first.content]}
    second = send([user, echoed, {"role": "user", "content": [result]}], tools=[TOOL], thinking=THINKING)
    expect(second.content[-1].text)


def attach(kind, media_type, data):
    source = {"type": "base64", "media_type": media_type, "data": data}
    expect(send([{"type": kind, "source": source}]).content[-1].text)


def cancel():
    with client.messages.stream(
        model=HANDLER, max_tokens=9, messages=[{"role": "user", "content": "task-slow"}]
    ) as events:
        next(iter(events.text_stream))


run(
    plain=lambda: expect(send("hi").content[0].text),
    stream=stream,
    tools=tools,
    structured=lambda: expect(
        send("where", output_config={"format": {"type": "json_schema", "schema": CITY}}).content[0].text, "Paris"
    ),
    image=lambda: attach("image", "image/png", PNG),
    document=lambda: attach("document", "application/pdf", PDF),
    reasoning=lambda: expect(send("hi", thinking=THINKING).content[0].thinking, "I think"),
    caching=lambda: expect(
        send([{"type": "text", "text": "hi", "cache_control": CACHE}]).usage.cache_read_input_tokens, "4321"
    ),
    errors=lambda: fails(lambda: send("task-fail")),
    cancel=cancel,
)
