"""Batches from shards are functions of (seed, step), decoded by whoever holds them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from resnet_dist.configuration.data import DataConfig
from resnet_dist.data.batches import Standardiser, TrainingBatches
from resnet_dist.data.dataset import dataset_fingerprint, dataset_sizes, load_source, load_test_images, open_dataset
from resnet_dist.data.image_decoding import decode, middle
from resnet_dist.data.sharded import AHEAD, ShardedDataset, StreamedBatches
from resnet_dist.errors import ConfigurationError, DataError
from resnet_dist.workers import Shards
from tests.imagenet_layout import small_shards

SIZE = 16


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training and 12 test images in several shards; the folder lies beside them."""
    return small_shards(tmp_path_factory.mktemp("shards"))


def config(shards: Path, augmentation: str = "shift", **settings: object) -> DataConfig:
    given = {"batch_size": 7, "sampling": "permutation", "shuffle_block": 3, "decoding_threads": 2, **settings}
    return DataConfig(source=f"shards:{shards}", size=SIZE, augmentation=augmentation, **given)  # type: ignore[arg-type]


def opened(data: DataConfig) -> ShardedDataset:
    dataset = open_dataset(data)
    assert isinstance(dataset, ShardedDataset)
    return dataset


def batches(data: DataConfig, workers: int = 1, rank: int = 0) -> StreamedBatches:
    dataset = opened(data)
    standardise = Standardiser(dataset.mean, dataset.std, torch.float64, torch.device("cpu"))
    return dataset.batches(standardise, data, 5, 6, Shards(workers, range(rank, rank + 1)))


def step_of(given: TrainingBatches, step: int) -> tuple[Tensor, Tensor]:
    """Images and labels of a step, all sub-batches after one another."""
    found = [batch for part in given.parts(given.drawn(range(step, step + 1))[0]) for batch in part]
    return torch.cat([batch.images for batch in found]), torch.cat([batch.labels for batch in found])


@pytest.mark.parametrize("augmentation", ["shift", "paper", "today"])
@pytest.mark.parametrize("workers", [2, 3])
def test_the_slices_of_workers_are_the_batch_of_one(shards: Path, augmentation: str, workers: int) -> None:
    data = config(shards, augmentation)
    one, several = batches(data), [batches(data, workers, rank) for rank in range(workers)]
    for step in range(6):  # over the end of an epoch, whose last batch is smaller
        images, labels = step_of(one, step)
        parts = [step_of(each, step) for each in several]
        assert torch.equal(torch.cat([part[0] for part in parts]), images)
        assert torch.equal(torch.cat([part[1] for part in parts]), labels)


@pytest.mark.parametrize("augmentation", ["shift", "paper", "today"])
def test_a_step_is_the_same_wherever_a_run_begins(shards: Path, augmentation: str) -> None:
    data = config(shards, augmentation, accumulation=2)
    one, other = batches(data), batches(data)
    whole = [step_of(one, step) for step in range(6)]
    assert len({images.sum().item() for images, _ in whole}) == 6
    for step in (4, 5, 2):
        images, labels = step_of(other, step)
        assert torch.equal(images, whole[step][0]) and torch.equal(labels, whole[step][1])


def test_only_the_next_steps_are_decoded_ahead_and_only_a_workers_own_images(shards: Path) -> None:
    given = batches(config(shards), workers=3, rank=1)
    step_of(given, 1)
    assert sorted(given._ahead) == [1, 2, 3] == list(range(1, 1 + AHEAD + 1))
    assert not given._ahead[1] and list(given._ahead[2]) == [2, 3]
    assert len(given.reader._blocks) <= given.reader.held


@pytest.mark.parametrize("sampling", ["replacement", "permutation"])
def test_images_from_shards_are_those_that_a_folder_is_cropped_to(shards: Path, sampling: str) -> None:
    """Of the same image, shift and flip the same pixels, up to the mean, which shards have by channel."""
    data = config(shards, sampling=sampling)
    folder = f"folder:{shards.parent / 'folder'}"
    in_memory = open_dataset(DataConfig(source=folder, size=SIZE, resize="crop", batch_size=7))
    dataset, given = opened(data), batches(data)
    assert not isinstance(in_memory, ShardedDataset)
    pairs = zip(in_memory.train_images, in_memory.train_labels.tolist(), strict=True)
    by_pixels = {image.numpy().tobytes(): label for image, label in pairs}
    plain = dataset.train_images
    assert {plain[n].numpy().tobytes(): int(dataset.train_labels[n]) for n in range(24)} == by_pixels
    drawn = given.drawn(range(1))[0]
    images, labels = step_of(given, 0)
    held = torch.stack([middle(decode(given.reader.read(int(n)))[0], SIZE) for n in drawn[:, 0]])
    memory = TrainingBatches(
        held, dataset.train_labels[drawn[:, 0]], given.standardise, data, 5, Shards(1, range(1)), 6
    )
    same = drawn.clone()
    same[:, 0] = torch.arange(7)
    ((batch,),) = memory.parts(same)
    assert torch.equal(batch.images, images) and torch.equal(batch.labels, labels)


def test_colours_are_the_papers_alone_and_drawn_anew(shards: Path) -> None:
    data = config(shards, "paper")
    given = batches(data)
    colours = [given._colours(given._words_of(step)) for step in range(2)]
    assert colours[0].shape == (7, 1, 1, 3) and not torch.equal(*colours)
    assert not batches(config(shards, "today"))._colours(given._words_of(0)).any()
    assert given.pixels(0, 5).shape == (5, SIZE, SIZE, 3)


def test_half_of_the_cut_images_are_flipped(shards: Path) -> None:
    given, unflipped = batches(config(shards, "today")), batches(config(shards, "today", flip=False))
    flipped = 0
    for step in range(4):
        for one, other in zip(step_of(given, step)[0], step_of(unflipped, step)[0], strict=True):
            assert torch.equal(one, other) or torch.equal(one, other.flip(2))
            flipped += not torch.equal(one, other)
    drawn = sum(int(given.order.draw(step).flips.sum()) for step in range(4))
    assert flipped == drawn and 5 < drawn < 23


def test_cuts_are_drawn_by_the_seed_of_the_augmentation_and_images_by_that_of_the_order(shards: Path) -> None:
    data = config(shards, "today")
    dataset = opened(data)
    standardise = Standardiser(dataset.mean, dataset.std, torch.float64, torch.device("cpu"))
    seeds = {"one": (5, 6), "another order": (7, 6), "other cuts": (5, 8)}
    given = {name: dataset.batches(standardise, data, *pair, Shards(1, range(1))) for name, pair in seeds.items()}
    words = {name: each._words_of(0).tolist() for name, each in given.items()}
    images = {name: each.order.draw(0).indices.tolist() for name, each in given.items()}
    assert words["one"] == words["another order"] != words["other cuts"]
    assert images["one"] == images["other cuts"] != images["another order"]


def test_test_images_are_streamed_in_their_order(shards: Path) -> None:
    tests = load_test_images(config(shards, "today"))
    images = tests.images
    assert not isinstance(images, Tensor) and images.shape == (12, 3, SIZE, SIZE)
    whole = torch.cat([piece for (piece,) in images.pieces(5)])
    assert torch.equal(whole, torch.stack([images[n] for n in range(12)]).permute(0, 2, 3, 1))
    assert torch.equal(torch.cat([piece for (piece,) in images.part(4, 9).pieces(2)]), whole[4:9])
    assert list(images.part(3, 3).pieces(2)) == []


def test_limits_and_holdout_cut_the_training_images(shards: Path) -> None:
    dataset = opened(config(shards, train_limit=20, holdout=5, test_limit=4))
    assert dataset.counts() == {"train": 15, "validation": 5, "test": 4, "classes": 3}
    assert dataset.validation_images.chosen == range(15, 20)
    with pytest.raises(DataError, match="train_limit: 25 is more than the 24 images"):
        open_dataset(config(shards, train_limit=25))


def test_sizes_and_fingerprint_are_those_of_the_index(shards: Path) -> None:
    data = config(shards)
    assert dataset_sizes(data) == (24, 12) and dataset_fingerprint(data) == opened(data).fingerprint
    with pytest.raises(DataError, match=r"data.fingerprint: .* has the fingerprint"):
        open_dataset(config(shards, fingerprint="0123456789abcdef"))
    with pytest.raises(DataError, match="not decoded into memory"):
        load_source(data)


def test_a_place_without_shards_is_named_with_what_makes_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"no index.npz in {tmp_path}; resnet-dist data shard SOURCE DEST makes it"):
        open_dataset(config(tmp_path))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"source": "imagenet:/data"}, "make shards of it first"),
        ({"source": "shards:"}, "needs a place"),
        ({"augmentation": "today"}, "which shards have: resnet-dist data shard"),
        ({"test_crops": "ten"}, r"data.test_crops: 'ten' cuts from .* which shards have"),
        ({"source": "shards:/s", "resize": "crop"}, "data.resize: is for images in a folder"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        DataConfig(**settings)  # type: ignore[arg-type]


def test_every_image_of_an_epoch_is_read_once(shards: Path) -> None:
    given = batches(config(shards, shift=0, flip=False))
    found = [step_of(given, step) for step in range(given.order.plan.first_step(1))]
    images, labels = (torch.cat(each) for each in zip(*found, strict=True))
    assert len(images.unique(dim=0)) == len(images) == 24
    assert labels.bincount().tolist() == [8] * 3
