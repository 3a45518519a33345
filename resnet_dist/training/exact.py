"""Exact mode: the same bits on any number of workers.

A batch is cut into a fixed number of virtual shards. Each is computed with the same shapes and the same kernels on
whatever worker holds it, by a replica of the network that shares the weights but has gradients of its own. Batch-norm
statistics, gradients and losses of all shards are gathered, never reduced on the way, and added in one fixed tree. No
operation's order then depends on how many workers there are.

The shards of a worker go forward in threads, which meet at every batch norm; its outputs for all of them are one node
of one graph, through which one backward pass goes.
"""

import copy
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_dist.networks.batch_norm import SynchronisedBatchNorm, finish, moments
from resnet_dist.workers import Shards, Workers, on_device


def tree_sum(parts: Tensor) -> Tensor:
    """Sum over the first dimension, a power of two long, as a balanced tree: ((0 + 1) + (2 + 3)) + …"""
    while len(parts) > 1:
        parts = parts[0::2] + parts[1::2]
    return parts[0]


def tree_combine(counts: Tensor, means: Tensor, squares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and sum of squared deviations of a whole from those of its parts, pair by pair in a tree.

    counts: [V, 1]; means, squares: [V, C]; V is a power of two; parts may be empty.
    """
    while len(counts) > 1:
        count_a, count_b = counts[0::2], counts[1::2]
        total = count_a + count_b
        share = count_b / total.clamp(min=1)
        delta = means[1::2] - means[0::2]
        squares = squares[0::2] + squares[1::2] + delta.square() * (count_a * share)
        means = means[0::2] + delta * share
        counts = total
    return counts[0], means[0], squares[0]


class VirtualShards:
    """The virtual shards that one worker holds, as replicas of its network."""

    def __init__(self, network: nn.Module, shards: Shards, workers: Workers) -> None:
        self.network = network
        self.shards = shards
        self.workers = workers
        self.replicas = [_replica(network) for _ in shards.held]
        self._meeting = _Meeting(len(self.replicas), self._batch_norm)
        for index, replica in enumerate(self.replicas):
            for module in replica.modules():
                if isinstance(module, SynchronisedBatchNorm):
                    module.exchange = self._meeting.place(index)
        self._threads = ThreadPoolExecutor(
            len(self.replicas), thread_name_prefix="virtual-shard", initializer=_begin_thread, initargs=(workers,)
        )
        self._baton = torch.zeros(())

    def set_momentum(self, momentum: float | Tensor) -> None:
        """Set the momentum of the running statistics, which the replicas share."""
        for module in self.replicas[0].modules():
            if isinstance(module, SynchronisedBatchNorm):
                module.momentum = momentum

    def forward_backward(self, loss_of: Callable[[nn.Module, int], Tensor]) -> Tensor:
        """Forward and backward through every shard; `loss_of(replica, index)` computes a shard's loss.

        Gradients gather in the replicas' own parameters. Returns the detached losses, [shards held].
        """

        self._baton = torch.zeros((), device=self.workers.device, requires_grad=True)

        def forward(index: int) -> Tensor:
            try:
                return loss_of(self.replicas[index], index)
            except BaseException:
                self._meeting.abandon()  # or the others would wait for this shard for ever
                raise

        futures = [self._threads.submit(forward, index) for index in range(len(self.replicas))]
        failed = [error for future in futures if (error := future.exception()) is not None]
        for error in failed:
            if not isinstance(error, threading.BrokenBarrierError):
                raise error
        losses = [future.result() for future in futures]
        torch.autograd.backward([*losses, self._baton])
        return torch.stack([loss.detach() for loss in losses])

    def abandon(self) -> None:
        """Free shards that wait for others that will not come, by an error in each."""
        self._meeting.abandon()

    def reduce_gradients(self) -> None:
        """Set the network's gradients to the tree sum over all shards, and clear the replicas'."""
        flat = torch.stack(
            [torch.cat([gradient_of(p).reshape(-1) for p in replica.parameters()]) for replica in self.replicas]
        )
        total = tree_sum(self.workers.gather(flat, self.shards.count))
        offset = 0
        for parameter in self.network.parameters():
            gradient = total[offset : offset + parameter.numel()]
            parameter.grad = torch.empty_like(parameter).copy_(gradient.view(parameter.shape))
            offset += parameter.numel()
        for replica in self.replicas:
            replica.zero_grad(set_to_none=True)

    def _batch_norm(self, layers: Sequence[SynchronisedBatchNorm], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        first = layers[0]
        running = (first.running_mean, first.running_var, first.eps, first.momentum)
        weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
        arguments = (self.workers, self.shards.count, running, self._baton, *inputs, *weights, *biases)
        self._baton, *outputs = _JointBatchNorm.apply(*arguments)
        return tuple(outputs)


def _begin_thread(workers: Workers) -> None:
    """Give a thread what the main one has: one thread for each operation, and the same GPU."""
    torch.set_num_threads(1)
    on_device(workers.device)


def _replica(network: nn.Module) -> nn.Module:
    """A copy of a network that shares its parameters' and buffers' memory, with gradients of its own."""
    shared: dict[int, Any] = {id(p): nn.Parameter(p.detach()) for p in network.parameters()}
    shared |= {id(buffer): buffer for buffer in network.buffers()}
    return copy.deepcopy(network, shared)


def gradient_of(parameter: Tensor) -> Tensor:
    """A parameter's gradient; zeros, in its shape, where it has none."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


class _Meeting:
    """Where the threads of one worker's shards meet at each batch norm: the last to come acts for all."""

    def __init__(
        self, size: int, act: Callable[[Sequence[SynchronisedBatchNorm], Sequence[Tensor]], tuple[Tensor, ...]]
    ) -> None:
        self._act = act
        self._arrived: list[tuple[SynchronisedBatchNorm, Tensor] | None] = [None] * size
        self._outputs: tuple[Tensor, ...] = ()
        self._barrier = threading.Barrier(size, action=self._all_here)

    def place(self, index: int) -> Callable[[SynchronisedBatchNorm, Tensor], Tensor]:
        """What shard `index` calls with its layer and input, to get its output."""

        def exchange(layer: SynchronisedBatchNorm, images: Tensor) -> Tensor:
            self._arrived[index] = (layer, images)
            self._barrier.wait()
            return self._outputs[index]

        return exchange

    def abandon(self) -> None:
        """Free the threads that wait, by an error in each."""
        self._barrier.abort()

    def _all_here(self) -> None:
        here = [arrival for arrival in self._arrived if arrival is not None]
        self._outputs = self._act([layer for layer, _ in here], [images for _, images in here])


class _JointBatchNorm(torch.autograd.Function):
    """Batch norm of all shards that a worker holds: one gather forward, one backward.

    A baton goes from each layer to the next and, in the backward pass, back again: without it, automatic
    differentiation may take two layers that do not depend on each other in another order on each worker, and the
    workers' gathers would not meet.
    """

    @staticmethod
    def forward(
        ctx: Any, workers: Workers, count: int, running: Any, baton: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        running_mean, running_var, eps, momentum = running
        held = len(tensors) // 3
        inputs, weights, biases = tensors[:held], tensors[held : 2 * held], tensors[2 * held :]
        channels = inputs[0].shape[1]
        gathered = workers.gather(torch.stack([moments(images) for images in inputs]), count)
        combined = tree_combine(gathered[:, -1:], gathered[:, :channels], gathered[:, channels:-1])
        mean, variance, inverse_std = finish(*combined, running_mean, running_var, eps, momentum)
        ctx.workers, ctx.count, ctx.held = workers, count, held
        ctx.save_for_backward(mean, inverse_std, combined[0], *inputs, *weights)
        return baton.clone(), *(
            F.batch_norm(images, mean, variance, weight, bias, training=False, eps=eps)
            for images, weight, bias in zip(inputs, weights, biases, strict=True)
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        mean, inverse_std, total, *rest = ctx.saved_tensors
        inputs, weights = rest[: ctx.held], rest[ctx.held :]
        shape = (1, -1, 1, 1)
        # Where two gradients meet, the first to come decides the sum's layout in memory, and a reduction's order
        # follows the layout: it is made one and the same here.
        baton, *outputs = grads
        outer = [grad.to(mean.dtype).contiguous(memory_format=torch.channels_last) for grad in outputs]
        normalised = [(images.to(mean.dtype) - mean.view(shape)) * inverse_std.view(shape) for images in inputs]
        grad_biases = [grad.sum((0, 2, 3), dtype=torch.float64) for grad in outer]
        grad_weights = [
            (grad * x).sum((0, 2, 3), dtype=torch.float64) for grad, x in zip(outer, normalised, strict=True)
        ]
        local = torch.stack([torch.cat(pair) for pair in zip(grad_biases, grad_weights, strict=True)])
        sums = tree_sum(ctx.workers.gather(local, ctx.count))
        mean_grad, mean_product = (sums / total).to(mean.dtype).view(2, 1, -1, 1, 1)
        grad_inputs = [
            ((grad - mean_grad - x * mean_product) * (weight.to(mean.dtype) * inverse_std).view(shape)).to(images.dtype)
            for grad, x, weight, images in zip(outer, normalised, weights, inputs, strict=True)
        ]
        of_weights = [grad.to(weight.dtype) for grad, weight in zip(grad_weights, weights, strict=True)]
        of_biases = [grad.to(weight.dtype) for grad, weight in zip(grad_biases, weights, strict=True)]
        return None, None, None, baton, *grad_inputs, *of_weights, *of_biases
