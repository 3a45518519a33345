"""What comes out of one step of a storage's check."""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeVar

T = TypeVar("T")


ROUNDS = 5
"""Small objects that are written and read; a time is the median over them."""


State = Literal["ok", "note", "failed"]
"""`failed`: something that runs need is missing. `note`: something to know."""


@dataclass(frozen=True)
class Finding:
    """One thing that was tried, and what came out."""

    text: str = ""
    """What was found; or what is missing, what to do, and what follows."""
    seconds: float | None = None
    """Of one operation on a small object, where it was measured."""
    state: State = "ok"


def median_seconds(operation: Callable[[T], object], items: Iterable[T]) -> float:
    """Median time of an operation on each of several items."""
    seconds = []
    for item in items:
        started = time.perf_counter()
        operation(item)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
