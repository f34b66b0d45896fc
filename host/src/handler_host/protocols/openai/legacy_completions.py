"""OpenAI's older completions on top of chats: a prompt is the message of the user. Pure."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from handler_host.chat import types as chat
from handler_host.plugin.errors import InvalidInput
from handler_host.protocols.body_decoder import BodyDecoder
from handler_host.protocols.fields import IgnoredFields, demand, hint
from handler_host.protocols.openai.requests import StreamOptions
from handler_host.protocols.openai.responses import Usage, to_usage
from handler_host.protocols.translated_request import TranslatedRequest, several

FIELDS = {
    "best_of": hint(1),
    "echo": demand(False),
    "logprobs": demand(0),
    "suffix": demand(),
    "user": hint(),
}
"""Fields that a chat request has no place for."""


class CompletionRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/completions``."""

    model: Annotated[str, Meta(min_length=1)]
    prompt: str | list[str | int | list[int]]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    logit_bias: dict[str, float] | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream must end with a chunk of usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def to_chat(self, ignored: IgnoredFields) -> TranslatedRequest:
        """Return the request for handlers."""
        request = chat.ChatRequest(
            messages=[chat.UserMessage(content=self._text())],
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            stop=[self.stop] if isinstance(self.stop, str) else self.stop,
            seed=self.seed,
            n=several(self.n),
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=self.logit_bias,
        )
        return TranslatedRequest(request, ["prompt"], [], {}, ignored)

    def _text(self) -> str:
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if len(prompts) == 1 and isinstance(prompts[0], str):
            return prompts[0]
        problem = "must be one text; send one request for each prompt, and texts instead of tokens"
        raise InvalidInput(f"prompt: {problem}", param="prompt")


class Choice(msgspec.Struct, kw_only=True):
    """A text that continues the prompt, or the part of it that a chunk adds."""

    text: str
    index: int = 0
    logprobs: None = None
    finish_reason: str | None = None


class Completion(msgspec.Struct, kw_only=True):
    """A whole response, or one chunk of a stream."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | UnsetType = UNSET
    system_fingerprint: str | UnsetType = UNSET


class CompletionEncoder:
    """Makes the chunks of one stream, or the whole response."""

    def __init__(self, *, completion_id: str, created: int, model: str, include_usage: bool) -> None:
        self._id = completion_id
        self._created = created
        self._model = model
        self._fingerprint: str | None = None
        self._include_usage = include_usage
        self._usage: chat.Usage | None = None
        self._reasons = {0: "stop"}
        """Finish reason of each choice."""

    def chunks(self, chunk: chat.ChatChunk) -> list[Completion]:
        """Return the chunks to send for one chunk of the handler: one for text, else none."""
        match chunk:
            case chat.TextChunk() | chat.RefusalChunk():
                return [self._completion([Choice(text=chunk.text, index=chunk.choice)])]
            case chat.FinishChunk():
                self._reasons[chunk.choice] = _reason(chunk.reason)
            case chat.ModelChunk():
                self._model, self._fingerprint = chunk.model, chunk.system_fingerprint
            case chat.UsageChunk():
                self._usage = chunk.usage
            case _:
                pass  # completions have no field for reasoning and tool calls
        return []

    def last(self) -> list[Completion]:
        """Return the chunks to send after the handler's last one."""
        chunks = [
            self._completion([Choice(text="", index=number, finish_reason=reason)])
            for number, reason in self._reasons.items()
        ]
        if self._include_usage and self._usage is not None:
            last = self._completion([])
            last.usage = to_usage(self._usage)
            chunks.append(last)
        return chunks

    def whole(self, response: chat.ChatResponse) -> Completion:
        """Return a whole response."""
        self._model, self._fingerprint = response.model or self._model, response.system_fingerprint
        choices = [
            Choice(text=choice.text or choice.refusal or "", index=number, finish_reason=_reason(choice.finish_reason))
            for number, choice in enumerate(response.choices)
        ]
        completion = self._completion(choices)
        if response.usage is not None:
            completion.usage = to_usage(response.usage)
        return completion

    def _completion(self, choices: list[Choice]) -> Completion:
        return Completion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=choices,
            system_fingerprint=self._fingerprint or UNSET,
        )


def decode_completion(body: bytes, ignored: IgnoredFields) -> tuple[CompletionRequest, TranslatedRequest]:
    """Return the request in ``body``, and its translation; raises ``InvalidInput`` with the path to the field."""
    request = _decoder.decode(body, ignored)
    return request, request.to_chat(ignored)


def _reason(reason: str) -> str:
    return "stop" if reason == "tool_calls" else reason


_decoder = BodyDecoder(CompletionRequest, fields=FIELDS)
