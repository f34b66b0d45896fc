"""Facts about a model for the lists of models: context length, modalities, capabilities, price. Pure.

A manifest declares them (``[known_models."NAME"]``), and the configuration overrides single keys
(``[handlers.NAME.known_models."MODEL"]``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from handler_host._internal.suggestions import did_you_mean

MODALITIES = ("text", "image", "audio", "video", "file")
CAPABILITIES = ("tools", "structured_output", "reasoning", "embedding", "count_tokens", "prompt_caching")


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Facts about one model; None and empty: unknown. Prices are in US dollars for a million tokens."""

    context_length: int | None = None
    """Longest prompt and response together, in tokens."""
    max_output_tokens: int | None = None
    """Longest response, in tokens."""
    input: tuple[str, ...] = ()
    """Modalities of requests: text, image, audio, video, file."""
    output: tuple[str, ...] = ()
    """Modalities of responses."""
    capabilities: tuple[str, ...] = ()
    """Abilities: tools, structured_output, reasoning, embedding, count_tokens, prompt_caching."""
    input_price: float | None = None
    """Price of a million input tokens."""
    cached_input_price: float | None = None
    """Price of a million input tokens that the provider reads from its cache."""
    output_price: float | None = None
    """Price of a million output tokens."""


def read_model_info(table: object) -> dict[str, Any]:
    """Return the keys of a table, checked; raises ``ValueError`` with the key and what is wrong."""
    if not isinstance(table, Mapping):
        raise ValueError("must be a table")  # noqa: TRY004 - all flaws are ValueErrors
    return {key: _read(key, value) for key, value in table.items()}


def overlay(declared: Mapping[str, ModelInfo], configured: Mapping[str, Any]) -> dict[str, ModelInfo]:
    """Return the models of a manifest with the keys of the configuration."""
    models = dict(declared)
    for name, table in configured.items():
        models[name] = msgspec.structs.replace(models.get(name, ModelInfo()), **read_model_info(table))
    return models


def _read(key: str, value: object) -> Any:
    if key in ("context_length", "max_output_tokens"):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{key}: must be a whole number, 1 or more")
        return value
    if key in ("input", "output", "capabilities"):
        return _words(key, value, CAPABILITIES if key == "capabilities" else MODALITIES)
    if key in ModelInfo.__struct_fields__:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or value < 0:  # type: ignore[arg-type, operator]
            raise ValueError(f"{key}: must be a number, 0 or more")
        return float(value)  # type: ignore[arg-type]
    raise ValueError(f"unknown key {key}{did_you_mean(key, ModelInfo.__struct_fields__)}")


def _words(key: str, value: object, known: tuple[str, ...]) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{key}: must be a list")  # noqa: TRY004 - all flaws are ValueErrors
    for word in value:
        if word not in known:
            hint = did_you_mean(word, known) if isinstance(word, str) else ""
            raise ValueError(f"{key}: {word!r} is not one of {', '.join(known)}{hint}")
    return tuple(value)
