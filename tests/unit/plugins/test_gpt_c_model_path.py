"""Paths of models in requests to Gemini."""

from __future__ import annotations

import pytest

from gpt_c.model_path import model_path
from handler_host.plugin import InvalidInput


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("gemini-3-pro", "models/gemini-3-pro"),
        ("models/gemini-3-pro", "models/gemini-3-pro"),
        ("tunedModels/own", "tunedModels/own"),
    ],
)
def test_a_model_is_a_path_below_the_version(model: str, path: str) -> None:
    assert model_path(model) == path


@pytest.mark.parametrize(
    "model", ["../cachedContents/1", "models/../../admin", "a/./b", "a//b", "..", "", "a?b=c", "a#b", "%2e%2e/a"]
)
def test_a_model_cannot_lead_to_another_path_of_the_server(model: str) -> None:
    with pytest.raises(InvalidInput, match="model"):
        model_path(model)
