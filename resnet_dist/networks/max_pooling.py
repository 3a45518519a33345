"""Max pooling with one and the same gradient each time.

torch's own adds up the gradients of windows that overlap in whatever order a GPU's threads come, so that law 2 would
not hold there.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MaxPool(nn.Module):
    """`nn.MaxPool2d`, whose gradient goes to the first greatest pixel of each window, as torch's does."""

    def __init__(self, size: int, stride: int, padding: int = 0, ceil_mode: bool = False) -> None:
        super().__init__()
        self.size, self.stride, self.padding, self.ceil_mode = size, stride, padding, ceil_mode

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] → [N, C, H', W']."""
        if not (torch.is_grad_enabled() and images.requires_grad):
            return F.max_pool2d(images, self.size, self.stride, self.padding, ceil_mode=self.ceil_mode)
        return _MaxPool.apply(images, self.size, self.stride, self.padding, self.ceil_mode)  # type: ignore[no-any-return]


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, size: int, stride: int, padding: int, ceil_mode: bool) -> Tensor:
        greatest, places = F.max_pool2d(images, size, stride, padding, ceil_mode=ceil_mode, return_indices=True)
        ctx.save_for_backward(places)
        ctx.geometry = images.shape, size, stride, padding
        return greatest

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (places,) = ctx.saved_tensors  # int64 [N, C, H', W']: row * W + column of each window's greatest pixel
        (count, channels, height, width), size, stride, padding = ctx.geometry
        rows, columns = places.shape[2:]
        down = torch.arange(rows, device=places.device)[:, None] * stride - padding
        across = torch.arange(columns, device=places.device) * stride - padding
        # Windows reach over the edge, where no pixel is: what is added there is cut off in the end.
        padded = grads[0].new_zeros(count, height + 2 * padding + size, width + 2 * padding + size, channels)
        padded = padded.permute(0, 3, 1, 2)
        for row in range(size):
            for column in range(size):
                is_here = places == (down + row) * width + across + column
                here = padded[:, :, row : row + rows * stride : stride, column : column + columns * stride : stride]
                here += grads[0] * is_here
        inner = padded[:, :, padding : padding + height, padding : padding + width]
        return inner.contiguous(memory_format=torch.channels_last), None, None, None, None
