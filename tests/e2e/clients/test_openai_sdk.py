"""The real OpenAI SDK as the client of a host that runs as users run it: its own process, its own configuration."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

from tests.support import children_of, ended

QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
KEY = "a-consumer-key-of-some-length"


@contextmanager
def serving(tmp_path: Path, **environ: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a host whose gpt_a is pointed at the host itself; give the process and its URL.

    ``gpt_a`` gets requests as they came, ``translated_a`` is the same plugin with translated ones.
    """
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    config = tmp_path / "host.toml"
    itself = f'base_url = "http://127.0.0.1:{port}/v1"\nmodel = "gpt_e"\n'
    config.write_text(
        f"[server]\nport = {port}\n"
        f"[handlers.gpt_a]\n{itself}"
        "[handlers.gpt_e]\nnative = false\n"
        f'[handlers.translated_a]\nplugin = "gpt_a"\nnative = false\n{itself}'
    )
    command = [sys.executable, "-m", "handler_host", "serve", "--config", str(config)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **environ}
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line == f"ready http://127.0.0.1:{port}\n", (tmp_path / "log").read_text()
            yield process, f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(
        tmp_path_factory.mktemp("host"),
        HANDLER_HOST_API_KEYS=KEY,
        HANDLER_HOST_SECRET_GPT_A_OPENAI_API_KEY=KEY,
        HANDLER_HOST_SECRET_TRANSLATED_A_OPENAI_API_KEY=KEY,
    ) as (_, url):
        yield url


@pytest.fixture
def client(host: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{host}/v1", api_key=KEY, max_retries=0, timeout=60) as made:
        yield made


# A translated response names the model that has answered, as OpenAI does: behind gpt_a that is the host's own gpt_e. A
# native one has the client's own name of the model in place of the provider's.
@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("gpt_e", "gpt_e"),
        ("translated_a", "gpt_e"),
        ("translated_a/gpt_e", "gpt_e"),
        ("gpt_a", "gpt_a"),
        ("gpt_a/gpt_e", "gpt_a/gpt_e"),
    ],
)
def test_it_chats_with_both_handlers_streamed_and_not(client: openai.OpenAI, model: str, shown: str) -> None:
    # From now on, the prompt is in the model's cache, which the usage counts.
    client.chat.completions.create(model="gpt_e", messages=QUESTION, max_tokens=1)  # type: ignore[arg-type]
    whole = client.chat.completions.create(model=model, messages=QUESTION, max_tokens=16, temperature=0)  # type: ignore[arg-type]
    assert whole.choices[0].message.content
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert whole.usage is not None
    assert whole.usage.completion_tokens > 0
    assert whole.model == shown
    stream = client.chat.completions.create(  # type: ignore[call-overload] # QUESTION is a plain list of dicts
        model=model,
        messages=QUESTION,
        max_tokens=16,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == whole.choices[0].message.content
    assert len(chunks) > 3
    assert chunks[-1].usage == whole.usage
    assert {chunk.model for chunk in chunks} == {shown}


async def test_the_asynchronous_client_talks_to_both_at_once(host: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{host}/v1", api_key=KEY, max_retries=0, timeout=60) as client:
        responses = await asyncio.gather(
            *(
                client.chat.completions.create(model=model, messages=QUESTION, max_tokens=4)  # type: ignore[arg-type]
                for model in ("gpt_e", "gpt_a", "gpt_e")
            )
        )
    assert all(response.choices[0].message.content for response in responses)


def test_models_are_the_handlers_that_can_chat(client: openai.OpenAI) -> None:
    assert {"gpt_a", "gpt_e"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("gpt_e").owned_by == "handler-host-gpt-e"


def test_errors_become_the_sdks_own_exceptions(client: openai.OpenAI, host: str) -> None:
    def ask(**changes: object) -> None:
        client.chat.completions.create(**{"model": "gpt_e", "messages": QUESTION, **changes})  # type: ignore[call-overload]

    with pytest.raises(openai.NotFoundError) as not_found:
        ask(model="gpt_z")
    assert not_found.value.code == "model_not_found"
    assert "gpt_e" in not_found.value.message
    with pytest.raises(openai.BadRequestError) as bad_role:
        ask(messages=[{"role": "usr", "content": "Hi"}])
    assert bad_role.value.param == "messages[0].role"
    with pytest.raises(openai.BadRequestError) as many:
        ask(n=2)
    assert many.value.param == "n"
    with pytest.raises(openai.BadRequestError) as tools:
        ask(tools=[{"type": "function", "function": {"name": "look"}}])
    assert tools.value.param == "tools"
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{host}/v1", api_key="wrong", max_retries=0).models.list()


# The provider is the host itself, whose code a native error keeps.
@pytest.mark.parametrize(("model", "code"), [("translated_a", "upstream_bad_request"), ("gpt_a", "invalid_input")])
def test_a_refusal_by_the_provider_comes_through_both(client: openai.OpenAI, model: str, code: str) -> None:
    with pytest.raises(openai.BadRequestError) as tools:
        client.chat.completions.create(
            model=model,
            messages=QUESTION,  # type: ignore[arg-type]
            tools=[{"type": "function", "function": {"name": "look"}}],
        )
    assert tools.value.code == code
    assert tools.value.param == "tools"


def test_case_35_kill_9_of_the_host_leaves_no_process(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, url):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
        stream = client.chat.completions.create(
            model="gpt_a",
            messages=[{"role": "user", "content": "Tell me a very long story."}],
            max_tokens=500,
            stream=True,
        )
        next(stream)
        (fork_server,) = children_of(process.pid)
        workers = children_of(fork_server)
        assert len(workers) == 2
        os.kill(process.pid, signal.SIGKILL)
        process.wait(5)
        # 2 s is what is promised, 5 what a machine with other work to do gets: what does not end by itself never ends.
        limit = time.monotonic() + 5
        while not all(map(ended, [fork_server, *workers])) and time.monotonic() < limit:
            time.sleep(0.01)
        assert [pid for pid in [fork_server, *workers] if not ended(pid)] == []
        stream.close()
        client.close()
