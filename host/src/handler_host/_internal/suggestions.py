"""Suggest the known word that a misspelt word probably means."""

from __future__ import annotations

from collections.abc import Iterable

MAX_WORD_LENGTH = 256
"""Longest word that is compared: a client may send a name of a megabyte."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is most similar to ``word``, or None if none is similar enough."""
    if len(word) > MAX_WORD_LENGTH:
        return None
    import difflib  # only an error message needs it: keep it out of the idle host

    words = {candidate.lower().replace("-", "_"): candidate for candidate in sorted(known)}
    matches = difflib.get_close_matches(word.lower().replace("-", "_"), words, n=1, cutoff=0.6)
    return words[matches[0]] if matches else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown word: ``; did you mean 'x'?``, or else the list of known words."""
    words = sorted(known)
    match = nearest(word, words)
    if match is not None:
        return f"; did you mean {match!r}?"
    return f"; known: {', '.join(words)}" if words else ""
