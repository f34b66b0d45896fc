"""LiteLLM's import without the document of a tokenizer."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FILE = "anthropic_tokenizer.json"
TEXT = "claude_json_str"
"""Variable of ``litellm.utils`` with the document as text."""


@contextmanager
def deferred_document() -> Iterator[None]:
    """Keep LiteLLM's import from reading the document, which takes 10 MB.

    LiteLLM uses it to count the tokens of Claude's models, and then gets it from the file.
    """
    paths: list[Path] = []
    load = json.load

    def load_others(file: Any, **options: Any) -> Any:
        path = Path(str(getattr(file, "name", "")))
        if path.name != FILE:
            return load(file, **options)
        paths.append(path)
        return None

    json.load = load_others  # type: ignore[assignment]
    try:
        yield
    finally:
        json.load = load
    if paths:
        _read_at_first_use(paths[0])


def _read_at_first_use(path: Path) -> None:
    utils: Any = sys.modules["litellm.utils"]
    namespace = vars(utils)
    namespace.pop(TEXT, None)
    get_other = namespace.get("__getattr__")

    def __getattr__(name: str) -> Any:  # noqa: N807 - PEP 562
        if name == TEXT:
            text = json.dumps(json.loads(path.read_text(encoding="utf-8")))
            return namespace.setdefault(TEXT, text)
        if get_other is None:
            raise AttributeError(f"module {utils.__name__!r} has no attribute {name!r}", name=name)
        return get_other(name)

    utils.__getattr__ = __getattr__
