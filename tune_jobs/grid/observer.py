"""Who is told of a grid's trials while they run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tune_jobs.grid.experiment import Trial


def nothing(*_: object) -> None:
    """Whoever is told of nothing: shows nothing."""


@dataclass(frozen=True)
class Observer:
    """Callbacks in the process that launched a grid; each is optional."""

    on_launch: Callable[[list[Trial]], None] = nothing
    """Called once with the trials that are to run, the longest first, before Ray starts."""
    on_start: Callable[[Trial], None] = nothing
    """Called with a trial that starts: its workers, if it has several, take seconds to come up."""
    on_result: Callable[[Trial, dict[str, Any]], None] = nothing
    """Called with a trial and its newest metrics line."""
    on_failure: Callable[[Trial, str], None] = nothing
    """Called with a trial that failed for good, and the reason."""
    on_stop: Callable[[Trial, str], None] = nothing
    """Called with a trial that a search stopped early, and the reason."""
    on_trouble: Callable[[Trial, str], None] = nothing
    """Called with the first trial whose records do not reach storage, with each that ends so, and the reason."""
