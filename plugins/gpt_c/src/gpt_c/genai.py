"""The backend on google-genai, the successor of google-generativeai: the plugin's extra ``google-genai``."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import aiohttp
from google import genai
from google.genai import errors, types

from gpt_c.backend import ANY_SIGNATURE, Call, Chunk, Question, Settings, wants_signatures
from gpt_c.documents import usage_of
from gpt_c.failures import connection, from_response
from handler_host.plugin import InvalidInput, UpstreamError, trace_headers


class GenAi:
    """``sdk = "google-genai"``."""

    lacks: tuple[str, ...] = ()
    lacks_schema_words = False

    def __init__(self, settings: Settings) -> None:
        self._timeout = settings.timeout
        self._plain_timeout = settings.plain_timeout
        # A session of our own: the SDK's has a total timeout, and none for a stream that stalls.
        self.session = aiohttp.ClientSession()
        self._client = genai.Client(
            vertexai=False,
            api_key=settings.key or "no-key",
            http_options=types.HttpOptions(
                base_url=settings.base_url,
                api_version=settings.api_version,
                headers=dict(settings.headers),
                aiohttp_client=self.session,
                # The key is for this server, and for none that it points to.
                async_client_args={"allow_redirects": False},
                # One attempt: else a refused connection is tried again after a hidden wait of 1 to 10 s.
                retry_options=types.HttpRetryOptions(attempts=1),
                # For the synchronous client, which is made, too, and never used: not to read all certificates for it.
                client_args={"verify": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)},
            ),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self.session.close()
        self._client.close()

    async def stream(self, question: Question) -> AsyncIterator[Chunk]:
        """Ask, and read the stream; see :class:`gpt_c.backend.Backend`."""
        config, contents = _config(question), _contents(question)
        with self._telling(self._timeout):
            async with asyncio.timeout(self._timeout):
                answer = await self._client.aio.models.generate_content_stream(
                    model=question.model, contents=list(contents), config=config
                )
            async with aclosing(answer):  # type: ignore[type-var]
                while True:
                    async with asyncio.timeout(self._timeout):
                        message = await anext(answer, None)
                    if message is None:
                        return
                    yield _chunk(message)

    async def whole(self, question: Question) -> AsyncIterator[Chunk]:
        """Ask, and read the answer; see :class:`gpt_c.backend.Backend`."""
        config, contents = _config(question), _contents(question)
        with self._telling(self._plain_timeout):
            async with asyncio.timeout(self._plain_timeout):
                answer = await self._client.aio.models.generate_content(
                    model=question.model, contents=list(contents), config=config
                )
            chunk = _chunk(answer)
        yield chunk

    async def count(self, question: Question) -> int:
        """Return the provider's count; see :class:`gpt_c.backend.Backend`."""
        config, contents = _config(question), _contents(question)
        # The SDK's own arguments for instructions and tools are refused for the Gemini API, which counts them here.
        whole = types.GenerateContentConfig(system_instruction=config.system_instruction, tools=config.tools)
        body = {
            "model": question.model,
            "contents": [content.model_dump(mode="json", by_alias=True, exclude_none=True) for content in contents],
            **whole.model_dump(mode="json", by_alias=True, exclude_none=True),
        }
        if question.system is not None:
            body["systemInstruction"] = {"parts": [{"text": question.system}]}
        options = types.HttpOptions(extra_body={"generateContentRequest": body}, headers=trace_headers())
        with self._telling(self._timeout):
            async with asyncio.timeout(self._timeout):
                counted = await self._client.aio.models.count_tokens(
                    model=question.model, contents=list(contents), config=types.CountTokensConfig(http_options=options)
                )
        if counted.total_tokens is None:
            raise UpstreamError("the provider's count of tokens is invalid")
        return counted.total_tokens

    @contextmanager
    def _telling(self, timeout: float) -> Iterator[None]:
        """Raise the host's errors for those of the SDK and of its transport."""
        try:
            with connection(timeout):
                yield
        except errors.APIError as error:
            headers = getattr(error.response, "headers", {})
            raise from_response(error.code, headers, json.dumps(error.details, default=str).encode()) from error
        except errors.UnknownApiResponseError as error:
            raise UpstreamError("the provider sent a chunk that is not JSON") from error
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            # The SDK's own errors for JSON that does not have the shape of a response.
            raise UpstreamError("the provider sent a chunk that is not a Gemini response") from error


def _contents(question: Question) -> list[types.Content]:
    contents = [types.Content.model_validate(_with_bytes(content)) for content in question.contents]
    if wants_signatures(question.model):
        for content in contents:
            call = next((part for part in content.parts or () if part.function_call is not None), None)
            if call is not None and call.thought_signature is None:
                call.thought_signature = ANY_SIGNATURE
    return contents


def _with_bytes(content: dict[str, Any]) -> dict[str, Any]:
    """Return a content with its signatures as bytes, which the SDK encodes again."""
    parts = [
        {**part, "thought_signature": base64.b64decode(part["thought_signature"] + "==")}
        if "thought_signature" in part
        else part
        for part in content["parts"]
    ]
    return {**content, "parts": parts}


def _config(question: Question) -> types.GenerateContentConfig:
    config: dict[str, Any] = {
        **question.config,
        "system_instruction": question.system,
        "tool_config": question.tool_config,
        "response_json_schema": question.schema,
        "thinking_config": question.thinking,
        "automatic_function_calling": {"disable": True},
        "http_options": {"headers": trace_headers()},
    }
    if question.functions:
        declarations = [
            {("parameters_json_schema" if name == "parameters" else name): value for name, value in function.items()}
            for function in question.functions
        ]
        config["tools"] = [{"function_declarations": declarations}]
    try:
        return types.GenerateContentConfig.model_validate(config)
    except ValueError as error:
        raise InvalidInput(f"the request does not fit google-genai: {error}") from error


def _chunk(message: types.GenerateContentResponse) -> Chunk:
    text, thought, calls, finish = "", "", [], None
    for candidate in (message.candidates or ())[:1]:
        reason = candidate.finish_reason
        if reason is not None and reason != types.FinishReason.FINISH_REASON_UNSPECIFIED:
            finish = reason.value
        for part in (candidate.content.parts if candidate.content else None) or ():
            if part.thought:
                thought += part.text or ""
                continue
            if part.function_call is not None:
                call = part.function_call
                signature = base64.b64encode(part.thought_signature).decode() if part.thought_signature else None
                calls.append(Call(name=call.name or "", arguments=call.args or {}, id=call.id, signature=signature))
            text += part.text or ""
    usage, feedback = message.usage_metadata, message.prompt_feedback
    blocked = feedback.block_reason if feedback is not None else None
    counts = usage.model_dump(by_alias=True, exclude_none=True) if usage is not None else None
    return Chunk(
        text=text,
        thought=thought,
        calls=tuple(calls),
        finish=finish,
        blocked=blocked.value if blocked is not None else None,
        usage=usage_of(counts),
        model=message.model_version,
    )
