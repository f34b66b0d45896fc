"""The nearest right word to a wrong one."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that was probably meant, or None."""
    import difflib  # needed only where somebody has made a mistake

    words = {candidate.lower().replace("-", "_"): candidate for candidate in sorted(known)}
    found = difflib.get_close_matches(word.lower().replace("-", "_"), words, n=1, cutoff=0.6)
    return words[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence on an unknown word: ``; did you mean 'x'?``, or else what is known."""
    words = sorted(known)
    found = nearest(word, words)
    if found is not None:
        return f"; did you mean {found!r}?"
    return f"; known: {', '.join(words)}" if words else ""
