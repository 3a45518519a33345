"""An exponential moving average of a network, which is evaluated and kept in its place.

Polyak and Juditsky 1992; in this form, of running statistics too, as Szegedy et al. (arXiv:1512.00567) evaluated.
"""

import copy

from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """The average of a network's parameters and running statistics over its updates.

    It begins as the network is. Each update multiplies what it is by `decay`, and adds the rest of what the network is.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        """A network of its own, with the averages in it."""
        self._blend = get_ema_multi_avg_fn(decay)
        self._averages, self._values = (
            [value for value in (*each.parameters(), *each.buffers()) if value.is_floating_point()]
            for each in (self.network, network)
        )

    def update(self) -> None:
        """Take in the network as it is after an update."""
        self._blend(self._averages, self._values, None)
