"""Embeddings of three protocols, translated to the operation ``embed`` and back."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from handler_host.chat import EmbedRequest, EmbedResponse, embed_response, embedding_body
from handler_host.plugin import InvalidInput, UpstreamError
from handler_host.protocols.fields import IgnoredFields
from handler_host.protocols.gemini.embeddings import decode_batch, decode_embedding, embedding_response
from handler_host.protocols.ollama.embeddings import decode_embed, embeddings
from handler_host.protocols.openai.embeddings import decode_embeddings, embedding_list

RESPONSE = EmbedResponse(embeddings=[[0.5, -1.0], [2.0, 0.25]], model="m", input_tokens=7)
Decode = Callable[[bytes, IgnoredFields], EmbedRequest]
DECODERS: dict[str, Decode] = {
    "openai": lambda body, ignored: decode_embeddings(body, ignored).to_embed(),
    "ollama": lambda body, ignored: decode_embed(body, ignored).to_embed(),
    "gemini": decode_embedding,
    "gemini batch": decode_batch,
}


def parts(*texts: str) -> dict[str, Any]:
    return {"parts": [{"text": text} for text in texts]}


@pytest.mark.parametrize(
    ("protocol", "body", "request_", "names"),
    [
        ("openai", {"model": "h", "input": "a", "user": "u"}, EmbedRequest(input=["a"], user="u"), []),
        (
            "openai",
            {"model": "h", "input": ["a", "b"], "dimensions": 3, "new": 1},
            EmbedRequest(input=["a", "b"], dimensions=3),
            ["new"],
        ),
        (
            "ollama",
            {"model": "h", "input": ["a"], "truncate": False, "options": {}, "keep_alive": "5m"},
            EmbedRequest(input=["a"]),
            ["truncate"],
        ),
        (
            "gemini",
            {"model": "models/h", "content": {**parts("a", "b"), "role": "user"}, "output_dimensionality": 3},
            EmbedRequest(input=["ab"], dimensions=3),
            [],
        ),
        (
            "gemini batch",
            {
                "requests": [
                    {"content": parts("a"), "taskType": "RETRIEVAL_QUERY"},
                    {"model": "m", "content": parts("b")},
                ]
            },
            EmbedRequest(input=["a", "b"]),
            ["requests[].taskType"],
        ),
    ],
)
def test_requests(protocol: str, body: dict[str, Any], request_: EmbedRequest, names: list[str]) -> None:
    ignored = IgnoredFields()
    assert DECODERS[protocol](json.dumps(body).encode(), ignored) == request_
    assert ignored.names == names


@pytest.mark.parametrize(
    ("protocol", "body", "param"),
    [
        ("openai", {"model": "h", "input": []}, "input"),
        ("openai", {"model": "h", "input": ["a", ""]}, "input[1]"),
        ("openai", {"model": "h", "input": [1, 2]}, "input[0]"),
        ("openai", {"model": "h", "input": [[1, 2]]}, "input[0]"),
        ("openai", {"model": "h", "input": "a", "dimensions": 0}, "dimensions"),
        ("ollama", {"model": "h"}, "input"),
        ("gemini", {"content": {"parts": [{"inlineData": {}}]}}, "content.parts[0].text"),
        ("gemini", {"content": {"parts": []}}, "content"),
        ("gemini batch", {"requests": [{"content": parts("a")}, {"content": parts("")}]}, "requests[1]"),
        ("gemini batch", {"requests": []}, "requests"),
        (
            "gemini batch",
            {"requests": [{"content": parts("a"), "outputDimensionality": 3}, {"content": parts("b")}]},
            "requests[].outputDimensionality",
        ),
    ],
)
def test_invalid_requests(protocol: str, body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        DECODERS[protocol](json.dumps(body).encode(), IgnoredFields())
    assert caught.value.param == param


def encoded(response: object) -> Any:
    return json.loads(msgspec.json.encode(response))


def test_openais_response() -> None:
    request = decode_embeddings(b'{"model": "h/m", "input": ["a", "b"]}')
    assert encoded(embedding_list(request, RESPONSE)) == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5, -1.0]},
            {"object": "embedding", "index": 1, "embedding": [2.0, 0.25]},
        ],
        "model": "h/m",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }
    request = decode_embeddings(b'{"model": "h/m", "input": ["a", "b"], "encoding_format": "base64"}')
    uncounted = encoded(embedding_list(request, EmbedResponse(embeddings=RESPONSE.embeddings)))
    assert struct.unpack("<2f", base64.b64decode(uncounted["data"][1]["embedding"])) == (2.0, 0.25)
    assert "usage" not in uncounted


def test_geminis_response() -> None:
    assert encoded(embedding_response(RESPONSE, is_batch=True)) == {
        "embeddings": [{"values": [0.5, -1.0]}, {"values": [2.0, 0.25]}]
    }
    assert encoded(embedding_response(RESPONSE, is_batch=False)) == {"embedding": {"values": [0.5, -1.0]}}


def test_ollamas_response() -> None:
    assert encoded(embeddings("h:latest", RESPONSE, total_s=0.5, load_s=0.25)) == {
        "model": "h:latest",
        "embeddings": RESPONSE.embeddings,
        "total_duration": 500_000_000,
        "load_duration": 250_000_000,
        "prompt_eval_count": 7,
    }


def test_openais_protocol_toward_a_provider() -> None:
    body = embedding_body(EmbedRequest(input=["a"], dimensions=2), "default")
    assert body == {"model": "default", "input": ["a"], "encoding_format": "float", "dimensions": 2}
    vectors = [{"index": 1, "embedding": [2, 0.25]}, {"index": 0, "embedding": [0.5, -1.0], "object": "embedding"}]
    assert embed_response({"data": vectors, "model": "m", "usage": {"prompt_tokens": 7}}) == RESPONSE
    with pytest.raises(UpstreamError, match="embeddings are invalid"):
        embed_response({"data": "none"})
