"""What of a configuration concerns the network."""

from dataclasses import dataclass
from typing import Literal

from resnet_dist.configuration.code import choose, is_custom
from resnet_dist.configuration.network_families import EFFECTIVE, FAMILIES
from resnet_dist.configuration.sections import Section
from resnet_dist.errors import ConfigurationError

IMAGENET_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Blocks of each group of the networks for ImageNet, by depth (He et al. 2015, table 1): basic ones of two 3x3
convolutions up to 34 layers, bottlenecks of 1x1, 3x3 and 1x1 beyond."""

DEEPEST, WIDEST = 10_000, 4_096
"""Beyond what was ever trained on such images; a slip of the keyboard would otherwise take all memory."""


@dataclass(frozen=True)
class NetworkConfig(Section):
    """The network."""

    depth: int = 20
    """Layers with weights: 6n+2 for n >= 1 (the study: 20, 32, 44, 56, 110); of networks for ImageNet 18, 34, 50, 101
    or 152; of CaffeNet 8."""
    family: str = "residual"
    """`residual`; `plain`: the same layers without shortcuts (the paper's control); `preactivation`: batch norm and
    ReLU before each convolution instead of after it (He et al. 2016, arXiv:1603.05027); the same three as the paper has
    them for ImageNet, as `imagenet-residual` and so on; `caffenet`; or a network of your own, as `module:callable`."""
    relu_after_addition: bool = True
    """Whether a ReLU follows the addition at the end of each block."""
    batch_norm_position: Literal["before", "after"] = "before"
    """Where the second batch norm of each block stands: before or after the addition."""
    shortcut: Literal["A", "B", "C"] = "A"
    """A: strided identity padded with zero channels; B: 1x1 convolution where shapes change; C: everywhere."""
    width: int | None = None
    """Channels of the first group, by default the paper's: 16, for ImageNet 64. Each further group has twice as many
    (and the outputs of bottlenecks four times these). CaffeNet's first has 96, and the others follow."""
    initialisation: Literal["published", "head"] = "published"
    """`published`: batch-norm scales from N(1, 0.002). `head`: the source repository's last revision, which
    draws the scales of the stem and of each block's second batch norm from U(0, 1)."""
    block: str = ""
    """A block of your own in place of the residual network's, as `module:callable`."""
    bottleneck_stride: Literal["1x1", "3x3"] = "1x1"
    """Which convolution of a bottleneck has the stride: the first, as in the paper, or the middle one, as in later
    practice (torchvision's ResNet-50, 101 and 152)."""
    zero_last_scale: bool = False
    """Begin with zeros as the scales of each block's last batch norm, so that each block begins as its shortcut (Goyal
    et al. 2017, arXiv:1706.02677)."""
    stem_and_head: Literal["paper", "script"] = "paper"
    """Ends of a network for ImageNet. `paper`: batch norm after the first convolution; global pooling and a linear
    layer. `script`: those of the source's script train-imagenet-BROKEN.lua: no batch norm there; a 7x7 convolution with
    ReLU in place of pooling and linear layer, which needs images of 193 to 224 pixels."""

    activation: Literal[
        "relu",
        "leaky_relu",
        "very_leaky_relu",
        "prelu",
        "rrelu",
        "elu",
        "selu",
        "tanh",
        "scaled_tanh",
        "arcsinh",
        "softplus",
        "sigmoid",
        "maxout",
        "none",
    ] = "relu"
    """Of CaffeNet. `very_leaky_relu` is max(x, x/3), `scaled_tanh` 1.73 tanh(2x/3), `softplus` log(1 + e^x) - log 2;
    `rrelu` divides what is negative by a number drawn for it, from 10 to 30, in evaluation by 20;
    `maxout` is the greater of two pieces, each as wide as the others' layers."""
    activation_batch_norm: Literal["none", "before", "after"] = "none"
    """Where CaffeNet has batch norm beside each activation."""
    local_response_norm: bool = False
    """Whether CaffeNet normalises over neighbouring channels after the first two poolings, as Caffe's does."""
    fully_connected: int = 4096
    """Neurons of CaffeNet's two hidden linear layers."""
    dropout: float = 0.0
    """Part of the outputs of each of these two that is set to zero at each update, others for each image; Caffe's: 0.5.
    """
    weights: str = ""
    """Initial weights, instead of drawn ones: a file, an address in storage or a trial. Ours (model.pt, an archive of
    export, a checkpoint), or a state dict of torchvision's or akamaster/pytorch_resnet_cifar10's networks (.pth, .th,
    .safetensors)."""
    weights_fingerprint: str = ""
    """Hash of these weights. Filled in when they are read; give it to insist on it."""
    reset: Literal["nothing", "linear"] = "nothing"
    """What of `weights` is left aside and drawn: with `linear` the last layer, for data of other classes."""

    def check(self) -> None:
        """Fill in the family's width; refuse depths that a family does not have and settings that have no effect."""
        choose("network.family", self.family, tuple(FAMILIES))
        if self.width is None:
            object.__setattr__(self, "width", default_width(self.family))
        self._check_depth()
        self.require("width", 1 <= self.channels <= WIDEST, f"from 1 to {WIDEST:,}")
        for name, families in EFFECTIVE.items():
            if (
                self.family in FAMILIES
                and self.family not in families
                and getattr(self, name) != getattr(type(self), name)
            ):
                raise ConfigurationError(
                    f"network.{name}: {getattr(self, name)!r} has no effect on a {self.family} network; leave it out"
                )
        if self.zero_last_scale and self.batch_norm_position == "after":
            raise ConfigurationError(
                "network.zero_last_scale: True makes every output zero with network.batch_norm_position 'after', whose "
                "last batch norm the shortcut goes through; leave one out"
            )
        if self.block:
            choose("network.block", self.block, ())
            self.require("block", self.family == "residual", "left out, unless network.family is 'residual'")
        if self.block or is_custom(self.family):
            self.require("initialisation", self.initialisation == "published", "'published' for code of your own")
            self.require("zero_last_scale", not self.zero_last_scale, "false for code of your own")

        self.require("dropout", 0 <= self.dropout < 1, "at least 0 and less than 1")
        self.require("reset", self.reset == "nothing" or bool(self.weights), "left out without network.weights")

    def _check_depth(self) -> None:
        if is_custom(self.family):
            self.require("depth", self.depth >= 1, "at least 1")
        elif self.for_imagenet:
            *most, last = IMAGENET_BLOCKS
            allowed = f"{', '.join(map(str, most))} or {last} in a network for ImageNet"
            self.require("depth", self.depth in IMAGENET_BLOCKS, allowed)
        elif self.family == "caffenet":
            self.require("depth", self.depth == 8, "8 in CaffeNet")
            self.require("width", self.channels % 6 == 0, "a multiple of 6 in CaffeNet")
            self.require("fully_connected", 1 <= self.fully_connected <= 65_536, "from 1 to 65,536")
        elif self.depth < 8 or (self.depth - 2) % 6:
            below = max(8, self.depth - (self.depth - 2) % 6)
            raise ConfigurationError(
                f"network.depth: {self.depth} is not 6n+2 for any n >= 1; the nearest are {below} and {below + 6}"
            )
        self.require("depth", self.depth <= DEEPEST, f"at most {DEEPEST:,}")

    @property
    def channels(self) -> int:
        """Channels of the first group: `width`, which has been filled in."""
        assert self.width is not None
        return self.width

    @property
    def for_imagenet(self) -> bool:
        """Whether it is one of the networks that the paper has for ImageNet."""
        return self.family.startswith("imagenet-")

    @property
    def blocks_per_group(self) -> int:
        """The study's n, of networks for small images: depth = 6n + 2."""
        return (self.depth - 2) // 6

    @property
    def groups(self) -> tuple[int, ...]:
        """Blocks of each group, in order."""
        return IMAGENET_BLOCKS[self.depth] if self.for_imagenet else 3 * (self.blocks_per_group,)

    @property
    def bottlenecks(self) -> bool:
        """Whether its blocks are bottlenecks."""
        return self.for_imagenet and self.depth >= 50


def default_width(family: str) -> int:
    """Channels of the first group of a family's networks in the paper."""
    if family == "caffenet":
        return 96
    return 64 if family.startswith("imagenet-") else 16
