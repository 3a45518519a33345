"""What of a configuration concerns batch norm."""

from dataclasses import dataclass
from typing import Literal

from resnet_dist.configuration.sections import Section


@dataclass(frozen=True)
class BatchNormConfig(Section):
    """Batch norm, synchronised over workers."""

    momentum: float | Literal["dynamic"] = 0.1
    """Weight of the newest batch in the running statistics, from 0 to 1, or `dynamic`: 1 / (1 + k), where k
    counts the batches since the epoch's start."""
    eps: float = 1e-5
    """Added to the variance."""

    def check(self) -> None:
        """Refuse a momentum outside [0, 1]."""
        if isinstance(self.momentum, float):
            self.require("momentum", 0.0 <= self.momentum <= 1.0, "from 0 to 1, or 'dynamic'")
        self.require("eps", self.eps > 0, "greater than 0")
