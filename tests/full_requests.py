"""Requests with every field that each protocol declares, for the tests of translated pairs."""

from __future__ import annotations

import base64
from typing import Any

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
PDF = base64.b64encode(b"%PDF-1.4").decode()
IMAGE_URL = f"data:image/png;base64,{PNG}"
PDF_URL = f"data:application/pdf;base64,{PDF}"
_URL = "https://127.0.0.1/a"
MARKER = {"type": "ephemeral"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
PARAMETERS = {"type": "object", "properties": {"at": {"type": "string"}}}
GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": "start: /a/"}

_CHAT: dict[str, Any] = {
    "model": "h/m",
    "stream": True,
    "stream_options": {"include_usage": True, "include_obfuscation": False},
    "messages": [
        {"role": "system", "name": "s", "cache_control": MARKER, "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "developer", "name": "d", "cache_control": MARKER, "content": "Be kind."},
        {
            "role": "user",
            "name": "u",
            "content": [
                {"type": "text", "text": "Look.", "cache_control": MARKER},
                {
                    "type": "image_url",
                    "image_url": {"url": IMAGE_URL, "detail": "high"},
                    "cache_control": MARKER,
                },
                {"type": "file", "file": {"file_data": PDF_URL, "filename": "a.pdf"}, "cache_control": MARKER},
                {"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}, "cache_control": MARKER},
            ],
        },
        {
            "role": "assistant",
            "name": "a",
            "cache_control": MARKER,
            "annotations": [],
            "audio": None,
            "function_call": None,
            "reasoning_content": "Hm.",
            "content": [
                {"type": "text", "text": "I look.", "cache_control": MARKER},
                {"type": "refusal", "refusal": "Not there."},
            ],
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "look", "arguments": '{"at": "x"}'},
                    "extra_content": {"google": {"thought_signature": "c2ln"}},
                    "cache_control": MARKER,
                },
                {"id": "c2", "type": "custom", "custom": {"name": "patch", "input": "+1"}},
            ],
        },
        {
            "role": "tool",
            "tool_call_id": "c1",
            "cache_control": MARKER,
            "content": [{"type": "text", "text": "Seen."}, {"type": "image_url", "image_url": {"url": IMAGE_URL}}],
        },
        {"role": "tool", "tool_call_id": "c2", "content": "Done."},
        {"role": "assistant", "content": "No.", "refusal": "I will not."},
        {"role": "user", "content": "Why?", "cache_control": MARKER},
        {
            "role": "assistant",
            "content": "So.",
            "reasoning_details": [{"type": "reasoning.text", "text": "Hm.", "signature": "s", "format": "own"}],
        },
        {"role": "user", "content": "Thanks."},
    ],
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 5,
    "n": 2,
    "max_completion_tokens": 5000,
    "stop": ["x"],
    "seed": 1,
    "logit_bias": {"5": 1},
    "logprobs": True,
    "top_logprobs": 2,
    "tools": [
        {
            "type": "function",
            "function": {"name": "look", "description": "Looks.", "parameters": PARAMETERS, "strict": True},
            "cache_control": MARKER,
        },
        {"type": "custom", "custom": {"name": "patch", "description": "Patches.", "format": GRAMMAR}},
    ],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "answer", "description": "An answer.", "schema": SCHEMA, "strict": True},
    },
    "presence_penalty": 1,
    "frequency_penalty": 1,
    "reasoning_effort": "high",
    "verbosity": "low",
    "service_tier": "flex",
    "prompt_cache_key": "k",
    "cache_control": MARKER,
    "user": "u",
}

_RESPONSES: dict[str, Any] = {
    "model": "h/m",
    "stream": True,
    "stream_options": {"include_obfuscation": False},
    "instructions": "Be brief.",
    "input": [
        {"type": "message", "role": "developer", "content": "Be kind."},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Look."},
                {"type": "input_image", "image_url": IMAGE_URL, "detail": "high", "file_id": None},
                {"type": "input_file", "file_data": PDF_URL, "filename": "a.pdf"},
                {"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}},
            ],
        },
        {
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "Hm."}],
            "encrypted_content": "opaque",
        },
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Well."}], "summary": []},
        {
            "type": "message",
            "role": "assistant",
            "id": "msg_1",
            "status": "completed",
            "phase": "final",
            "content": [
                {"type": "output_text", "text": "I look.", "annotations": [], "logprobs": [], "parsed": None},
                {"type": "refusal", "refusal": "Not there."},
            ],
        },
        {
            "type": "function_call",
            "call_id": "c1",
            "name": "look",
            "arguments": '{"at": "x"}',
            "parsed_arguments": None,
            "caller": None,
        },
        {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": "+1", "namespace": "git"},
        {
            "type": "function_call_output",
            "call_id": "c1",
            "output": [
                {"type": "input_text", "text": "Seen."},
                {"type": "input_image", "image_url": IMAGE_URL},
                {"type": "input_file", "file_data": PDF_URL, "filename": "b.pdf"},
            ],
        },
        {"type": "custom_tool_call_output", "call_id": "c2", "output": "Done."},
        {"type": "additional_tools", "tools": [{"type": "function", "name": "more", "parameters": PARAMETERS}]},
        {"type": "message", "role": "user", "content": "Why?"},
    ],
    "temperature": 0.5,
    "top_p": 0.5,
    "max_output_tokens": 5000,
    "tools": [
        {"type": "function", "name": "look", "description": "Looks.", "parameters": PARAMETERS, "strict": True},
        {
            "type": "namespace",
            "name": "git",
            "description": "Version control.",
            "tools": [{"type": "custom", "name": "patch", "description": "Patches.", "format": GRAMMAR}],
        },
    ],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "text": {
        "format": {
            "type": "json_schema",
            "name": "answer",
            "description": "An answer.",
            "schema": SCHEMA,
            "strict": True,
        },
        "verbosity": "low",
    },
    "reasoning": {"effort": "high", "summary": "auto"},
    "include": ["message.output_text.logprobs"],
    "top_logprobs": 2,
    "prompt_cache_key": "k",
    "service_tier": "flex",
    "user": "u",
}

_MESSAGES: dict[str, Any] = {
    "model": "h/m",
    "stream": True,
    "max_tokens": 5000,
    "system": [{"type": "text", "text": "Be brief.", "cache_control": MARKER}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look.", "cache_control": MARKER},
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/png", "data": PNG},
                    "cache_control": MARKER,
                },
                {
                    "type": "document",
                    "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
                    "title": "a.pdf",
                    "cache_control": MARKER,
                },
                {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Words."}},
                {
                    "type": "document",
                    "source": {"type": "content", "content": [{"type": "text", "text": "More."}]},
                    "title": "b",
                    "cache_control": MARKER,
                },
                {
                    "type": "document",
                    "source": {
                        "type": "content",
                        "content": [{"type": "text", "text": "Most.", "cache_control": MARKER}],
                    },
                },
                {
                    "type": "search_result",
                    "title": "c",
                    "source": "https://example.com/c",
                    "content": [{"type": "text", "text": "Found."}],
                    "cache_control": MARKER,
                },
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "sig"},
                {"type": "redacted_thinking", "data": "opaque"},
                {"type": "text", "text": "I look.", "cache_control": MARKER, "citations": []},
                {
                    "type": "tool_use",
                    "id": "t1",
                    "name": "look",
                    "input": {"at": "x"},
                    "caller": None,
                    "cache_control": MARKER,
                },
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t1",
                    "is_error": True,
                    "cache_control": MARKER,
                    "content": [
                        {"type": "text", "text": "Seen.", "cache_control": MARKER},
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                        {
                            "type": "document",
                            "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
                        },
                    ],
                },
                {"type": "text", "text": "Why?"},
            ],
        },
        {"role": "system", "content": [{"type": "text", "text": "Be kind.", "cache_control": MARKER}]},
    ],
    "tools": [
        {
            "type": "custom",
            "name": "look",
            "description": "Looks.",
            "input_schema": PARAMETERS,
            "strict": True,
            "eager_input_streaming": True,
            "cache_control": MARKER,
        },
        {"name": "find", "input_schema": PARAMETERS},
    ],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    "thinking": {"type": "enabled", "budget_tokens": 2000, "display": "omitted"},
    "cache_control": MARKER,
    "stop_sequences": ["x"],
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 5,
    "metadata": {"user_id": "u"},
    "service_tier": "priority",
}

_GEMINI: dict[str, Any] = {
    "systemInstruction": {"parts": [{"text": "Be brief."}]},
    "contents": [
        {
            "role": "user",
            "parts": [
                {"text": "Look."},
                {"inlineData": {"mimeType": "image/png", "data": PNG, "displayName": "a.png"}},
                {"inlineData": {"mimeType": "application/pdf", "data": PDF, "displayName": "a.pdf"}},
                {"inlineData": {"mimeType": "audio/wav", "data": PNG, "displayName": "a.wav"}},
            ],
        },
        {
            "role": "model",
            "parts": [
                {"text": "Hm.", "thought": True, "thoughtSignature": "c2ln"},
                {"text": "I look.", "thoughtSignature": "c2ln"},
                {
                    "functionCall": {"name": "look", "args": {"at": "x"}, "id": "c1"},
                    "thoughtSignature": "c2ln",
                },
            ],
        },
        {
            "role": "function",
            "parts": [
                {
                    "functionResponse": {
                        "name": "look",
                        "id": "c1",
                        "response": {"seen": True},
                        "parts": [
                            {"inlineData": {"mimeType": "image/png", "data": PNG}},
                        ],
                    }
                }
            ],
        },
        {"role": "user", "parts": [{"text": "Why?"}]},
    ],
    "tools": [
        {
            "functionDeclarations": [
                {"name": "look", "description": "Looks.", "parameters": PARAMETERS},
                {"name": "find", "parametersJsonSchema": PARAMETERS},
            ]
        }
    ],
    "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["look"]}},
    "serviceTier": "priority",
    "generationConfig": {
        "temperature": 0.5,
        "topP": 0.5,
        "topK": 5,
        "maxOutputTokens": 5000,
        "stopSequences": ["x"],
        "seed": 1,
        "candidateCount": 2,
        "presencePenalty": 1,
        "frequencyPenalty": 1,
        "responseLogprobs": True,
        "logprobs": 2,
        "responseMimeType": "application/json",
        "responseSchema": SCHEMA,
        "thinkingConfig": {"includeThoughts": True, "thinkingBudget": 2000},
    },
}
_OLLAMA_CHAT: dict[str, Any] = {
    "model": "h/m",
    "stream": True,
    "keep_alive": "5m",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Look.", "images": [PNG]},
        {
            "role": "assistant",
            "content": "I look.",
            "thinking": "Hm.",
            "tool_calls": [{"id": "c1", "function": {"name": "look", "arguments": {"at": "x"}}}],
        },
        {"role": "tool", "content": "Seen.", "tool_name": "look", "tool_call_id": "c1"},
        {"role": "user", "content": "Why?"},
    ],
    "tools": [{"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": PARAMETERS}}],
    "format": SCHEMA,
    "think": "high",
    "logprobs": True,
    "top_logprobs": 2,
    "options": {
        "temperature": 0.5,
        "top_p": 0.5,
        "top_k": 5,
        "num_predict": 5000,
        "seed": 1,
        "stop": ["x"],
        "presence_penalty": 1,
        "frequency_penalty": 1,
    },
}


def _but(body: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {name: value for name, value in {**body, **fields}.items() if value is not None}


FULL_REQUESTS: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [
        _CHAT,
        _but(
            _CHAT,
            max_completion_tokens=None,
            max_tokens=7,
            stop="x",
            tool_choice={"type": "custom", "custom": {"name": "patch"}},
            parallel_tool_calls=None,
            response_format={"type": "json_object"},
        ),
        _but(
            _CHAT,
            tool_choice={
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [
                        {"type": "function", "function": {"name": "look"}},
                        {"type": "custom", "custom": {"name": "patch"}},
                    ],
                },
            },
        ),
        _but(
            _CHAT,
            messages=[{"role": "user", "content": [{"type": "image_url", "image_url": IMAGE_URL}]}],
            tool_choice={"type": "function", "function": {"name": "look"}},
            parallel_tool_calls=None,
            response_format=None,
        ),
    ],
    "/v1/responses": [
        _RESPONSES,
        _but(
            _RESPONSES,
            input="Look.",
            tool_choice={"type": "function", "name": "look"},
            parallel_tool_calls=None,
            text=None,
        ),
        _but(
            _RESPONSES,
            input="Look.",
            tool_choice={"type": "custom", "name": "patch"},
            parallel_tool_calls=None,
            text={"format": {"type": "json_object"}},
        ),
        _but(
            _RESPONSES,
            input=[
                {"role": "user", "content": [{"type": "input_file", "file_url": _URL, "filename": "a.pdf"}]},
            ],
            tools=[{"type": "function", "name": "look"}, {"type": "function", "name": "find"}],
            parallel_tool_calls=None,
            tool_choice={
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "look"}],
            },
            text=None,
        ),
    ],
    "/v1/messages": [
        _MESSAGES,
        _but(
            _MESSAGES,
            system="Be brief.",
            messages=[
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "source": {"type": "url", "url": _URL}},
                        {"type": "document", "source": {"type": "content", "content": "More."}},
                        {"type": "document", "source": {"type": "url", "url": _URL}, "title": "a.pdf"},
                    ],
                }
            ],
            tool_choice={"type": "tool", "name": "look"},
            output_config={"effort": "low"},
            output_format={"type": "json_schema", "schema": SCHEMA},
            thinking=None,
        ),
    ],
    "gemini": [
        _GEMINI,
        _but(
            _GEMINI,
            contents=[
                {
                    "role": "user",
                    "parts": [{"fileData": {"fileUri": _URL, "mimeType": "application/pdf", "displayName": "a.pdf"}}],
                },
                {"role": "model", "parts": [{"functionCall": {"name": "look"}}]},
                {
                    "role": "user",
                    "parts": [
                        {
                            "functionResponse": {
                                "name": "look",
                                "parts": [{"fileData": {"fileUri": _URL, "mimeType": "application/pdf"}}],
                            }
                        }
                    ],
                },
            ],
            toolConfig={"functionCallingConfig": {"mode": "NONE"}},
            generationConfig={
                "responseMimeType": "application/json",
                "responseJsonSchema": SCHEMA,
                "responseModalities": ["TEXT"],
                "thinkingConfig": {"thinkingLevel": "LOW"},
            },
        ),
    ],
    "/api/chat": [_OLLAMA_CHAT],
}
"""Bodies of each protocol by its path; together they have each declared field."""
