"""Loss scaling: what keeps small gradients above zero in float16 (arXiv:1710.03740).

The scale is a power of two, so that it changes no digit of what neither overflows nor underflows.
"""

from typing import Any

import torch
from torch import nn

FIRST, GROWTH, INTERVAL = 2.0**16, 2.0, 2000
"""Scale of the first update, by how much it grows, after how many updates without overflow: those of `GradScaler`."""


class LossScale:
    """The factor of the loss in a backward pass, which falls when gradients overflow and grows when they do not."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self.value = FIRST if enabled else 1.0
        self._since = 0  # updates since it has changed

    def unscale(self, network: nn.Module) -> bool:
        """Divide the gradients by the scale; whether they are finite, and an update can be made of them.

        Every worker has the same gradients, so all of them find the same. Waits for the device.
        """
        if not self.enabled:
            return True
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        finite = bool(torch.nn.utils.get_total_norm(gradients, norm_type=float("inf")).isfinite())
        if finite:
            torch._foreach_mul_(gradients, 1 / self.value)
        self._adapt(finite)
        return finite

    def _adapt(self, finite: bool) -> None:
        self._since = self._since + 1 if finite else 0
        if not finite:
            self.value /= GROWTH
        elif self._since == INTERVAL:
            self.value *= GROWTH
            self._since = 0

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {"value": self.value, "since": self._since}

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.value, self._since = state["value"], state["since"]
