"""Images in shards as a network is tested on them: read and decoded when they are asked for, in one view or several."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from resnet_dist.data.crops import test_crop, test_views
from resnet_dist.data.image_decoding import NotAnImageError, decode
from resnet_dist.data.shard_reader import ShardReader
from resnet_dist.errors import DataError

EVALUATED_BLOCK, EVALUATED_AHEAD = 32, 64
"""Test images that are read at once, and that are decoded before they are needed."""


@dataclass(frozen=True)
class StreamedImages:
    """Images of a split that are decoded when they are asked for, as a network is tested on them."""

    reader: ShardReader
    threads: ThreadPoolExecutor
    chosen: range
    """Their numbers in the split."""
    size: int
    augmentation: str
    crops: str
    """As `data.test_crops`."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As of a tensor: [N, 3, S, S]."""
        return len(self.chosen), 3, self.size, self.size

    def __len__(self) -> int:
        return len(self.chosen)

    def part(self, start: int, stop: int) -> "StreamedImages":
        """Some of them."""
        return StreamedImages(
            self.reader, self.threads, self.chosen[start:stop], self.size, self.augmentation, self.crops
        )

    def __getitem__(self, place: int) -> Tensor:
        """The middle of one of them: uint8 [3, S, S]."""
        image = self.chosen[place]
        return test_crop(decoded(self.reader, image), self.size, self.augmentation)

    def at_once(self, most: int) -> int:
        """How many a piece may have; whole images, which differ in size, come one by one."""
        return 1 if self.crops == "scales" else most

    def pieces(self, size: int) -> Iterator[list[Tensor]]:
        """All of them, at most so many at a time, the next ones under way: of each view uint8 [b, H, W, 3]."""
        ahead = EVALUATED_AHEAD if self.crops == "one" else EVALUATED_AHEAD // 8
        waiting: list[Future[list[Tensor]]] = []
        asked = 0
        for first in range(0, len(self), size):
            last = min(first + size, len(self))
            while asked < min(last + ahead, len(self)):
                waiting.append(self.threads.submit(self._views, asked))
                asked += 1
            views = zip(*(future.result() for future in waiting[: last - first]), strict=True)
            yield [stacked(list(images)) for images in views]
            del waiting[: last - first]

    def _views(self, place: int) -> list[Tensor]:
        if self.crops == "one":
            return [self[place]]
        return test_views(decoded(self.reader, self.chosen[place]), self.size, self.crops)


def decoded(reader: ShardReader, image: int) -> Tensor:
    """Pixels of an image at its own size: uint8 [3, H, W]."""
    try:
        return decode(reader.read(image))[0]
    except NotAnImageError as error:
        raise DataError(
            f"data.source: {reader.name(image)} {error}; shard the data set again on this system"
        ) from error


def stacked(images: list[Tensor]) -> Tensor:
    """Images uint8 [3, H, W] as one tensor [b, H, W, 3]."""
    return torch.stack(images).permute(0, 2, 3, 1).contiguous()
