"""A target of speed, what was reached, and the line that says so."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Target:
    """One number to be reached."""

    name: str
    target: float
    unit: Literal["×", "× time", "s", "MB"]
    """`×`: a ratio of speeds, at least `target`. `× time`: a ratio of times, at most `target`. `s` and `MB`: at most
    `target`."""
    reached: float | None = None
    """None if it was not measured."""
    reason: str = ""
    """Why it was not measured."""

    @property
    def state(self) -> str:
        """`ok`, `short` or `not measured`. What is not measured is not short."""
        if self.reached is None:
            return "not measured"
        # Judged as measured, not as printed: 0.996 is short of 1.00.
        reached_it = self.reached >= self.target if self.unit == "×" else self.reached <= self.target
        return "ok" if reached_it else "short"

    @property
    def bound(self) -> str:
        """`at least` or `at most`."""
        return "at least" if self.unit == "×" else "at most"

    def line(self, width: int = 0) -> str:
        """Name (padded to `width`), reached, target, state."""
        reached = "-" if self.reached is None else f"{self.reached:.2f} {self.unit}"
        state = f"{self.state}: {self.reason}" if self.reason else self.state
        return f"{self.name:<{width}}  reached {reached:>7}  target {self.bound} {self.target:.2f} {self.unit}  {state}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "reached": self.reached,
            "target": self.target,
            "bound": self.bound,
            "unit": self.unit,
            "state": self.state,
            "reason": self.reason or None,
        }


def print_lines(targets: Iterable[Target]) -> int:
    """Print a line for each; returns the exit code, 1 if one is short."""
    targets = list(targets)
    width = max(len(target.name) for target in targets)
    for target in targets:
        print(target.line(width))
    return exit_code(targets)


def exit_code(targets: Iterable[Target]) -> int:
    """1 if one is short, else 0."""
    return int(any(target.state == "short" for target in targets))


def median_ratio(some: Sequence[float], others: Sequence[float]) -> float:
    """Median over the rounds of the ratio within a round: what slows the machine for a while slows both."""
    return statistics.median(a / b for a, b in zip(some, others, strict=True))
