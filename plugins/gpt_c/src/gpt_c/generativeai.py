"""The backend on google-generativeai 0.8.6, whose support has ended.

The SDK makes the request; aiohttp sends it, and the host's reader reads the response. None of the SDK's own transports
can be used: its asynchronous REST is a TypeError, its gRPC takes no address without TLS, its synchronous REST needs a
thread that cannot be cancelled, and its asynchronous stream holds each chunk back until the next one has come. There
will be no further release, so the one private method that is used here will not change.
"""

from __future__ import annotations

import base64
import json
import warnings
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

import aiohttp

from gpt_c.backend import ANY_SIGNATURE, Chunk, Question, Settings, wants_signatures
from gpt_c.documents import chunk_of
from gpt_c.failures import connection, from_response
from gpt_c.schemas import to_google
from handler_host.plugin import InvalidInput, UpstreamError, read_documents, trace_headers

with warnings.catch_warnings():
    # Two of them: that the SDK's support has ended, which README.md says, and one on the version of Python.
    warnings.simplefilter("ignore", FutureWarning)
    from google.generativeai import protos
    from google.generativeai.generative_models import GenerativeModel
    from google.protobuf.json_format import ParseError

_CAMEL = {
    "include_thoughts": "includeThoughts",
    "thinking_budget": "thinkingBudget",
    "thinking_level": "thinkingLevel",
}
_EVENTS = {"alt": "sse"}
_JSON = {"including_default_value_fields": False, "use_integers_for_enums": False}


class GenerativeAi:
    """``sdk = "google-generativeai"``."""

    lacks: tuple[str, ...] = ("seed",)
    lacks_schema_words = True

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        headers = {**settings.headers, "x-goog-api-key": settings.key} if settings.key else settings.headers
        self.session = aiohttp.ClientSession(headers=headers)

    async def close(self) -> None:
        """Close the connections."""
        await self.session.close()

    def stream(self, question: Question) -> AsyncIterator[Chunk]:
        """Ask, and read the stream; see :class:`gpt_c.backend.Backend`."""
        return self._chunks(question, "streamGenerateContent", self._settings.timeout, _EVENTS)

    def whole(self, question: Question) -> AsyncIterator[Chunk]:
        """Ask, and read the answer; see :class:`gpt_c.backend.Backend`."""
        return self._chunks(question, "generateContent", self._settings.plain_timeout)

    async def count(self, question: Question) -> int:
        """Return the provider's count; see :class:`gpt_c.backend.Backend`."""
        body = {"generateContentRequest": {**_body(question), "model": question.model}}
        async with self._post(question, "countTokens", body, self._settings.timeout) as response:
            text = (await response.read()).decode(errors="replace")
        try:
            return int(protos.CountTokensResponse.from_json(text, ignore_unknown_fields=True).total_tokens)
        except ParseError as error:
            raise UpstreamError(f"the provider's count of tokens is invalid: {text[:200]}") from error

    async def _chunks(
        self, question: Question, method: str, wait_s: float, params: Mapping[str, str] | None = None
    ) -> AsyncIterator[Chunk]:
        async with self._post(question, method, _body(question), wait_s, params) as response:
            documents = read_documents(response.content.iter_any(), response.content_type)
            async with aclosing(documents):
                async for document in documents:
                    yield chunk_of(document, response.content_type)

    @asynccontextmanager
    async def _post(
        self,
        question: Question,
        method: str,
        body: dict[str, Any],
        wait_s: float,
        params: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a body, and give the response; raises the host's errors, also for a status that is not 2xx."""
        settings = self._settings
        with connection(wait_s):
            async with self.session.post(
                settings.url(question.model, method),
                params=params,
                json=body,
                headers=trace_headers(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.timeout, sock_read=wait_s),
                allow_redirects=False,
            ) as response:
                if response.status >= 300:
                    raise from_response(response.status, response.headers, await response.read())
                yield response


def _body(question: Question) -> dict[str, Any]:
    """Return the JSON of the request that the SDK makes of a question."""
    config = dict(question.config)
    if question.schema is not None:
        config["response_schema"] = protos.Schema(to_google(question.schema, "response_format.json_schema.schema"))
    functions = [
        {**function, "parameters": to_google(function["parameters"], f"tools[{number}].function.parameters")}
        if "parameters" in function
        else function
        for number, function in enumerate(question.functions)
    ]
    tools = [protos.Tool(function_declarations=functions)] if functions else None
    try:
        model = GenerativeModel(question.model, system_instruction=question.system)
        request = model._prepare_request(
            contents=[protos.Content(_without_signatures(content)) for content in question.contents],
            generation_config=cast(Any, config),
            tools=tools,
            tool_config=protos.ToolConfig(question.tool_config) if question.tool_config else None,
        )
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"the request does not fit google-generativeai: {error}") from error
    body: dict[str, Any] = json.loads(protos.GenerateContentRequest.to_json(request, **_JSON))
    del body["model"]
    if question.thinking is not None:  # newer than the SDK's messages
        thinking = {_CAMEL[name]: value for name, value in question.thinking.items()}
        body.setdefault("generationConfig", {})["thinkingConfig"] = thinking
    signature = base64.b64encode(ANY_SIGNATURE).decode() if wants_signatures(question.model) else None
    for content, original in zip(body["contents"], question.contents, strict=True):
        unsigned = signature is not None
        for part, source in zip(content["parts"], original["parts"], strict=True):
            # The SDK's messages know numbers with a fraction only (1 becomes 1.0), and no signatures.
            if "functionCall" in part:
                part["functionCall"]["args"] = source["function_call"]["args"]
                own = source.get("thought_signature")
                if unsigned or own:
                    part["thoughtSignature"], unsigned = own or signature, False
            elif "functionResponse" in part:
                part["functionResponse"]["response"] = source["function_response"]["response"]
    return body


def _without_signatures(content: dict[str, Any]) -> dict[str, Any]:
    """Return a content without the field that the SDK's messages do not know."""
    parts = [{name: value for name, value in part.items() if name != "thought_signature"} for part in content["parts"]]
    return {**content, "parts": parts}
