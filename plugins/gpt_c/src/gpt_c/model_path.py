"""Path of a model at Google, from the name that a client may have chosen. Pure."""

from __future__ import annotations

import re

from handler_host.plugin import InvalidInput

_RESERVED = re.compile(r"[?&#%\\]")


def model_path(model: str) -> str:
    """Return the name with its prefix, ``models/NAME``.

    Raises ``InvalidInput`` for a name that would lead to another path of the server, where the handler's key is valid.
    """
    if _RESERVED.search(model) or not {"", ".", ".."}.isdisjoint(model.split("/")):
        raise InvalidInput(
            f"model {model[:100]!r} is not the name of a model; GET /v1/models lists them", param="model"
        )
    return model if model.startswith(("models/", "tunedModels/")) else f"models/{model}"
