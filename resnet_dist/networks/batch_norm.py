"""Batch norm over the global batch, for shards of any size, empty ones included.

`torch.nn.SyncBatchNorm` refuses CPU tensors. This one computes alike on every device, so that what the tests prove on
CPUs is what runs on GPUs.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_dist.errors import ConfigurationError

PIXELS_OF_A_ROW = 64


class SynchronisedBatchNorm(nn.BatchNorm2d):
    """Batch norm over [N, C, H, W] whose training statistics are those of all workers' samples together.

    `momentum` is the weight of the newest batch in the running statistics, which the training loop may set before each
    step: a plain number, or one on the device, which no host has to read. The running variance is the unbiased one, as
    in torch.
    """

    momentum: float | Tensor  # type: ignore[assignment]
    exchange: "Callable[[SynchronisedBatchNorm, Tensor], Tensor] | None" = None
    """In exact mode, where this layer meets the same layer of the other virtual shards."""

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)
        self.num_batches_tracked = None  # momentum is never a function of it

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [N, C, H, W]; in training mode with the statistics of the global batch."""
        if self.training and self.exchange is not None:
            return self.exchange(self, input)
        if self.training and dist.is_initialized() and dist.get_world_size() > 1:
            return _GlobalBatchNorm.apply(  # type: ignore[no-any-return]
                input, self.weight, self.bias, self.running_mean, self.running_var, self.eps, self.momentum
            )
        if isinstance(self.momentum, Tensor):
            return self._with_momentum_on_device(input, self.momentum) if self.training else self._normalise(input, 0.0)
        return self._normalise(input, self.momentum)

    def _normalise(self, input: Tensor, momentum: float) -> Tensor:
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, self.training, momentum, self.eps
        )

    def _with_momentum_on_device(self, input: Tensor, momentum: Tensor) -> Tensor:
        # torch's kernels take the momentum from the host: with 1 they give the batch's own statistics.
        assert self.running_mean is not None and self.running_var is not None
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        output = F.batch_norm(input, mean, variance, self.weight, self.bias, True, 1.0, self.eps)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)
        return output


def convert(network: nn.Module) -> nn.Module:
    """A network of `nn.BatchNorm2d` layers with synchronised ones in their place, which keep weights and statistics.

    Raises a `ConfigurationError` for other kinds of batch norm, and for layers without weights or running statistics.
    """
    if isinstance(network, nn.modules.batchnorm._BatchNorm) and not isinstance(network, SynchronisedBatchNorm):
        if not isinstance(network, nn.BatchNorm2d) or not network.affine or not network.track_running_stats:
            raise ConfigurationError(
                f"{network}: cannot be converted; only BatchNorm2d with weights and running statistics can"
            )
        layer = SynchronisedBatchNorm(network.num_features, network.eps)
        layer.load_state_dict(network.state_dict(), strict=False)  # but for num_batches_tracked
        return layer
    for name, child in network.named_children():
        setattr(network, name, convert(child))
    return network


def set_momentum(network: nn.Module, momentum: float | Tensor) -> None:
    """Set the momentum of every batch norm of a network."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = momentum  # type: ignore[assignment]


def needs_several_images(network: nn.Module, size: int) -> bool:
    """Whether some batch norm would see a single value a channel if a batch had one image of `size` rows and columns.

    Such a batch has no variance. The network is left in training mode, as it is found.
    """
    values: list[int] = []

    def count(_: nn.Module, inputs: tuple[Tensor]) -> None:
        values.append(inputs[0].numel() // inputs[0].shape[1])

    layers = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    hooks = [layer.register_forward_pre_hook(count) for layer in layers]
    weight = next(network.parameters())
    network.eval()  # nothing is drawn, and running statistics stay
    with torch.no_grad():
        network(weight.new_zeros(1, 3, size, size))
    network.train()
    for hook in hooks:
        hook.remove()
    return 1 in values


def combine(counts: Tensor, means: Tensor, squares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and sum of squared deviations of a whole from those of its parts.

    counts: [W, 1]; means, squares: [W, C]. Deviations are taken from the parts' means, never from zero, so that a
    large mean does not cancel a small variance (Chan, Golub and LeVeque 1979).
    """
    count = counts.sum()
    mean = (means * (counts / count)).sum(0)
    square = (squares + counts * (means - mean).square()).sum(0)
    return count, mean, square


def moments(images: Tensor) -> Tensor:
    """A shard's message: mean and sum of squared deviations of each channel, and the count, float64 [2 C + 1].

    images: [N, C, H, W], N may be 0. Sums are accumulated in float64, as torch's own batch norm does on the CPU.
    """
    channels = images.shape[1]
    message = torch.zeros(2 * channels + 1, dtype=torch.float64, device=images.device)
    if count := images.numel() // channels:
        mean = images.sum((0, 2, 3), dtype=torch.float64) / count
        deviations = images - mean.to(_statistic(images)).view(1, -1, 1, 1)
        # The mean was rounded to subtract it: what that left in the deviations is taken out of their squares.
        rest = deviations.sum((0, 2, 3), dtype=torch.float64)
        message[:channels] = mean
        message[channels:-1] = deviations.square().sum((0, 2, 3), dtype=torch.float64) - rest.square() / count
        message[-1] = count
    return message


def _statistic(images: Tensor) -> torch.dtype:
    """Type in which statistics are applied: float32 for bfloat16 images, else the images' own."""
    return torch.float64 if images.dtype == torch.float64 else torch.float32


def finish(
    total: Tensor,
    mean: Tensor,
    square: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    eps: float,
    momentum: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Update the running statistics; return mean, variance and 1 / std of the batch in their type, [C] each."""
    variance = square / total
    mean = mean.to(running_mean.dtype)
    running_mean.lerp_(mean, momentum)
    running_var.lerp_((square / (total - 1)).to(running_var.dtype), momentum)
    inverse_std = (variance + eps).rsqrt()
    return mean, variance.to(mean.dtype), inverse_std.to(mean.dtype)


class _GlobalBatchNorm(torch.autograd.Function):
    """One all-gather forward, one all-reduce backward, whatever the shards' sizes.

    Passes over whole activations are torch's own batch-norm kernels, in the images' type with numbers of float32 (or
    float64): what two workers add to the work of each is one pass in the backward direction.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        eps: float,
        momentum: float,
    ) -> Tensor:
        message = _statistics(input, running_mean)
        gathered = message.new_empty(dist.get_world_size(), len(message))
        dist.all_gather(list(gathered), message)
        channels = input.shape[1]
        means, variances, counts = gathered.split((channels, channels, 1), dim=1)
        combined = combine(counts, means, variances * counts)
        mean, variance, inverse_std = finish(*combined, running_mean, running_var, eps, momentum)
        ctx.save_for_backward(input, weight, mean, variance, inverse_std, combined[0])
        ctx.eps = eps
        # Evaluation's kernel with these statistics: (x - mean) / sqrt(variance + eps) * weight + bias
        return F.batch_norm(input, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, mean, variance, inverse_std, total = ctx.saved_tensors
        if input.numel():
            # Evaluation's kernel, of whose results only the sums are wanted: those of the gradient, and of its product
            # with the normalised input.
            _, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
                grads[0], input, weight, mean, variance, mean, inverse_std, False, ctx.eps, [False, True, True]
            )
        else:
            grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(weight)
        sums = torch.cat([grad_bias, grad_weight]).double()
        dist.all_reduce(sums)  # the local ones stay: DistributedDataParallel reduces those
        # scale * (grad - mean_grad - normalised * mean_product), as slope * (input - mean) + offset + scale * grad
        scale = weight * inverse_std.double()
        offset, product = ((sums / -total).view(2, -1) * scale).unbind()
        slope = product * inverse_std
        ones = torch.ones_like(mean)
        grad_input = F.batch_norm(input, mean, ones, slope.to(mean.dtype), offset.to(mean.dtype), eps=0.0)
        return _add_product(grad_input, grads[0], scale), grad_weight, grad_bias, *[None] * 4


def _statistics(images: Tensor, like: Tensor) -> Tensor:
    """A shard's message: mean and variance of each channel, and the count, float64 [2 C + 1]; N may be 0.

    By the kernel that a run on one worker trains with, in the type of `like`, [C].
    """
    channels = images.shape[1]
    if not images.numel():
        return images.new_zeros(2 * channels + 1, dtype=torch.float64)
    # Its running statistics are not wanted, but without them it would round to the images' type.
    unused = torch.zeros_like(like)
    mean, variance = torch.batch_norm_update_stats(images, unused, unused, 0.0)
    count = images.new_full((1,), images.numel() // channels, dtype=torch.float64)
    return torch.cat((mean, variance, count))


def _add_product(sum: Tensor, grad: Tensor, scale: Tensor) -> Tensor:
    """`sum` plus a gradient times a number a channel; sum, grad: [N, C, H, W] of one type, scale: float64 [C]."""
    if sum.is_contiguous(memory_format=torch.channels_last):
        # As rows of many pixels: over the few channels of a single one the kernel would do little at once.
        channels = len(scale)
        pixels = math.gcd(sum.numel() // channels, PIXELS_OF_A_ROW)
        rows = sum.permute(0, 2, 3, 1).view(-1, pixels * channels)
        grad = grad.permute(0, 2, 3, 1).reshape(-1, pixels * channels)
        scale = scale.repeat(pixels)
    else:
        rows, scale = sum, scale.view(-1, 1, 1)
    # Two bfloat16 have sixteen digits. The small part comes first: only the last addition rounds what counts.
    high = scale.to(sum.dtype)
    if sum.dtype == torch.bfloat16:
        rows.addcmul_(grad, (scale - high).to(sum.dtype))
    rows.addcmul_(grad, high)
    return sum
