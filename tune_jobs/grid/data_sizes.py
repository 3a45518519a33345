"""How many images runs train on and are tested on, and the memory that they take."""

import functools

from resnet_dist.configuration.data import IMAGENET, DataConfig
from resnet_dist.configuration.training import TrainingConfig

KNOWN_SIZES = {
    "synthetic": (10_000, 2_000),
    "cifar10": (50_000, 10_000),
    "cifar100": (50_000, 10_000),
    IMAGENET: (1_281_167, 50_000),
}
"""Training and test images of the sources whose content is fixed."""

VIEWS = {"one": 1, "ten": 10, "scales": 36}
"""What testing on an image costs, by `data.test_crops`, in images of `data.size`."""

SHARD_BLOCKS, SHARD_FILE, STEPS_AHEAD = 9, 115_000, 3
"""Of images in shards: sequences of blocks that one worker reads, bytes of ImageNet's mean file, batches in memory."""


def train_images(config: TrainingConfig) -> int:
    """Images that a run trains on."""
    return (config.data.train_limit or _sizes(config.data)[0]) - config.data.holdout


def test_images(config: TrainingConfig) -> int:
    """Images that a run is tested on at each epoch."""
    return config.data.test_limit or _sizes(config.data)[1]


def image_memory(config: TrainingConfig) -> int:
    """Bytes of the images that each worker holds.

    All for training, and its share of those for the test, with their labels; of shards some blocks, and what is decoded
    ahead.
    """
    data, workers = config.data, config.run.workers
    image = 3 * data.size**2 + 8
    if data.is_streamed:
        blocks = SHARD_BLOCKS * data.shuffle_block * (data.shuffle_window + 2) // workers
        return blocks * SHARD_FILE + STEPS_AHEAD * data.batch_size * image // workers
    return (train_images(config) + data.holdout + test_images(config) // workers) * image


def _sizes(data: DataConfig) -> tuple[int, int]:
    return KNOWN_SIZES[data.source] if data.source in KNOWN_SIZES else _sizes_of(data.images_alone())


@functools.cache  # a plan asks for each of its trials, and the index of ImageNet's shards is some 20 MB
def _sizes_of(data: DataConfig) -> tuple[int, int]:
    from resnet_dist.data.dataset import dataset_sizes

    return dataset_sizes(data)
