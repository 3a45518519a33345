"""Where two sets of loss curves part, and how far rounding alone may take them apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FIRST_STEPS = 3
TIGHT, GROWTH, LOOSE = 1e-5, 3.0, 2e-3
"""Relative tolerance of a loss: `TIGHT` for the first steps, then `GROWTH` times as much at each further one, up to
`LOOSE`.

Processors differ in how they order the additions of a convolution or a mean, so float32 losses differ from the last
bits (1e-7) on, and training amplifies the difference step by step. `python -m tests.golden rounding` measures it, as
the distance of each curve from the same in float64: below 2e-6 for the first steps, 4e-5 after six, 3e-4 after twenty.
The tolerance is five times that or more at every step. Most faults show in the first steps, where it is tight.
"""

Curves = Mapping[str, Mapping[str, Sequence[float]]]


def tolerance(step: int) -> float:
    """Relative tolerance of the loss at `step`, counted from 1."""
    return float(min(LOOSE, TIGHT * GROWTH ** max(0, step - FIRST_STEPS)))


@dataclass(frozen=True)
class Difference:
    """The first place at which two curves of a configuration differ."""

    name: str
    """The configuration's."""
    what: str
    """`train_loss`, by steps, or `test_loss`, by epochs."""
    index: int
    """The step or epoch, counted from 1."""
    old: float | None
    new: float | None

    def __str__(self) -> str:
        unit = "step" if self.what == "train_loss" else "epoch"
        text = f"{self.name}: {self.what} differs from {unit} {self.index} on: {self.old!r} and {self.new!r}"
        if self.old is not None and self.new is not None and self.old:
            text += f" (relative difference {abs(self.new / self.old - 1):.1e})"
        return text


def first_difference(name: str, old: Curves, new: Curves, steps_per_epoch: float | None = None) -> Difference | None:
    """The first step at which the losses of a configuration differ, else the first epoch whose test loss does.

    Bits are compared; with `steps_per_epoch` values, within `tolerance` of the step.
    """
    for what in ("train_loss", "test_loss"):
        a, b = old[name][what], new[name][what]
        for position in range(max(len(a), len(b))):
            if position >= min(len(a), len(b)):
                missing = (a[position] if position < len(a) else None, b[position] if position < len(b) else None)
                return Difference(name, what, position + 1, *missing)
            allowed = 0.0
            if steps_per_epoch is not None:
                step = position + 1 if what == "train_loss" else round((position + 1) * steps_per_epoch)
                allowed = tolerance(step) * abs(a[position])
            if not abs(a[position] - b[position]) <= allowed:  # so that nan differs
                return Difference(name, what, position + 1, a[position], b[position])
    return None
