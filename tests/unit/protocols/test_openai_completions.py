"""OpenAI's completions of prompts, on top of chats."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from handler_host import chat
from handler_host.chat.conversion import accumulate
from handler_host.plugin.errors import InvalidInput
from handler_host.protocols.fields import IgnoredFields
from handler_host.protocols.openai.legacy_completions import CompletionEncoder, decode_completion

CHUNKS: list[chat.ChatChunk] = [
    chat.ModelChunk(model="real"),
    chat.ReasoningChunk(text="hmm"),
    chat.TextChunk(text="Hel"),
    chat.TextChunk(text="lo"),
    chat.FinishChunk(reason="length"),
    chat.UsageChunk(usage=chat.Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5)),
]


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "gpt_a/m", "prompt": "Once", **fields}).encode()


def encoder(*, include_usage: bool = False) -> CompletionEncoder:
    return CompletionEncoder(completion_id="cmpl-1", created=1, model="requested", include_usage=include_usage)


def as_json(value: object) -> Any:
    return json.loads(msgspec.json.encode(value))


def test_a_prompt_is_the_users_message() -> None:
    ignored = IgnoredFields()
    fields = {"max_tokens": 9, "stop": "END", "seed": 1, "echo": False, "n": 1, "logprobs": None, "best_of": 3}
    _, translated = decode_completion(body(prompt=["Once"], **fields), ignored)
    assert translated.chat == chat.ChatRequest(
        messages=[chat.UserMessage(content="Once")], max_tokens=9, stop=["END"], seed=1
    )
    assert ignored.names == ["best_of"]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"prompt": ["a", "b"]}, "prompt: must be one text"),
        ({"prompt": [1, 2]}, "prompt: must be one text"),
        ({"prompt": [[1, 2]]}, "prompt: must be one text"),
        ({"echo": True}, "echo is not supported"),
        ({"n": 0}, "n: expected"),
        ({"logprobs": 3}, "logprobs is not supported"),
        ({"suffix": "end"}, "suffix is not supported"),
    ],
)
def test_what_a_chat_cannot_do_is_refused(fields: dict[str, Any], error: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        decode_completion(body(**fields), IgnoredFields())
    assert raised.value.message.startswith(error)


def test_errors_of_handlers_name_the_prompt() -> None:
    _, translated = decode_completion(body(), IgnoredFields())
    error = InvalidInput("messages[0].content: no", param="messages[0].content")
    assert translated.with_client_path(error).param == "prompt"


def test_stream() -> None:
    stream = encoder(include_usage=True)
    made = as_json([made for chunk in CHUNKS for made in stream.chunks(chunk)] + stream.last())
    assert [(chunk["choices"][0]["text"], chunk["choices"][0]["finish_reason"]) for chunk in made[:-1]] == [
        ("Hel", None),
        ("lo", None),
        ("", "length"),
    ]
    assert (made[-1]["choices"], made[-1]["usage"]["total_tokens"], made[-1]["model"]) == ([], 5, "real")
    assert [chunk["object"] for chunk in made] == ["text_completion"] * 4


def test_whole() -> None:
    assert as_json(encoder().whole(accumulate(CHUNKS))) == {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1,
        "model": "real",
        "choices": [{"text": "Hello", "index": 0, "logprobs": None, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }
