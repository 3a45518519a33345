"""What somebody meant who gave a name that is not known."""

import difflib
from collections.abc import Iterable

_ALSO_CALLED = {"gpu": "cuda"}
"""What other programs call something of ours, where no likeness of letters leads to it."""


def nearest(said: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that was probably meant: in other case, by its initials, or of like letters.

    `lr` and `solver.lr` are initials of `solver.learning_rate`.
    """
    by_lower: dict[str, str] = {}
    for name in known:
        by_lower.setdefault(name.lower(), name)
    lower = said.lower()
    lower = _ALSO_CALLED.get(lower, lower)
    if lower in by_lower:
        return by_lower[lower]
    section, _, field = lower.lstrip("-").rpartition(".")
    for name in by_lower:
        of, _, words = name.lstrip("-").rpartition(".")
        if "_" in words and field == "".join(word[:1] for word in words.split("_")) and section in ("", of):
            return by_lower[name]
    near = difflib.get_close_matches(lower, by_lower, n=1, cutoff=cutoff)
    return by_lower[near[0]] if near else None


def suggestion(said: str, known: Iterable[str]) -> str:
    """The same as the end of a message; empty if nothing is near."""
    near = nearest(said, known)
    return f"; did you mean {near!r}?" if near else ""
