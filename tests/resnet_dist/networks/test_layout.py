"""Activations and their gradients are channels last throughout: a pass over two layouts takes three times as long."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from resnet_dist.configuration.batch_norm import BatchNormConfig
from resnet_dist.configuration.network import NetworkConfig
from resnet_dist.networks.blocks import pixel_mean, subsample
from resnet_dist.networks.construction import make_network
from tests.resnet_dist.networks.test_networks import PLAIN, PREACTIVATION, RESIDUAL, words

CIFAR = [{"depth": 14, "width": 8, **settings} for settings in (*RESIDUAL, *PLAIN, *PREACTIVATION)]
IMAGENET: list[dict[str, Any]] = [
    {"depth": depth, "width": 8, "family": family, "shortcut": shortcut}
    for depth, family, shortcut in (
        (18, "imagenet-residual", "A"),
        (50, "imagenet-residual", "B"),
        (50, "imagenet-preactivation", "A"),
        (18, "imagenet-plain", "A"),
    )
]


class Layouts(TorchDispatchMode):
    """Notes each pass over whole activations that meets one of another layout."""

    PASSES = "convolution", "batch_norm", "relu", "threshold", "add", "mul"

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.others: list[str] = []
        self.passes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in str(func) for name in self.PASSES):
            self.passes += 1
            for given in tree_leaves(args):
                if isinstance(given, Tensor) and given.ndim == 4 and given.shape[1] > 1 and given.stride(1) != 1:
                    self.others.append(f"{func} {tuple(given.shape)} {given.stride()}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("settings", [*CIFAR, *IMAGENET], ids=words)
def test_everything_is_channels_last_forward_and_backward(settings: dict[str, Any]) -> None:
    network = make_network(NetworkConfig(**settings), BatchNormConfig(), classes=5)
    network = network.to(memory_format=torch.channels_last)
    size = 64 if settings.get("family", "").startswith("imagenet") else 32
    images = torch.randn(3, 3, size, size).contiguous(memory_format=torch.channels_last)
    with Layouts() as layouts:
        F.cross_entropy(network(images), torch.tensor([0, 1, 2])).backward()
    assert layouts.passes > 50
    assert not layouts.others


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_subsampling_and_means_are_those_of_slices_and_of_pixels_to_the_bit(dtype: torch.dtype) -> None:
    given = torch.randn(3, 8, 7, 9, dtype=dtype).contiguous(memory_format=torch.channels_last)
    images, same = (given.clone().requires_grad_() for _ in range(2))
    taken, means = subsample(images, (2, 3)), pixel_mean(images)
    sliced, expected = same[:, :, ::2, ::3], same.mean((2, 3))
    assert torch.equal(taken, sliced)
    assert torch.equal(means, expected)
    weights = torch.randn_like(taken)
    ((taken * weights).sum() + means.square().sum()).backward()
    ((sliced * weights).sum() + expected.square().sum()).backward()
    assert images.grad is not None and same.grad is not None
    assert torch.equal(images.grad, same.grad)
