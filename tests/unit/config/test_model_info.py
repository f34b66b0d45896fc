"""Facts about models: checked, overlaid, and in the fields of each API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from handler_host.catalog.manifest import ManifestError, parse_manifest
from handler_host.config.loader import load_config
from handler_host.config.model_info import ModelInfo, overlay, read_model_info
from handler_host.plugin.errors import ConfigError
from handler_host.protocols.anthropic import responses as anthropic
from handler_host.protocols.openai import responses as openai

FACTS = {
    "context_length": 131072,
    "max_output_tokens": 4096,
    "input": ["text", "image"],
    "output": ["text"],
    "capabilities": ["tools"],
    "input_price": 2,
    "cached_input_price": 0.2,
    "output_price": 6.0,
}


def test_single_keys_are_overlaid() -> None:
    declared = {"a": ModelInfo(context_length=10, input=("text",)), "b": ModelInfo()}
    assert overlay(declared, {"a": {"context_length": 20}, "c": {"output_price": 1}}) == {
        "a": ModelInfo(context_length=20, input=("text",)),
        "b": ModelInfo(),
        "c": ModelInfo(output_price=1.0),
    }


@pytest.mark.parametrize(
    ("table", "error"),
    [
        (3, "must be a table"),
        ({"contextlength": 3}, "unknown key contextlength; did you mean 'context_length'?"),
        ({"context_length": 0}, "context_length: must be a whole number, 1 or more"),
        ({"max_output_tokens": True}, "max_output_tokens: must be a whole number, 1 or more"),
        ({"input": "text"}, "input: must be a list"),
        ({"input": ["images"]}, "input: 'images' is not one of text, image, audio, video, file; did you mean 'image'?"),
        ({"capabilities": ["tool"]}, "capabilities: 'tool' is not one of"),
        ({"output_price": -1}, "output_price: must be a number, 0 or more"),
        ({"output_price": float("inf")}, "output_price: must be a number, 0 or more"),
    ],
)
def test_mistakes_are_named(table: Any, error: str) -> None:
    with pytest.raises(ValueError, match="^" + error.replace("?", r"\?")):
        read_model_info(table)


def test_manifest_and_file(tmp_path: Path) -> None:
    text = '[known_models."org/m-1.5"]\ncontext_length = 10\n'
    assert parse_manifest(text, "handler.toml").known_models == {"org/m-1.5": ModelInfo(context_length=10)}
    with pytest.raises(ManifestError, match=r"handler.toml:1: known_models.m: unknown key price"):
        parse_manifest("[known_models.m]\nprice = 3", "handler.toml")
    path = tmp_path / "host.toml"
    path.write_text('[handlers.x.known_models."m-1.5"]\ncontext_length = "big"\n')
    with pytest.raises(ConfigError, match=r"handlers.x.known_models: m-1.5: context_length: must be a whole number"):
        load_config(path, {})


def test_fields_of_each_api() -> None:
    info = ModelInfo(**read_model_info(FACTS))
    assert msgspec.to_builtins(openai.model("x", "owner", 1, info)) == {
        "id": "x",
        "object": "model",
        "created": 1,
        "owned_by": "owner",
        "context_length": 131072,
        "max_output_tokens": 4096,
        "architecture": {"input_modalities": ("text", "image"), "output_modalities": ("text",)},
        "capabilities": ("tools",),
        "pricing": {"prompt": "0.000002", "completion": "0.000006", "input_cache_read": "0.0000002"},
    }
    assert msgspec.to_builtins(openai.model("x", "owner", 1, ModelInfo())).keys() == {
        "id",
        "object",
        "created",
        "owned_by",
    }
    model = msgspec.to_builtins(anthropic.model("x", "X", 1, info))
    assert (model["max_input_tokens"], model["max_tokens"]) == (131072, 4096)
    for facts in (None, ModelInfo(input=("text",))):
        # Without a word about capabilities they are unknown, not unsupported.
        assert {"max_tokens", "capabilities"}.isdisjoint(msgspec.to_builtins(anthropic.model("x", "X", 1, facts)))


@pytest.mark.sdks
def test_anthropic_has_each_capability_that_its_sdk_requires() -> None:
    """With its values by the types of the SDK, which does not check them itself."""
    from anthropic import types

    info = ModelInfo(input=("text", "image"), capabilities=("reasoning", "structured_output"))
    made = msgspec.to_builtins(anthropic.model("x", "X", 1, info))["capabilities"]
    capabilities = types.ModelCapabilities.model_validate(made, strict=True)
    supported = {name for name, value in capabilities if value is not None and value.supported}
    assert supported == {"effort", "image_input", "structured_outputs", "thinking"}
    assert capabilities.thinking.types.enabled.supported
    assert capabilities.effort.xhigh is not None
    assert capabilities.effort.xhigh.supported
