"""Sentences on unknown words."""

import difflib
from collections.abc import Iterable


def closest(word: str, known: Iterable[str], what: str, otherwise: str = "") -> str:
    """Return a sentence on an unknown word that suggests the most similar known one.

    Args:
        word: the unknown word.
        known: the known words.
        what: what they name, as in "there is no agent dqm".
        otherwise: the hint if no known word is similar; "" to list all of them.
    """
    by_lower = {name.lower(): name for name in reversed(list(known))}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.4)
    every = ", ".join(reversed(by_lower.values()))
    hint = f"did you mean {by_lower[near[0]]}?" if near else otherwise or f"there are {every}"
    return f"there is no {what} {word}; {hint}"
