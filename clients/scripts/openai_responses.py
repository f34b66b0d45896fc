"""openai (Python), responses."""

from harness import HANDLER, KEY, PDF, PNG, URL, WEATHER, City, expect, fails, run
from openai import OpenAI

client = OpenAI(base_url=f"{URL}/v1", api_key=KEY)
TOOL = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": False}


def ask(content, **options):
    items = content if isinstance(content, str | list) else [{"role": "user", "content": [content]}]
    return client.responses.create(model=HANDLER, input=items, store=False, **options)


def stream():
    events = list(ask("hi", stream=True))
    expect("".join(event.delta for event in events if event.type == "response.output_text.delta"))
    assert events[-1].response.usage.output_tokens in (9, 13)  # Gemini counts thoughts apart


def tools():
    options = {"tools": [TOOL], "reasoning": {"effort": "low", "summary": "auto"}}
    first = ask([{"role": "user", "content": "task-call"}], include=["reasoning.encrypted_content"], **options)
    (call,) = [item for item in first.output if item.type == "function_call"]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    history = [{"role": "user", "content": "task-call"}, *(item.model_dump() for item in first.output), result]
    expect(ask(history, **options).output_text)


def structured():
    parsed = client.responses.parse(model=HANDLER, input="where", text_format=City, store=False)
    assert parsed.output_parsed == City(city="Paris")


def cancel():
    with ask("task-slow", stream=True) as events:
        next(iter(events))


run(
    plain=lambda: expect(ask("hi").output_text),
    stream=stream,
    tools=tools,
    structured=structured,
    image=lambda: expect(ask({"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}).output_text),
    document=lambda: expect(
        ask({"type": "input_file", "filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}).output_text
    ),
    reasoning=lambda: expect(ask("hi", reasoning={"effort": "low", "summary": "auto"}).output, "I think"),
    caching=lambda: expect(ask("hi", prompt_cache_key="k").usage.input_tokens_details.cached_tokens, "4321"),
    errors=lambda: fails(lambda: ask("task-fail")),
    cancel=cancel,
)
