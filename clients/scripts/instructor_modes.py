"""instructor: structured output by tools, by a schema and by JSON mode, on the handler's own protocol."""

import instructor
from anthropic import Anthropic
from google import genai
from harness import HANDLER, KEY, URL, City, expect, run
from openai import OpenAI


def create(mode):
    if HANDLER.startswith("gpt_b"):
        client = instructor.from_anthropic(Anthropic(base_url=URL, api_key=KEY), mode=mode)
        options = {"max_tokens": 1000}
    elif HANDLER.startswith("gpt_c"):
        native = genai.Client(api_key=KEY, http_options={"base_url": URL})
        client, options = instructor.from_genai(native, mode=mode), {}
    else:
        client, options = instructor.from_openai(OpenAI(base_url=f"{URL}/v1", api_key=KEY), mode=mode), {}
    messages = [{"role": "user", "content": "where"}]
    return client.chat.completions.create(
        model=HANDLER, messages=messages, response_model=City, max_retries=1, **options
    )


modes = instructor.Mode
own = {
    "gpt_a": (modes.TOOLS, modes.JSON, modes.JSON_SCHEMA),
    "gpt_b": (modes.ANTHROPIC_TOOLS, modes.ANTHROPIC_JSON),
    "gpt_c": (modes.GENAI_TOOLS, modes.GENAI_STRUCTURED_OUTPUTS),
}


def structured():
    for mode in own[HANDLER.partition("/")[0]]:
        expect(create(mode).city, "Paris")


run(structured=structured)
