"""LiteLLM's import, and what it needs for the host: no network, little memory, no redirects, each byte noted."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from functools import partialmethod
from pathlib import Path
from typing import Any

from handler_host.plugin import note_bytes, repair_aiohttp

SWITCHES = {
    # No look-ups on the network, neither at import nor later.
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    # Else it loads the next `.env` above its environment, and with it what other handlers' keys may stand there.
    "LITELLM_MODE": "PRODUCTION",
}
"""Variables that LiteLLM reads when it is imported."""
MAX_ERROR_CHARS = 16 * 1024
"""Characters of an error in which LiteLLM searches for secrets, and which it keeps."""
FILE = "anthropic_tokenizer.json"
TEXT = "claude_json_str"
"""Variable of ``litellm.utils`` with the document as text."""


def import_litellm() -> Any:
    """Import LiteLLM: here, and not at the top, as the module is imported to look at it, the SDK only to be used."""
    os.environ.update(SWITCHES)
    with _deferred_document():
        import litellm
        import litellm.utils  # with lean imports it would come later, and read the document
        from litellm.litellm_core_utils import secret_redaction
    repair_aiohttp()
    _follow_no_redirects()
    redact = secret_redaction._python_redact_string
    # LiteLLM searches each error for secrets several times, a second and more for each MB.
    secret_redaction.python_redact_string = lambda value: redact(value[:MAX_ERROR_CHARS])
    _note_bytes_of_responses()
    _accept_any_header()
    return litellm


def _note_bytes_of_responses() -> None:
    """Note each byte that httpx reads: LiteLLM hides comments, pings and parts of events."""
    import httpx

    read: Any = httpx.Response.aiter_raw
    if read.__module__ == __name__:
        return

    async def aiter_raw(response: httpx.Response, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        async with aclosing(read(response, chunk_size)) as chunks:
            async for chunk in chunks:
                note_bytes()
                yield chunk

    httpx.Response.aiter_raw = aiter_raw  # type: ignore[method-assign, assignment]


def _accept_any_header() -> None:
    """Accept responses whose headers are not ASCII: LiteLLM's transport on aiohttp gives httpx their text."""
    import httpx

    make: Any = httpx.Response.__init__
    if make.__module__ == __name__:
        return

    def make_response(response: httpx.Response, *arguments: Any, headers: Any = None, **options: Any) -> None:
        if isinstance(headers, Mapping) and not isinstance(headers, httpx.Headers):
            headers = [(name.encode(), value.encode(errors="surrogateescape")) for name, value in headers.items()]
        make(response, *arguments, headers=headers, **options)

    httpx.Response.__init__ = make_response  # type: ignore[method-assign, assignment]


def _follow_no_redirects() -> None:
    """Make LiteLLM's clients follow no redirects: keys and chats are for the configured server."""
    from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler
    from litellm.llms.openai.common_utils import BaseOpenAILLM

    handler: Any = AsyncHTTPHandler
    openai: Any = BaseOpenAILLM
    make_client = openai._get_async_http_client
    if make_client.__module__ == __name__:
        return

    def make_client_without_redirects(*arguments: Any, **options: Any) -> Any:
        client = make_client(*arguments, **options)
        client.follow_redirects = False
        return client

    handler.__init__ = partialmethod(handler.__init__, follow_redirects=False)
    openai._get_async_http_client = staticmethod(make_client_without_redirects)


@contextmanager
def _deferred_document() -> Iterator[None]:
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
