"""A data set in shards, as training and evaluation use it: images are read and decoded when a step needs them.

Which image, crop, flip and colours a place of a batch has is a function of (seed, step, place); each worker decodes
what it holds, in threads, ahead of the step that needs it.
"""

import functools
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnet_dist.configuration.data import IMAGENET, DataConfig
from resnet_dist.data import random_draws as draws
from resnet_dist.data.augmentation import Augmentation
from resnet_dist.data.batch_order import BatchOrder
from resnet_dist.data.batches import Standardiser, TrainingBatches
from resnet_dist.data.block_order import BlockOrder, blocks_held
from resnet_dist.data.crops import WORDS, colour_shifts, training_crop
from resnet_dist.data.random_draws import Stream
from resnet_dist.data.shard_index import INDEX, ShardIndex, read_index
from resnet_dist.data.shard_reader import ShardReader
from resnet_dist.data.streamed_images import EVALUATED_AHEAD, EVALUATED_BLOCK, StreamedImages, decoded, stacked
from resnet_dist.errors import DataError
from resnet_dist.storage.interface import RangedStorage
from resnet_dist.storage.opening import open_uri
from resnet_dist.workers import Shards

AHEAD = 2
"""Steps whose images are decoded before they are needed."""


def open_shards(data: DataConfig) -> tuple[RangedStorage, ShardIndex]:
    """The storage that `data.source` names, and the index in it; a `DataError` if that is missing or another one's."""
    if data.source == IMAGENET:
        raise DataError(
            f"data.source: {IMAGENET} is a name in recipes; make shards of the data set (resnet-dist data shard "
            "imagenet:DIRECTORY DEST), and give shards:DEST"
        )
    storage = open_uri(data.source.removeprefix("shards:"))
    index = read_index(storage)
    if index is None:
        raise DataError(
            f"data.source: there is no {INDEX} in {storage.uri}; resnet-dist data shard SOURCE DEST makes it"
        )
    if data.fingerprint not in ("", index.fingerprint):
        raise DataError(
            f"data.fingerprint: {data.source} has the fingerprint {index.fingerprint}, not {data.fingerprint}; "
            f"give the images that the configuration was made for, or leave data.fingerprint out"
        )
    return storage, index


@dataclass(frozen=True)
class ShardedDataset:
    """What a run needs of a data set in shards; the names are those of a `Dataset` in memory."""

    source: str
    train_images: StreamedImages
    train_labels: Tensor
    """int64 [N]."""
    validation_images: StreamedImages
    """Held out from the end of the training images."""
    validation_labels: Tensor
    test_images: StreamedImages
    test_labels: Tensor
    classes: tuple[str, ...]
    fingerprint: str
    mean: Tensor
    """float64 [3, S, S]: mean of the training images by channel, before limits and holdout, the same at each pixel."""
    std: float
    """Standard deviation of all their values about the one overall mean."""
    covariance: NDArray[np.float64]
    """Of the channels, [3, 3]."""

    def counts(self) -> dict[str, int]:
        """How many images there are to train on, held out and to test on, and of how many classes."""
        sets = {"train": self.train_labels, "validation": self.validation_labels, "test": self.test_labels}
        return {name: len(labels) for name, labels in sets.items()} | {"classes": len(self.classes)}

    def reads(self) -> dict[str, int]:
        """What this process has asked of the shards' storage so far."""
        totals = self.train_images.reader.storage.counts.totals()
        requests = sum(totals.requests.values())
        return {"data_requests": requests, "data_bytes": totals.received, "data_retries": totals.retries}

    def batches(
        self, standardise: Standardiser, data: DataConfig, seed: int, augmentation_seed: int, shards: Shards
    ) -> "StreamedBatches":
        """What gives a run its batches."""
        return StreamedBatches(self, standardise, data, seed, augmentation_seed, shards)


def sharded_dataset(data: DataConfig, used: int, kept: int, tested: int) -> ShardedDataset:
    """The data set, of which `used` images are trained on, those up to `kept` held out, and `tested` tested on."""
    storage, index = open_shards(data)
    threads = ThreadPoolExecutor(data.decoding_threads, "decoder", functools.partial(torch.set_num_threads, 1))

    def streamed(split: str, chosen: range) -> tuple[StreamedImages, Tensor]:
        of_split = getattr(index, split)
        reader = ShardReader(storage, index, of_split, EVALUATED_BLOCK, 2 + EVALUATED_AHEAD // EVALUATED_BLOCK)
        labels = torch.from_numpy(of_split.label[chosen.start : chosen.stop].astype(np.int64))
        return StreamedImages(reader, threads, chosen, data.size, data.augmentation, data.test_crops), labels

    mean = torch.tensor(index.mean, dtype=torch.float64)[:, None, None].expand(3, data.size, data.size).contiguous()
    sets = (("train", range(used)), ("train", range(used, kept)), ("test", range(tested)))
    train, validation, test = (streamed(*chosen) for chosen in sets)
    return ShardedDataset(
        data.source,
        *train,
        *validation,
        *test,
        index.classes,
        index.fingerprint,
        mean,
        index.standard_deviation,
        index.covariance(),
    )


class StreamedBatches(TrainingBatches):
    """Batches whose images are read and decoded ahead of their step."""

    def __init__(
        self,
        dataset: ShardedDataset,
        standardise: Standardiser,
        data: DataConfig,
        seed: int,
        augmentation_seed: int,
        shards: Shards,
    ) -> None:
        # Without the images in memory of the class above, whose arithmetic this shares.
        self.device = standardise.mean.device
        self.labels = dataset.train_labels.to(self.device)
        self.standardise = standardise
        self.shift = data.shift if data.augmentation == "shift" else 0
        in_blocks = data.sampling == "permutation"
        self.augmentation = Augmentation(data)
        kind = BlockOrder if in_blocks else BatchOrder
        self.order = kind(data, len(self.labels), seed, augmentation_seed)
        self.accumulation = data.accumulation
        self.shards = shards
        self.covariance = dataset.covariance
        whole, block = dataset.train_images.reader, data.shuffle_block if in_blocks else 1
        held = blocks_held(block, data.shuffle_window, max(1, shards.count // max(1, len(shards.held))))
        self.reader = ShardReader(whole.storage, whole.index, whole.split, block, held)
        self.threads = dataset.train_images.threads
        self._ahead: dict[int, dict[int, Future[Tensor]]] = {}
        """By step: what becomes of the images at the places of its batch that this worker holds."""
        self._step = -1
        self._words: NDArray[np.uint64] = np.empty((0, WORDS), np.uint64)

    def drawn(self, steps: range) -> Tensor:
        """See above; of one step, whose images and those of the next steps are under way from now on."""
        (self._step,) = steps
        for step in [step for step in self._ahead if not self._step <= step <= self._step + AHEAD]:
            for future in self._ahead.pop(step).values():
                future.cancel()
        for step in range(self._step, self._step + AHEAD + 1):
            if step not in self._ahead:
                self._ahead[step] = self._under_way(step)
        self._words = self._words_of(self._step)
        return super().drawn(steps)

    def pixels(self, step: int, most: int) -> Tensor:
        """See above."""
        drawn = torch.from_numpy(self._drawn_at(step)[:most, : self.columns])
        words = self._words_of(step)
        flips = self.order.draw(step).flips
        images = [self._cut(int(row[0]), bool(flips[place]), words[place]) for place, row in enumerate(drawn)]
        return self._seen(self.on_device(drawn), stacked(images).to(self.device) + self._colours(words[:most]))

    def _raw(self, drawn: Tensor, places: range) -> Tensor:
        futures, size = self._ahead[self._step], self.standardise.mean.shape[0]
        take = futures.__getitem__ if self.order.data.mixup else futures.pop  # some are asked for twice
        found = [take(place).result() for place in places]
        pixels = stacked(found) if found else torch.empty(0, size, size, 3, dtype=torch.uint8)
        raw = self.on_device(pixels)
        return raw + self._colours(self._words[list(places)]) if self.order.data.augmentation == "paper" else raw

    def _under_way(self, step: int) -> dict[int, Future[Tensor]]:
        """Ask the threads for this worker's images of a step."""
        draw, words = self.order.draw(step), self._words_of(step)
        indices, flips = draw.indices, draw.flips
        bounds = [bound for part in self.sub_batches(len(indices)) for bound in self.shards.bounds(*part)]
        places = [place for start, stop in bounds for place in range(start, stop)]
        if self.order.data.mixup:  # what is joined to them
            places = list(dict.fromkeys([*places, *(len(indices) - 1 - place for place in places)]))
        return {
            place: self.threads.submit(self._cut, int(indices[place]), bool(flips[place]), words[place])
            for place in places
        }

    def _cut(self, image: int, flip: bool, words: NDArray[np.uint64]) -> Tensor:
        """What is trained on of an image: uint8 [3, S, S]. Images that are not shifted are flipped here."""
        data = self.order.data
        part = training_crop(decoded(self.reader, image), data.size, data.augmentation, words)
        return part.flip(2) if flip and data.augmentation != "shift" else part

    def _moved(self, drawn: Tensor, images: Tensor) -> Tensor:
        return super()._moved(drawn, images) if self.order.data.augmentation == "shift" else images

    def _words_of(self, step: int) -> NDArray[np.uint64]:
        """Random words of each place of a step's batch, [B, WORDS]."""
        size = self.order.plan.size(step)
        return draws.raw(self.order.augmentation_seed, Stream.CROP, step, size * WORDS).reshape(size, WORDS)

    def _colours(self, words: NDArray[np.uint64]) -> Tensor:
        """What is added to the colours of each image: [b, 1, 1, 3], from 0 to 255."""
        paper = self.order.data.augmentation == "paper"
        added = colour_shifts(words, self.covariance) if paper else np.zeros((len(words), 3))
        return self.on_device(torch.from_numpy(added)).to(self.standardise.mean.dtype)[:, None, None]
