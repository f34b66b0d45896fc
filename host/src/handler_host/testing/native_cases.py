"""A request, a response and the events of each native operation, spelled as no encoder spells them.

``MODEL`` stands for the model's name, ``{model}`` in a path.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from handler_host.protocols.anthropic import native as anthropic
from handler_host.protocols.gemini import native as gemini
from handler_host.protocols.native_operation import NativeOperation
from handler_host.protocols.openai import native as openai
from handler_host.protocols.openai_responses import native as openai_responses

FURTHER = rb'"unheard_of" :{"b": [1.0, 1e3],"a":"Gr\u00fc\u00dfe ' + '☀"}'.encode()
"""A field that no SDK knows, with numbers and characters that another encoder writes in another way."""
USER = b'[{"role": "user" ,"content": "question-0"}]'


@dataclass(frozen=True)
class NativeCase:
    """What client and provider send to each other."""

    operation: NativeOperation
    path: str
    body: bytes
    response: bytes
    events: tuple[bytes, ...] = ()
    """Parts of an event stream; the first one ends an event, the others end anywhere. Empty: no stream."""
    stream_path: str | None = None
    """Path for a stream, if the body does not ask for it."""

    def request(self, model: str, *, stream: bool) -> tuple[str, bytes]:
        """Return path and body of a request for a model."""
        path = self.stream_path if stream and self.stream_path else self.path
        body = self.body.replace(b'"stream": false', b'"stream": true') if stream else self.body
        return path.format(model=model), named(body, model)


def named(content: bytes, model: str) -> bytes:
    """Return content with the name of a model."""
    return content.replace(b'"MODEL"', json.dumps(model).encode()).replace(b"/MODEL", f"/{model}".encode())


_CASES = (
    NativeCase(
        openai.CHAT,
        "/v1/chat/completions",
        b'{ "messages":' + USER + b',"model" : "MODEL", "stream": false,\n' + FURTHER + b"}\n",
        b'{"id": "c-1" ,"model":"MODEL","choices": [{"index": 0, "message": {"role": "assistant","content": "Hi"},'
        b'"finish_reason": "stop"}],"usage": {"prompt_tokens": 3, "completion_tokens": 1}, ' + FURTHER + b"}\n",
        (
            b'data: {"id":"c-1" ,"model":"MODEL","choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n',
            b': ping\n\ndata: {"id":"c-1","choices":[],"model": "MODEL",',
            FURTHER + b',"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\ndata: [DO',
            b"NE]\n\n",
        ),
    ),
    NativeCase(
        openai_responses.RESPONSES,
        "/v1/responses",
        b'{"input": [{"type":"unheard_of"},{"role": "user","content": "question-0"}],"model" : "MODEL",'
        b' "stream": false,"store": false,\n' + FURTHER + b"}\n",
        b'{"id": "r-1" ,"output": [{"type": "reasoning","encrypted_content": "eA=="}],"model":"MODEL", '
        + FURTHER
        + b',"usage": {"input_tokens": 3, "output_tokens": 1}}\n',
        (
            b'event: response.created\ndata: {"type":"response.created","response":{"id":"r-1","model": "MODEL"}}\n\n',
            b": ping\n\nevent: response.unheard_of\nda",
            b'ta: {"type":"response.unheard_of",' + FURTHER + b"}\n\n",
            b'event: response.completed\ndata: {"type":"response.completed","response":{"id":"r-1","model":"MODEL"',
            b',"usage":{"input_tokens":3,"output_tokens":1}}}\n\n',
        ),
    ),
    NativeCase(
        openai.EMBEDDINGS,
        "/v1/embeddings",
        b'{"input": ["question-0", "b"],"model" : "MODEL",\n' + FURTHER + b"}\n",
        b'{"data": [{"embedding": "AAAA" ,"index": 0}],"model":"MODEL","usage": {"prompt_tokens": 1}, '
        + FURTHER
        + b"}\n",
    ),
    NativeCase(
        anthropic.MESSAGES,
        "/v1/messages",
        b'{ "messages":' + USER + b',"model" : "MODEL", "max_tokens": 7,"stream": false,\n' + FURTHER + b"}\n",
        b'{"type": "message" ,"model":"MODEL","content": [{"type": "thinking","thinking": "x","signature": "eA=="}],'
        b'"usage": {"input_tokens": 3, "output_tokens": 1}, ' + FURTHER + b"}\n",
        (
            b'event: message_start\ndata: {"type":"message_start" ,"message":{"model":"MODEL","usage":{}}}\n\n',
            b'event: ping\ndata: {"type": "ping"}\n\nevent: content_block_delta\nda',
            b'ta: {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta",' + FURTHER + b"}}\n\n",
            b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":1}}\n\n',
            b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
        ),
    ),
    NativeCase(
        anthropic.COUNT_TOKENS,
        "/v1/messages/count_tokens",
        b'{ "messages":' + USER + b',"model" : "MODEL",\n' + FURTHER + b"}\n",
        b'{ "input_tokens": 3, ' + FURTHER + b"}\n",
    ),
    NativeCase(
        gemini.GENERATE_CONTENT,
        "/v1beta/models/{model}:generateContent",
        b'{"contents": [{"parts": [{"text" :"question-0"}]}],\n' + FURTHER + b"}\n",
        b'{"candidates": [{"content": {"parts": [{"text": "Hi","thoughtSignature": "eA=="}]}}] ,"modelVersion":"MODEL",'
        b'"usageMetadata": {"promptTokenCount": 3}, ' + FURTHER + b"}\n",
        (
            b'data: {"candidates": [] ,"modelVersion":"MODEL"}\r\n\r\n',
            b'data: {"candidates": [], ' + FURTHER + b',"modelVers',
            b'ion": "MODEL","usageMetadata": {"promptTokenCount": 3}}\r\n\r\n',
            b'data: {"candidates": [{"finishReason" : "STOP"}]}\r\n\r\n',
        ),
        "/v1beta/models/{model}:streamGenerateContent?alt=sse",
    ),
    NativeCase(
        gemini.COUNT_TOKENS,
        "/v1beta/models/{model}:countTokens",
        b'{"generateContentRequest": {"contents": [{"parts": [{"text" :"question-0"}]}],"model": "models/MODEL"},\n'
        + FURTHER
        + b"}\n",
        b'{ "totalTokens": 3, ' + FURTHER + b"}\n",
    ),
    NativeCase(
        gemini.EMBED_CONTENT,
        "/v1beta/models/{model}:batchEmbedContents",
        b'{"requests": [{"model" : "models/MODEL","content": {"parts": [{"text": "question-0"}]}}],\n'
        + FURTHER
        + b"}\n",
        b'{"embeddings": [{"values": [0.50, 1e-3]}], ' + FURTHER + b"}\n",
    ),
)
CASES: Mapping[str, NativeCase] = {case.operation.name: case for case in _CASES}
"""Native operation → its case."""
EMBEDDINGS = frozenset({"openai.embeddings", "gemini.embed_content"})
"""Operations that are called for a model of another kind."""
