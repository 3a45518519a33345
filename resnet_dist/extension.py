"""What code of your own imports from this package: these names stay, wherever the files behind them move.

docs/custom.md says how each is used. Code is stored with the trials that it made and has to run again years later, so
the paths that an earlier guide taught lead to the same things.
"""

import sys

import resnet_dist.networks
from resnet_dist.configuration.batch_norm import BatchNormConfig
from resnet_dist.configuration.network import NetworkConfig
from resnet_dist.configuration.solver import SolverConfig
from resnet_dist.data import decoded_images
from resnet_dist.data.decoded_images import DecodedImages
from resnet_dist.networks import batch_norm, blocks, cifar, construction
from resnet_dist.networks.batch_norm import SynchronisedBatchNorm, convert
from resnet_dist.networks.cifar import Block

__all__ = [
    "BatchNormConfig",
    "Block",
    "DecodedImages",
    "NetworkConfig",
    "SolverConfig",
    "SynchronisedBatchNorm",
    "convert",
]

FORMER = {"decoded_images": decoded_images, "batch_norm": batch_norm}
"""Modules that lay directly in `resnet_dist`."""


def keep_former_paths() -> None:
    """Let this process import by the paths that an earlier guide taught; called before code of the user's own is."""
    for name, module in FORMER.items():
        sys.modules[f"resnet_dist.{name}"] = module
        setattr(resnet_dist, name, module)
    for module in (cifar, blocks, construction):  # `networks` was one file
        for name, value in vars(module).items():
            if getattr(value, "__module__", "") == module.__name__:
                setattr(resnet_dist.networks, name, value)
