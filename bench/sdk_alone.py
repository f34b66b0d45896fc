"""Call an SDK as an application does, without a host: ``python -m bench.sdk_alone gpt_a URL --calls 2000``.

Prints one JSON object: calls per second, and seconds of processor time for each call.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

from bench.providers import QUESTION

Call = Callable[[], Awaitable[object]]
MESSAGES: Any = [{"role": "user", "content": QUESTION}]


def openai(url: str, streamed: bool) -> Call:
    from openai import AsyncOpenAI

    client = AsyncOpenAI(api_key="none", base_url=f"{url}/v1", max_retries=0)

    async def call() -> object:
        if not streamed:
            return await client.chat.completions.create(model="m", messages=MESSAGES)
        options = {"include_usage": True}
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True, stream_options=options)  # type: ignore[call-overload]
        return [chunk async for chunk in stream]

    return call


def anthropic(url: str, streamed: bool) -> Call:
    from anthropic import AsyncAnthropic

    client = AsyncAnthropic(api_key="none", base_url=url, max_retries=0)

    async def call() -> object:
        if not streamed:
            return await client.messages.create(model="m", max_tokens=100, messages=MESSAGES)
        events = await client.messages.create(model="m", max_tokens=100, messages=MESSAGES, stream=True)
        return [event async for event in events]

    return call


def generativeai(url: str, streamed: bool) -> Call:
    """Call in threads: the SDK has no asynchronous calls over HTTP."""
    warnings.simplefilter("ignore")
    import google.generativeai

    genai: Any = google.generativeai  # its types leave out functions that its own documentation uses
    genai.configure(api_key="none", transport="rest", client_options={"api_endpoint": url})
    model = genai.GenerativeModel("m")

    def work() -> object:
        response = model.generate_content(QUESTION, stream=streamed, request_options={"retry": None})
        return list(response) if streamed else response.text

    async def call() -> object:
        return await asyncio.to_thread(work)

    return call


def litellm(url: str, streamed: bool) -> Call:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    options: Any = {"api_base": f"{url}/v1", "api_key": "none", "num_retries": 0, "max_retries": 0}

    async def call() -> object:
        response = await litellm.acompletion(model="openai/m", messages=MESSAGES, stream=streamed, **options)
        return [chunk async for chunk in response] if streamed else response

    return call


SDKS = {"gpt_a": openai, "gpt_b": anthropic, "gpt_c": generativeai, "gpt_d": litellm}


async def run(call: Call, calls: int, concurrency: int) -> dict[str, float]:
    """Make the calls, at most ``concurrency`` at a time."""
    remaining = iter(range(calls))

    async def work() -> None:
        for _ in remaining:
            await call()

    await asyncio.gather(*(call() for _ in range(2 * concurrency)))
    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    elapsed, used = time.perf_counter() - started, time.process_time() - cpu
    return {"per_second": calls / elapsed, "cpu": used / calls}


def main() -> None:
    """Read the arguments, run, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("handler", choices=SDKS)
    parser.add_argument("url")
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--stream", action="store_true")
    options = parser.parse_args()
    call = SDKS[options.handler](options.url, options.stream)
    print(json.dumps(asyncio.run(run(call, options.calls, options.concurrency))), flush=True)
    # Without closing the SDKs' clients: their warnings about that would end up in the measurement.
    os._exit(0)


if __name__ == "__main__":
    main()
