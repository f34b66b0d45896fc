"""Responses of Ollama's API, made from the types of ``handler_host.chat.types``. Pure."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from handler_host.chat import types as chat
from handler_host.chat.call_arguments import arguments_of
from handler_host.chat.conversion import to_chunks
from handler_host.lifecycle.reports import HandlerStatus
from handler_host.protocols.chat_service import COUNT_TOKENS, ListedModel

NANOSECONDS = 1_000_000_000
FINISHES = {"length": "length"}
"""Ollama's reasons; every other one is ``stop``."""
NEVER = timedelta(days=3650)
"""Time to the end of a model that is never unloaded."""
ABILITIES = {"tools": "tools", "reasoning": "thinking", "embedding": "embedding"}
"""Ollama's word for each capability of a model."""


class Function(msgspec.Struct):
    """Function of a tool call, with its arguments as an object."""

    name: str
    arguments: dict[str, Any]


class ToolCall(msgspec.Struct):
    """Tool call."""

    id: str
    function: Function


class Message(msgspec.Struct, kw_only=True):
    """Message of a chat, whole or the next part of it."""

    role: str = "assistant"
    content: str = ""
    thinking: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class Chunk(msgspec.Struct, kw_only=True):
    """One line of a stream, or a whole response; durations are nanoseconds."""

    model: str
    created_at: str
    message: Message | UnsetType = UNSET
    response: str | UnsetType = UNSET
    thinking: str | UnsetType = UNSET
    logprobs: list[chat.TokenLogprob] | UnsetType = UNSET
    done: bool = False
    done_reason: str | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET


class ChunkEncoder:
    """Makes the lines of one response from the chunks of a handler.

    ``is_chat`` tells the routes apart: ``/api/generate`` has texts in place of messages. ``load_s`` returns the time
    of the activation in seconds.
    """

    def __init__(self, model: str, *, is_chat: bool, load_s: Callable[[], float] = lambda: 0.0) -> None:
        self._model = model
        self._is_chat = is_chat
        self._load_s = load_s
        self._started_at = time.monotonic()
        self._first_at: float | None = None
        self._reason = "stop"
        self._usage: chat.Usage | None = None
        self._calls: dict[int, tuple[str, str, list[str]]] = {}
        self._logprobs: list[chat.TokenLogprob] = []
        """Log probabilities for the next line."""

    def chunks(self, chunk: chat.ChatChunk) -> list[Chunk]:
        """Return the lines for one chunk: one or none."""
        match chunk:
            case chat.TextChunk() | chat.RefusalChunk():
                return [self._chunk(content=chunk.text)] if chunk.text else []
            case chat.ReasoningChunk():
                return [self._chunk(thinking=chunk.text)] if chunk.text else []
            case chat.ToolCallChunk():
                self._add_call(chunk)
            case chat.FinishChunk():
                self._reason = FINISHES.get(chunk.reason, "stop")
                return self._take_calls()
            case chat.UsageChunk():
                self._usage = chunk.usage
            case chat.LogprobsChunk():
                self._logprobs += chunk.content
            case chat.ModelChunk():
                pass  # clients compare the name with the one of their request
        return []

    def last(self) -> list[Chunk]:
        """Return the last lines, with the token counts."""
        lines = self._take_calls()
        last = self._chunk()
        last.done, last.done_reason = True, self._reason
        now = time.monotonic()
        load_s = self._load_s()
        prompt_s = max(0.0, (self._first_at or now) - self._started_at - load_s)
        last.total_duration = _nanoseconds(now - self._started_at)
        last.load_duration = _nanoseconds(load_s)
        last.prompt_eval_duration = _nanoseconds(prompt_s)
        last.eval_duration = _nanoseconds(max(0.0, now - (self._first_at or now)))
        if self._usage is not None:
            last.prompt_eval_count = self._usage.prompt_tokens
            last.eval_count = self._usage.completion_tokens
        return [*lines, last]

    def whole(self, response: chat.ChatResponse) -> Chunk:
        """Return a whole response."""
        lines = [line for chunk in to_chunks(response) for line in self.chunks(chunk)]
        last = self.last()[-1]
        last.logprobs = response.logprobs or UNSET
        if self._is_chat:
            messages = [line.message for line in lines if isinstance(line.message, Message)]
            calls = [call for message in messages for call in message.tool_calls or ()]
            thinking = "".join(message.thinking or "" for message in messages)
            text = "".join(message.content for message in messages)
            last.message = Message(content=text, thinking=thinking or UNSET, tool_calls=calls or UNSET)
        else:
            last.response = "".join(line.response or "" for line in lines)
            last.thinking = "".join(line.thinking or "" for line in lines) or UNSET
        return last

    def _chunk(
        self, *, content: str = "", thinking: str | UnsetType = UNSET, calls: list[ToolCall] | UnsetType = UNSET
    ) -> Chunk:
        if self._first_at is None:
            self._first_at = time.monotonic()
        line = Chunk(model=self._model, created_at=_timestamp(datetime.now(UTC)))
        if self._logprobs:
            line.logprobs, self._logprobs = self._logprobs, []
        if self._is_chat:
            line.message = Message(content=content, thinking=thinking, tool_calls=calls)
        else:
            line.response, line.thinking = content, thinking
        return line

    def _add_call(self, chunk: chat.ToolCallChunk) -> None:
        call_id, name, arguments = self._calls.get(chunk.index, ("", "", []))
        self._calls[chunk.index] = (chunk.id or call_id, chunk.name or name, arguments)
        arguments.append(chunk.arguments)

    def _take_calls(self) -> list[Chunk]:
        """Return one line with all tool calls: their arguments are objects, so they must be whole."""
        calls = [
            ToolCall(call_id, Function(name, arguments_of("".join(parts))))
            for call_id, name, parts in self._calls.values()
        ]
        self._calls.clear()
        return [self._chunk(calls=calls)] if calls and self._is_chat else []


def loaded(model: str, *, is_chat: bool, reason: str) -> Chunk:
    """Return the response to a request without a prompt, which only loads or unloads a model."""
    line = Chunk(model=model, created_at=_timestamp(datetime.now(UTC)), done=True, done_reason=reason)
    if is_chat:
        line.message = Message()
    else:
        line.response = ""
    return line


def tag(listed: ListedModel, modified: datetime) -> dict[str, Any]:
    """Return an entry of the list of models."""
    return {
        "name": listed.name,
        "model": listed.name,
        "modified_at": _timestamp(modified),
        "size": listed.handler.learned_pss or 0,
        "digest": _digest(listed),
        "details": _details(listed.handler),
    }


def running(listed: ListedModel, now: datetime) -> dict[str, Any]:
    """Return an entry of the list of models in memory; one that is never unloaded expires in the far future."""
    expires_in = listed.handler.expires_in
    expires = now + (NEVER if expires_in is None else timedelta(seconds=min(expires_in, NEVER.total_seconds())))
    info = listed.info
    return {
        "name": listed.name,
        "model": listed.name,
        "size": listed.handler.pss or 0,
        "digest": _digest(listed),
        "details": _details(listed.handler),
        "expires_at": _timestamp(expires),
        "size_vram": 0,
        "context_length": (info.context_length or 0) if info is not None else 0,
    }


def details(listed: ListedModel, modified: datetime) -> dict[str, Any]:
    """Return what ``/api/show`` has about a model; unknown capabilities count as present."""
    family = _family(listed.handler)
    facts: dict[str, Any] = {"general.architecture": family, "general.basename": listed.model or listed.name}
    info = listed.info
    if info is not None and info.context_length is not None:
        facts[f"{family}.context_length"] = info.context_length
    if info is not None and (info.capabilities or info.input):
        abilities = [ABILITIES[word] for word in info.capabilities if word in ABILITIES]
        abilities += ["vision"] if "image" in info.input else []
    else:
        abilities = ["tools", "vision"]
    return {
        "modelfile": "",
        "parameters": "",
        "template": "",
        "license": "",
        "details": _details(listed.handler),
        "model_info": facts,
        "capabilities": ["completion", *abilities],
        "modified_at": _timestamp(modified),
        "counts_tokens": listed.has_operation(COUNT_TOKENS),
    }


def _family(status: HandlerStatus) -> str:
    """Return what stands for Ollama's family of a model: the plugin of its handler."""
    return status.plugin or status.name


def _details(status: HandlerStatus) -> dict[str, Any]:
    family = _family(status)
    return {
        "parent_model": "",
        "format": "handler",
        "family": family,
        "families": [family],
        "parameter_size": "",
        "quantization_level": "",
    }


def _digest(listed: ListedModel) -> str:
    """Return the digest under which clients keep the facts of ``details``: other facts, another digest."""
    handler = listed.handler
    facts = (listed.name, _family(handler), handler.distribution, handler.version, listed.model, listed.info)
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()


def _nanoseconds(seconds: float) -> int:
    return int(seconds * NANOSECONDS)


def _timestamp(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
