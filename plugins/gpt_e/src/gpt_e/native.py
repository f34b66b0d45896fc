"""OpenAI's protocol as llama.cpp's own server speaks it: tools, schemas, grammars, logprobs, reasoning, embeddings."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import msgspec

from gpt_e.prompts import texts_of
from gpt_e.server import LlamaServer
from gpt_e.turn import Turn
from handler_host.chat import EmbedRequest, EmbedResponse, embed_response
from handler_host.plugin import (
    Context,
    InvalidInput,
    NativeRequest,
    NativeResponse,
    UnknownOperation,
    native,
    operation,
    provider_refusal,
)

NO_PROMPT = frozenset({"grammar", "json_schema", "metadata", "model", "response_format", "stop", "user"})
"""Fields whose texts do not become a part of the prompt."""
UNSUPPORTED_INPUT = b"input is not supported"
"""What llama.cpp says, with status 500, of images and sounds for a model that takes texts only."""


class NativeLlama:
    """Native operations of a handler with llama.cpp's server."""

    context: Context
    _routes: LlamaServer
    _turn: Turn
    _model_name: str
    """Name of the model in llama.cpp's responses."""

    @native("openai.chat")
    async def native_chat(self, request: NativeRequest) -> AsyncIterator[NativeResponse | bytes]:
        """Run a chat completion; the host translates one with control tokens, so that these stay text."""
        await self._check_control_tokens(request.body)
        async with aclosing(self._generate("/v1/chat/completions", request)) as parts:
            async for part in parts:
                yield part

    @native("openai.embeddings")
    async def native_embeddings(self, request: NativeRequest) -> AsyncIterator[NativeResponse | bytes]:
        """Compute embeddings, if the configuration has them on."""
        self._check_embeds()
        async with aclosing(self._generate("/v1/embeddings", request)) as parts:
            async for part in parts:
                yield part

    @operation("embed", summary="Compute the embeddings of texts.")
    async def embed(self, request: EmbedRequest) -> EmbedResponse:
        """Return the embeddings of llama.cpp."""
        self._check_embeds()
        body = msgspec.json.encode({"input": request.input})
        async with self._turn, aclosing(self._relay("/v1/embeddings", body)) as parts:
            content = b"".join([part async for part in parts if isinstance(part, bytes)])
        response = embed_response(msgspec.json.decode(content))
        length = len(response.embeddings[0])
        if request.dimensions not in (None, length):
            raise InvalidInput(f"dimensions: the model's vectors have {length}; leave it out", param="dimensions")
        return response

    def _check_embeds(self) -> None:
        if self.context.config["embeddings"] == "off":
            raise UnknownOperation(f"{self.context.handler} computes no embeddings (embeddings in its configuration)")

    async def _generate(self, path: str, request: NativeRequest) -> AsyncGenerator[NativeResponse | bytes, None]:
        request.sent_model = self._model_name
        # A response must not look like that of another model.
        request.is_other_model = request.model not in (None, self._model_name)
        async with self._turn, aclosing(self._relay(path, request.body)) as parts:
            async for part in parts:
                yield part

    async def _relay(self, path: str, body: bytes) -> AsyncGenerator[NativeResponse | bytes, None]:
        """Yield a response of llama.cpp; raises its errors."""
        async with aclosing(self._routes.relay(path, body)) as parts:
            start = await anext(parts)
            assert isinstance(start, NativeResponse)
            if start.status != 200:
                content = b"".join([part async for part in parts if isinstance(part, bytes)])
                if UNSUPPORTED_INPUT in content:
                    raise UnknownOperation("the model takes texts only")  # the host's translation refuses the part
                raise provider_refusal(NativeResponse(start.status, start.headers, content))
            yield start
            async for part in parts:
                yield part

    async def _check_control_tokens(self, body: bytes) -> None:
        """Raise ``UnknownOperation`` for a text with control tokens: llama.cpp's server would read them as such."""
        try:
            fields = msgspec.json.decode(body, type=dict[str, object])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidInput(f"the body is not JSON: {error}") from None
        text = "\n".join(text for name, value in fields.items() if name not in NO_PROMPT for text in texts_of(value))
        if await self._routes.has_control_tokens(text):
            raise UnknownOperation("a text has a control token of the model")
