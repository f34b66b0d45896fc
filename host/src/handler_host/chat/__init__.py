"""Chat contract: request and response types, their validation, and the base class of chat handlers.

A GPT variant is a class with one method::

    from handler_host.chat import ChatHandler, ChatRequest

    class Parrot(ChatHandler):
        async def stream(self, request: ChatRequest):
            for word in request.last_text().split():
                yield word + " "

The names are imported on first use: the host translates to and from ``handler_host.chat.types`` without loading the
code for plugins.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handler_host.chat.call_arguments import arguments_of
    from handler_host.chat.call_ids import fit_call_ids
    from handler_host.chat.completion_decoder import (
        CompletionDecoder,
        StreamDecoder,
        decode_stream,
        usage_from,
    )
    from handler_host.chat.completion_encoder import DEFAULT_FILENAME, completion_body, is_openai, tool_names
    from handler_host.chat.conversion import accumulate, to_chunks
    from handler_host.chat.embeddings import EmbedRequest, EmbedResponse, embed_response, embedding_body
    from handler_host.chat.finish_reasons import finish_reason_of
    from handler_host.chat.handler import ChatHandler, raise_truncated
    from handler_host.chat.support import TOOL_MEDIA, leave_out_unsupported
    from handler_host.chat.tokens import token_count
    from handler_host.chat.tool_schemas import flatten_tool_schemas
    from handler_host.chat.types import (
        AssistantMessage,
        AudioData,
        AudioPart,
        CacheControl,
        ChatChoice,
        ChatChunk,
        ChatRequest,
        ChatResponse,
        Citation,
        CitationChunk,
        Content,
        FilePart,
        FileUrl,
        FinishChunk,
        FinishReason,
        FunctionCall,
        FunctionSpec,
        IgnoredChunk,
        ImagePart,
        ImageUrl,
        JsonObjectFormat,
        JsonSchema,
        JsonSchemaFormat,
        LogprobsChunk,
        MediaPart,
        Message,
        ModelChunk,
        NamedFunction,
        NamedToolChoice,
        ReasoningChunk,
        ReasoningOptions,
        ReasoningPart,
        RefusalChunk,
        RefusalPart,
        ResponsePart,
        SystemMessage,
        TextChunk,
        TextFormat,
        TextPart,
        TokenCount,
        TokenLogprob,
        Tool,
        ToolCall,
        ToolCallChunk,
        ToolCallPart,
        ToolMessage,
        TopLogprob,
        Usage,
        UsageChunk,
        UserMessage,
        content_text,
    )
    from handler_host.chat.validation import data_of, image_of, target_of, validate_request

__all__ = [
    "DEFAULT_FILENAME",
    "TOOL_MEDIA",
    "AssistantMessage",
    "AudioData",
    "AudioPart",
    "CacheControl",
    "ChatChoice",
    "ChatChunk",
    "ChatHandler",
    "ChatRequest",
    "ChatResponse",
    "Citation",
    "CitationChunk",
    "CompletionDecoder",
    "Content",
    "EmbedRequest",
    "EmbedResponse",
    "FilePart",
    "FileUrl",
    "FinishChunk",
    "FinishReason",
    "FunctionCall",
    "FunctionSpec",
    "IgnoredChunk",
    "ImagePart",
    "ImageUrl",
    "JsonObjectFormat",
    "JsonSchema",
    "JsonSchemaFormat",
    "LogprobsChunk",
    "MediaPart",
    "Message",
    "ModelChunk",
    "NamedFunction",
    "NamedToolChoice",
    "ReasoningChunk",
    "ReasoningOptions",
    "ReasoningPart",
    "RefusalChunk",
    "RefusalPart",
    "ResponsePart",
    "StreamDecoder",
    "SystemMessage",
    "TextChunk",
    "TextFormat",
    "TextPart",
    "TokenCount",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "ToolCallChunk",
    "ToolCallPart",
    "ToolMessage",
    "TopLogprob",
    "Usage",
    "UsageChunk",
    "UserMessage",
    "accumulate",
    "arguments_of",
    "completion_body",
    "content_text",
    "data_of",
    "decode_stream",
    "embed_response",
    "embedding_body",
    "finish_reason_of",
    "fit_call_ids",
    "flatten_tool_schemas",
    "image_of",
    "is_openai",
    "leave_out_unsupported",
    "raise_truncated",
    "target_of",
    "to_chunks",
    "token_count",
    "tool_names",
    "usage_from",
    "validate_request",
]

_MODULES = {
    "call_arguments": ("arguments_of",),
    "call_ids": ("fit_call_ids",),
    "completion_encoder": ("DEFAULT_FILENAME", "completion_body", "is_openai", "tool_names"),
    "completion_decoder": ("CompletionDecoder", "StreamDecoder", "decode_stream", "usage_from"),
    "embeddings": ("EmbedRequest", "EmbedResponse", "embed_response", "embedding_body"),
    "conversion": ("accumulate", "to_chunks"),
    "finish_reasons": ("finish_reason_of",),
    "handler": ("ChatHandler", "raise_truncated"),
    "tokens": ("token_count",),
    "tool_schemas": ("flatten_tool_schemas",),
    "support": ("TOOL_MEDIA", "leave_out_unsupported"),
    "validation": ("data_of", "image_of", "target_of", "validate_request"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import the module that defines ``name``."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF.get(name, 'types')}"), name)
