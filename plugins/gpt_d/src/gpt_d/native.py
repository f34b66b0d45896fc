"""Native operations: a client's protocol passed on as it came, where the provider of the model speaks it.

LiteLLM finds the provider and its address, and its HTTP client carries the bytes: its functions would model each
request and each event. The host translates a request for any other provider, and for deployments.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, NamedTuple

from gpt_d.deployments import Settings, key_of
from handler_host.plugin import (
    CallInfo,
    Context,
    HostError,
    NativeRequest,
    NativeResponse,
    Retries,
    UnknownOperation,
    from_httpx,
    is_for_responses,
    is_missing_route,
    native,
    provider_refusal,
    relay_httpx,
    retry_stream,
    timeout_error,
    trace_headers,
)

OPENAI = {
    "openai": "https://api.openai.com/v1",
    "openrouter": "https://openrouter.ai/api/v1",
    **dict.fromkeys(("deepseek", "groq", "hosted_vllm", "llamafile", "lm_studio", "mistral", "together_ai", "xai")),
}
"""Providers that speak OpenAI's protocol, with their addresses where LiteLLM has none."""
ANTHROPIC = "https://api.anthropic.com"
BETA = "anthropic-beta"
VERSION = "2023-06-01"
"""Version of Anthropic's API for a client that names none."""
RESPONSES = "/responses"
ROUTES = {
    "openai.chat": "/chat/completions",
    "openai.responses": RESPONSES,
    "openai.embeddings": "/embeddings",
    "anthropic.messages": "/v1/messages",
}
"""Path of each operation below the provider's address."""
MAX_WITHOUT_RESPONSES = 100
"""Most addresses that are remembered because they have no Responses API."""


class Target(NamedTuple):
    """A provider that speaks the client's protocol."""

    url: str
    model: str
    headers: dict[str, str]


class NativeLiteLLM:
    """Native operations of a handler on LiteLLM."""

    context: Context
    _groups: dict[str, Any]
    _model: str
    _plain_timeout: float
    _retries: Retries
    _settings: Settings
    _timeout: float
    _without_responses: set[str]
    """Addresses of servers without the Responses API, as far as is known."""

    @native("openai.chat")
    async def native_chat(self, request: NativeRequest, call: CallInfo) -> AsyncIterator[NativeResponse | bytes]:
        """Pass a chat completion on."""
        async with aclosing(self._pass_on(request, call)) as parts:
            async for part in parts:
                yield part

    @native("openai.responses")
    async def native_responses(self, request: NativeRequest, call: CallInfo) -> AsyncIterator[NativeResponse | bytes]:
        """Pass a request of the Responses API on."""
        async with aclosing(self._pass_on(request, call)) as parts:
            async for part in parts:
                yield part

    @native("anthropic.messages")
    async def native_messages(self, request: NativeRequest, call: CallInfo) -> AsyncIterator[NativeResponse | bytes]:
        """Pass a message on."""
        async with aclosing(self._pass_on(request, call)) as parts:
            async for part in parts:
                yield part

    @native("openai.embeddings")
    async def native_embeddings(self, request: NativeRequest, call: CallInfo) -> AsyncIterator[NativeResponse | bytes]:
        """Pass a request for embeddings on."""
        async with aclosing(self._pass_on(request, call)) as parts:
            async for part in parts:
                yield part

    def _pass_on(self, request: NativeRequest, call: CallInfo) -> AsyncGenerator[NativeResponse | bytes, None]:
        is_embedding = request.operation == "openai.embeddings"
        model = request.model or (self.context.config["embedding_model"] if is_embedding else self._model)
        target = self._target(request, model)
        if target is None or target.url in self._without_responses:
            raise UnknownOperation(f"the provider of {model!r} does not speak {request.operation}")
        request.model = target.model
        payload = request.payload(target.model)
        return retry_stream(lambda: self._attempt(target, request, payload), self._retries, deadline=call.deadline)

    async def _attempt(
        self, target: Target, request: NativeRequest, payload: bytes
    ) -> AsyncIterator[NativeResponse | bytes]:
        import litellm
        from litellm.llms.custom_httpx.http_handler import get_async_httpx_client

        client = get_async_httpx_client(llm_provider=litellm.LlmProviders.OPENAI).client
        wait_s = self._timeout if request.stream else self._plain_timeout
        message = client.build_request(
            "POST",
            target.url,
            content=payload,
            headers=target.headers,
            params=dict(request.query),
            timeout=None,  # each step has its limit below
        )
        try:
            async with asyncio.timeout(wait_s):
                response = await client.send(message, stream=True, follow_redirects=False)
                if not response.is_success:
                    await response.aread()
                    raise self._refusal(target, response)
            async with aclosing(relay_httpx(response)) as parts:
                while True:
                    async with asyncio.timeout(wait_s):
                        part = await anext(parts, None)
                    if part is None:
                        return
                    yield part
        except HostError:
            raise
        except TimeoutError as error:
            raise timeout_error(wait_s) from error
        except Exception as error:
            host_error = from_httpx(error, wait_s)
            if host_error is None:
                raise
            raise host_error from error

    def _refusal(self, target: Target, response: Any) -> HostError:
        headers = {name.lower(): value for name, value in response.headers.items()}
        refusal = NativeResponse(response.status_code, headers, response.content)
        if target.url.endswith(RESPONSES) and is_missing_route(refusal):
            if len(self._without_responses) < MAX_WITHOUT_RESPONSES:
                self._without_responses.add(target.url)
            return UnknownOperation("the provider has no Responses API")
        if is_for_responses(refusal):
            return UnknownOperation("the provider gives this model no tools beside reasoning in chat completions")
        return provider_refusal(refusal)

    def _target(self, request: NativeRequest, model: str) -> Target | None:
        """Return where a model's requests go, or None if its provider speaks another protocol.

        A name of deployments has no target: LiteLLM's Router chooses among servers of several protocols.
        """
        import litellm

        if model in self._groups:
            return None
        try:
            name, provider, _, default_base = litellm.get_llm_provider(model)
        except litellm.BadRequestError:
            return None
        base = self._settings.api_base.get(provider)
        key = key_of(provider, None, self.context.secrets)
        own = {header.lower(): value for header, value in self._settings.headers.items()}
        headers = {**own, "content-type": "application/json", **request.headers, **trace_headers()}
        route = ROUTES[request.operation]
        if request.operation == "anthropic.messages":
            if provider != "anthropic":
                return None
            base = (base or ANTHROPIC).rstrip("/").removesuffix(route).removesuffix("/v1")
            headers.setdefault("anthropic-version", VERSION)
            if BETA in own and BETA in request.headers:
                headers[BETA] = f"{own[BETA]},{request.headers[BETA]}"
            if key:
                headers.setdefault("x-api-key", key)
        else:
            base = (base or default_base or OPENAI.get(provider) or "").rstrip("/")
            # LiteLLM reads more into a name like openai/responses/MODEL.
            if provider not in OPENAI or not base or name.startswith("responses/"):
                return None
            if key:
                headers.setdefault("authorization", f"Bearer {key}")
        return Target(base + route, name, headers)
