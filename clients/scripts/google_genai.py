"""google-genai (Python)."""

import base64

from google import genai
from google.genai import types
from harness import HANDLER, KEY, PDF, PNG, URL, City, expect, fails, run, weather

client = genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=URL))


def send(contents, **config):
    return client.models.generate_content(
        model=HANDLER, contents=contents, config=types.GenerateContentConfig(**config)
    )


def stream():
    chunks = list(client.models.generate_content_stream(model=HANDLER, contents="hi"))
    expect("".join(chunk.text or "" for chunk in chunks))
    assert chunks[-1].usage_metadata.candidates_token_count


def attach(mime_type, data):
    part = types.Part.from_bytes(data=base64.b64decode(data), mime_type=mime_type)
    expect(send(["see", part]).text)


def thoughts():
    config = types.ThinkingConfig(include_thoughts=True, thinking_budget=2000)
    parts = send("hi", thinking_config=config).candidates[0].content.parts
    assert any(part.thought for part in parts), parts


def cancel():
    next(iter(client.models.generate_content_stream(model=HANDLER, contents="task-slow")))


run(
    plain=lambda: expect(send("hi").text),
    stream=stream,
    tools=lambda: expect(send("task-call", tools=[weather]).text),
    structured=lambda: expect(
        send("where", response_mime_type="application/json", response_schema=City).parsed, "Paris"
    ),
    image=lambda: attach("image/png", PNG),
    document=lambda: attach("application/pdf", PDF),
    reasoning=thoughts,
    caching=lambda: expect(send("hi").usage_metadata.cached_content_token_count, "4321"),
    errors=lambda: fails(lambda: send("task-fail")),
    cancel=cancel,
)
