"""What of a configuration concerns the network."""

from dataclasses import dataclass
from typing import Any, Literal

from resnet_dist.configuration.code import choose, is_custom
from resnet_dist.configuration.sections import Section
from resnet_dist.errors import ConfigurationError

FAMILIES = {
    "residual": "resnet_dist.networks.cifar:ResidualNetwork",
    "plain": "resnet_dist.networks.cifar:ResidualNetwork",
    "preactivation": "resnet_dist.networks.preactivation:PreactivationNetwork",
}
"""What makes the networks of each family, called with the configurations of network and batch norm and the classes."""

# Settings that a family of networks has no use for, with the only value that they may have there.
WITHOUT_EFFECT: dict[str, dict[str, Any]] = {
    "plain": {"shortcut": "A", "batch_norm_position": "before"},
    "preactivation": {"relu_after_addition": True, "batch_norm_position": "before", "initialisation": "published"},
}


DEEPEST, WIDEST = 10_000, 4_096
"""Beyond what was ever trained on such images; a slip of the keyboard would otherwise take all memory."""


@dataclass(frozen=True)
class NetworkConfig(Section):
    """The network."""

    depth: int = 20
    """Layers with weights: 6n+2 for n >= 1 (the study: 20, 32, 44, 56, 110)."""
    family: str = "residual"
    """`residual`; `plain`: the same layers without shortcuts (the paper's control); `preactivation`: batch norm and
    ReLU before each convolution instead of after it (He et al. 2016, arXiv:1603.05027); or a network of your own, as
    `module:callable`."""
    relu_after_addition: bool = True
    """Whether a ReLU follows the addition at the end of each block."""
    batch_norm_position: Literal["before", "after"] = "before"
    """Where the second batch norm of each block stands: before or after the addition."""
    shortcut: Literal["A", "B", "C"] = "A"
    """A: strided identity padded with zero channels; B: 1x1 convolution where shapes change; C: everywhere."""
    width: int = 16
    """Channels of the first group; the second and third have twice and four times as many."""
    initialisation: Literal["published", "head"] = "published"
    """`published`: batch-norm scales from N(1, 0.002). `head`: the source repository's last revision, which
    draws the scales of the stem and of each block's second batch norm from U(0, 1)."""
    block: str = ""
    """A block of your own in place of the residual network's, as `module:callable`."""

    def check(self) -> None:
        """Refuse a depth that is not 6n+2 and settings that have no effect."""
        choose("network.family", self.family, tuple(FAMILIES))
        if is_custom(self.family):
            self.require("depth", self.depth >= 1, "at least 1")
        elif self.depth < 8 or (self.depth - 2) % 6:
            below = max(8, self.depth - (self.depth - 2) % 6)
            raise ConfigurationError(
                f"network.depth: {self.depth} is not 6n+2 for any n >= 1; the nearest are {below} and {below + 6}"
            )
        self.require("depth", self.depth <= DEEPEST, f"at most {DEEPEST:,}")
        self.require("width", 1 <= self.width <= WIDEST, f"from 1 to {WIDEST:,}")
        for name, default in WITHOUT_EFFECT.get(self.family, {}).items():
            if getattr(self, name) != default:
                raise ConfigurationError(
                    f"network.{name}: {getattr(self, name)!r} has no effect on a {self.family} network; leave it out"
                )

        if self.block:
            choose("network.block", self.block, ())
            self.require("block", self.family == "residual", "left out, unless network.family is 'residual'")
        if self.block or is_custom(self.family):
            self.require("initialisation", self.initialisation == "published", "'published' for code of your own")

    @property
    def blocks_per_group(self) -> int:
        """The study's n: depth = 6n + 2."""
        return (self.depth - 2) // 6
