"""Citations in the form of OpenAI's annotations, for its chat completions and its Responses. Pure."""

from __future__ import annotations

import msgspec

from handler_host.chat import types as chat


class UrlCitation(msgspec.Struct, kw_only=True):
    """A source with a URL, and the place in the text that it stands for; the end is exclusive."""

    start_index: int
    end_index: int
    title: str
    url: str


def url_citation(citation: chat.Citation, text_length: int) -> UrlCitation | None:
    """Return a citation, or None for a source without a URL.

    OpenAI has a place for each: without one the citation stands for the whole text so far, of ``text_length``
    characters.
    """
    if citation.url is None:
        return None
    return UrlCitation(
        start_index=citation.start_index or 0,
        end_index=text_length if citation.end_index is None else citation.end_index,
        title=citation.title or citation.url,
        url=citation.url,
    )
