"""Parts of messages and responses: text, images, files, audio, reasoning, refusals, tool calls."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

CacheControl = dict[str, Any]
"""Marker of the end of a cacheable prompt, in Anthropic's form: ``{"type": "ephemeral", "ttl": "1h"}``."""


class Model(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Base of the chat types: keyword arguments only; JSON leaves defaults out."""


class ImageUrl(Model, forbid_unknown_fields=True):
    """An image by ``https:`` or ``data:`` URL."""

    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class FileUrl(Model, forbid_unknown_fields=True):
    """A document by ``https:`` or ``data:`` URL; the media type of a ``data:`` URL is that of the document."""

    url: str
    filename: str | None = None


class AudioData(Model, forbid_unknown_fields=True):
    """A recording: base64, and the format of its container (``wav``, ``mp3`` …)."""

    data: str
    format: str


class TextPart(Model, tag_field="type", tag="text", forbid_unknown_fields=True):
    """Text in a message or a response."""

    text: str
    cache_control: CacheControl | None = None


class ImagePart(Model, tag_field="type", tag="image_url", forbid_unknown_fields=True):
    """An image in a message."""

    image_url: ImageUrl
    cache_control: CacheControl | None = None


class FilePart(Model, tag_field="type", tag="file", forbid_unknown_fields=True):
    """A document in a message: a PDF, or another type that the provider reads."""

    file: FileUrl
    cache_control: CacheControl | None = None


class AudioPart(Model, tag_field="type", tag="input_audio", forbid_unknown_fields=True):
    """A recording in a message."""

    input_audio: AudioData
    cache_control: CacheControl | None = None


class ReasoningPart(Model, tag_field="type", tag="reasoning"):
    """Reasoning of the model.

    ``signature`` and ``encrypted`` are opaque data of the provider; only the provider that ``format`` names can read
    them: ``anthropic``, ``gemini``, ``openai``, or a name that the handler chooses.
    """

    text: str = ""
    signature: str | None = None
    encrypted: str | None = None
    format: str | None = None


class RefusalPart(Model, tag_field="type", tag="refusal"):
    """A refusal of the model, in its own words."""

    text: str


class ToolCallPart(Model, tag_field="type", tag="tool_call"):
    """A tool call of the model; ``arguments`` is a JSON document."""

    id: str
    name: str
    arguments: str
    signature: str | None = None


class Citation(Model):
    """A source of the text of a response, as far as the provider names it.

    ``quote`` is text of the source. ``start_index`` and ``end_index`` are the place in the response, in characters of
    the whole text: the end is exclusive, and either both are known or none.
    """

    url: str | None = None
    title: str | None = None
    quote: str | None = None
    start_index: int | None = None
    end_index: int | None = None


ResponsePart = TextPart | ReasoningPart | RefusalPart | ToolCallPart

MediaPart = ImagePart | FilePart | AudioPart
Content = str | list[TextPart | ImagePart | FilePart | AudioPart]
