"""What of a configuration concerns the learning rate over time."""

from dataclasses import dataclass
from typing import Literal

from resnet_dist.configuration.sections import Section


@dataclass(frozen=True)
class ScheduleConfig(Section):
    """The learning rate over time."""

    kind: Literal["step", "constant", "cosine"] = "step"
    """`step`: multiply by `gamma` at each milestone. `constant`: never change. `cosine`: fall from the full rate after
    the warm-up to zero at the run's end, along half a cosine, at every update (arXiv:1608.03983, without restarts)."""
    milestones: tuple[int, ...] = (80, 120)
    """Epochs, counted from 0, at whose start the learning rate drops (the study's text says 80, 160, but its script and
    its curves 80, 120)."""
    gamma: float = 0.1
    """Factor of each drop."""
    warmup_iterations: int = 0
    """Updates at the start that use `warmup_learning_rate` (the study's runs of 110 layers: 400)."""
    warmup_learning_rate: float = 0.001
    """Learning rate during the warm-up."""
    warmup_shape: Literal["constant", "linear"] = "constant"
    """`constant`: `warmup_learning_rate` until the warm-up's end. `linear`: from there up to the full rate, by the same
    amount at each update (arXiv:1706.02677)."""

    def check(self) -> None:
        """Refuse milestones out of order."""
        increasing = all(a < b for a, b in zip(self.milestones, self.milestones[1:], strict=False))
        self.require("milestones", increasing and all(m > 0 for m in self.milestones), "increasing epochs from 1")
        self.require("gamma", 0 < self.gamma <= 1, "greater than 0 and at most 1")
        self.require("warmup_iterations", self.warmup_iterations >= 0, "at least 0")
        self.require("warmup_learning_rate", self.warmup_learning_rate > 0, "greater than 0")
