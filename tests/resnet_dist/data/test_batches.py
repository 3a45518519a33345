import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from resnet_dist.configuration.data import DataConfig
from resnet_dist.data.augmentation import shift_and_flip
from resnet_dist.data.batch_order import BatchOrder
from resnet_dist.data.batches import Batch, Standardiser, TrainingBatches
from resnet_dist.data.epochs import EpochPlan
from resnet_dist.workers import Workers

CPU = torch.device("cpu")


def order(images: int = 100, seed: int = 1, **settings: Any) -> BatchOrder:
    return BatchOrder(DataConfig(**settings), images, seed)


# The epoch plan


def ends_of_epochs(images: int, batch_size: int, epochs: int) -> list[int]:
    """Steps after which the study's loop counts an epoch: floor(images seen / images) has changed."""
    ends: list[int] = []
    seen = step = 0
    while len(ends) < epochs:
        before = seen // images
        seen, step = seen + batch_size, step + 1
        if seen // images != before:
            ends.append(step)
    return ends


@given(st.integers(2, 500), st.data())
def test_epochs_with_replacement_end_where_the_studys_did(images: int, data: st.DataObject) -> None:
    batch_size = data.draw(st.integers(1, images))
    plan = EpochPlan(images, batch_size, "replacement")
    ends = ends_of_epochs(images, batch_size, 10)
    assert [plan.first_step(epoch) for epoch in range(11)] == [0, *ends]
    for epoch, (first, end) in enumerate(itertools.pairwise([0, *ends])):
        assert {plan.epoch(step) for step in (first, end - 1)} == {epoch}
        assert plan.size(first) == plan.size(end - 1) == batch_size


def test_the_studys_epochs_have_390_or_391_steps() -> None:
    plan = EpochPlan(50_000, 128, "replacement")
    starts = [plan.first_step(epoch) for epoch in range(201)]
    lengths = [b - a for a, b in itertools.pairwise(starts)]
    assert set(lengths) == {390, 391}
    assert lengths[:3] == [391, 391, 390]
    assert starts[200] == 78_125  # 200 * 50,000 / 128: "about 7.8e4" iterations, as the study says


@given(st.integers(2, 500), st.data())
def test_a_permutation_ends_with_what_is_left(images: int, data: st.DataObject) -> None:
    batch_size = data.draw(st.integers(1, images))
    plan = EpochPlan(images, batch_size, "permutation")
    for epoch in (0, 1, 7):
        steps = range(plan.first_step(epoch), plan.first_step(epoch + 1))
        sizes = [plan.size(step) for step in steps]
        assert sum(sizes) == images and set(sizes[:-1]) <= {batch_size} and 0 < sizes[-1] <= batch_size
        assert {plan.epoch(step) for step in steps} == {epoch}


# Sampling


def test_a_permutation_covers_each_image_once_an_epoch_in_a_new_order() -> None:
    batches = order(images=100, batch_size=16, sampling="permutation")
    epochs = [np.concatenate([batches.draw(7 * epoch + step).indices for step in range(7)]) for epoch in range(20)]
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 20
    assert not any((epoch == np.arange(100)).all() for epoch in epochs)


def test_every_image_comes_first_in_a_permutation_equally_often() -> None:
    batches = order(images=10, batch_size=5, sampling="permutation")
    first = [batches.draw(2 * epoch).indices[0] for epoch in range(5000)]
    assert stats.chisquare(np.bincount(first, minlength=10)).pvalue > 1e-3


@pytest.fixture(scope="module")
def replaced() -> NDArray[np.int64]:
    """Indices of 400 batches of 1,000 out of 100 images."""
    batches = order(images=1000, batch_size=1000)
    return np.stack([batches.draw(step).indices % 100 for step in range(400)])


def test_with_replacement_every_image_is_equally_likely(replaced: NDArray[np.int64]) -> None:
    batches = order(images=1000, batch_size=1000)
    counts = sum(np.bincount(batches.draw(step).indices, minlength=1000) for step in range(200))
    assert stats.chisquare(counts).pvalue > 1e-3


def test_with_replacement_a_batch_repeats_images_as_often_as_chance_does() -> None:
    batches = order(images=1000, batch_size=1000)
    distinct = np.mean([len(set(batches.draw(step).indices.tolist())) for step in range(200)])
    expected = 1000 * (1 - (1 - 1 / 1000) ** 1000)
    assert abs(distinct - expected) < 4 * (1000 * (np.exp(-1) - 2 * np.exp(-2)) / 200) ** 0.5


def test_draws_with_replacement_are_independent(replaced: NDArray[np.int64]) -> None:
    neighbours = np.bincount((100 * replaced[:, ::2] + replaced[:, 1::2]).ravel(), minlength=10_000)
    steps = np.bincount((100 * replaced[::2] + replaced[1::2]).ravel(), minlength=10_000)
    assert stats.chisquare(neighbours).pvalue > 1e-3
    assert stats.chisquare(steps).pvalue > 1e-3


# Augmentation


@pytest.fixture(scope="module")
def augmentations() -> NDArray[np.int64]:
    """Shift down, shift right, flip and index of 200,000 images, [200,000, 4]."""
    draws = [order(images=1000, batch_size=1000).draw(step) for step in range(200)]
    return np.concatenate([np.column_stack([d.shifts, d.flips, d.indices]) for d in draws])


def test_every_shift_and_flip_occurs_with_the_same_frequency(augmentations: NDArray[np.int64]) -> None:
    down, right, flip, _ = augmentations.T
    counts = np.bincount(((down + 4) * 9 + right + 4) * 2 + flip)
    assert len(counts) == 9 * 9 * 2 and counts.min() > 0
    assert stats.chisquare(counts).pvalue > 1e-3


def test_augmentation_does_not_depend_on_the_image(augmentations: NDArray[np.int64]) -> None:
    down, _, flip, index = augmentations.T
    table = np.bincount(((down + 4) * 2 + flip) * 10 + index % 10).reshape(18, 10)
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_augmentation_can_be_turned_off() -> None:
    draw = order(batch_size=100, shift=0, flip=False).draw(3)
    assert not draw.shifts.any() and not draw.flips.any()


def test_switching_flips_off_leaves_the_shifts_as_they_were() -> None:
    with_flips, without = order(batch_size=100).draw(3), order(batch_size=100, flip=False).draw(3)
    assert np.array_equal(with_flips.shifts, without.shifts) and with_flips.flips.any()


def studys_augmentation(image: NDArray[Any], down: int, right: int, flip: bool) -> NDArray[Any]:
    """The study's loop for one standardised image [3, 32, 32], with its ranges, which count from 1 and are closed."""
    shifted = np.zeros_like(image)
    target_y, source_y = (max(1, 1 + down), min(32, 32 + down)), (max(1, 1 - down), min(32, 32 - down))
    target_x, source_x = (max(1, 1 + right), min(32, 32 + right)), (max(1, 1 - right), min(32, 32 - right))
    for channel in range(3):
        for y_to, y_from in zip(range(target_y[0], target_y[1] + 1), range(source_y[0], source_y[1] + 1), strict=True):
            columns = zip(range(target_x[0], target_x[1] + 1), range(source_x[0], source_x[1] + 1), strict=True)
            for x_to, x_from in columns:
                shifted[channel, y_to - 1, x_to - 1] = image[channel, y_from - 1, x_from - 1]
    if not flip:
        return shifted
    flipped = np.zeros_like(shifted)
    for x in range(32):
        flipped[:, :, x] = shifted[:, :, 31 - x]
    return flipped


def training_batches(
    dtype: torch.dtype = torch.float64, workers: Workers | None = None, **settings: Any
) -> tuple[TrainingBatches, NDArray[np.uint8], NDArray[np.float64]]:
    """Batches of 60 random images, the images [60, 3, 32, 32], and the mean [3, 32, 32]; the deviation is 60."""
    random = np.random.Generator(np.random.PCG64(3))
    images = random.integers(0, 256, (60, 3, 32, 32), dtype=np.uint8)
    mean = random.uniform(100, 150, (3, 32, 32))
    batches = TrainingBatches(
        torch.from_numpy(images),
        torch.arange(60) % 10,
        Standardiser(torch.from_numpy(mean), 60.0, dtype, CPU),
        DataConfig(**{"batch_size": 60} | settings),
        1,
        (workers or Workers(0, 1, CPU)).shards(),
    )
    return batches, images, mean


def of_step(batches: TrainingBatches, step: int) -> tuple[int, list[list[Batch]]]:
    """Images in a step's whole batch, and the worker's shards of each of its sub-batches."""
    drawn = batches.on_device(batches.drawn(range(step, step + 1))[0])
    return len(drawn), list(batches.parts(drawn))


def whole(batches: TrainingBatches, step: int) -> tuple[Tensor, Tensor]:
    """Images and labels of a step, of the one shard that there is."""
    _, parts = of_step(batches, step)
    shards = [shard for (shard,) in parts]
    return torch.cat([shard.images for shard in shards]), torch.cat([shard.labels for shard in shards])


@pytest.mark.parametrize("step", [0, 7])
def test_batches_are_what_the_studys_loop_makes_of_the_same_draws(step: int) -> None:
    batches, raw, mean = training_batches()
    images, labels = whole(batches, step)
    draw = batches.order.draw(step)
    standardised = (raw - mean) * (1 / 60)
    for image, label, index, (down, right), flip in zip(
        images, labels, draw.indices, draw.shifts, draw.flips, strict=True
    ):
        reference = studys_augmentation(standardised[index], int(down), int(right), bool(flip))
        assert np.array_equal(image.numpy(), reference)
        assert label == index % 10


def test_the_comparison_sees_whether_the_flip_comes_first() -> None:
    image = training_batches()[1][0].astype(float)
    mirrored = studys_augmentation(image, 0, 0, flip=True)
    assert not np.array_equal(
        studys_augmentation(mirrored, 0, 3, flip=False), studys_augmentation(image, 0, 3, flip=True)
    )


@pytest.mark.parametrize("reach", [0, 1, 31])
def test_any_reach_shifts_as_the_study_does(reach: int) -> None:
    random = np.random.Generator(np.random.PCG64(4))
    images = random.normal(size=(6, 3, 32, 32))
    shifts, flips = random.integers(-reach, reach + 1, (6, 2)), np.arange(6) % 2 == 0
    shifts[0], shifts[1] = reach, -reach
    moved = shift_and_flip(
        torch.from_numpy(images).permute(0, 2, 3, 1), torch.from_numpy(shifts), torch.from_numpy(flips), reach
    ).permute(0, 3, 1, 2)
    for i in range(6):
        reference = studys_augmentation(images[i], int(shifts[i, 0]), int(shifts[i, 1]), bool(flips[i]))
        assert np.array_equal(moved[i].numpy(), reference)


def test_the_gap_is_zero_after_standardising_whatever_the_images() -> None:
    images = torch.full((1, 32, 32, 3), 7.0)
    moved = shift_and_flip(images, torch.tensor([[4, -4]]), torch.tensor([False]), 4)
    assert moved[0, :4].eq(0).all() and moved[0, :, -4:].eq(0).all() and moved[0, 4:, :-4].eq(7).all()


# Shape, type and order of what a step gives


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_lie_with_channels_last_in_the_networks_type(dtype: torch.dtype) -> None:
    images, labels = whole(training_batches(dtype)[0], 0)
    assert images.shape == (60, 3, 32, 32) and images.dtype == dtype
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.dtype == torch.int64


ASKED: list[Callable[[BatchOrder], list[NDArray[np.int64]]]] = [
    lambda batches: [batches.draw(step).indices for step in range(10)],
    lambda batches: [batches.draw(step).indices for step in reversed(range(10))][::-1],
    lambda batches: [order(batch_size=30, sampling=batches.data.sampling).draw(step).indices for step in range(10)],
]


@pytest.mark.parametrize("sampling", ["replacement", "permutation"])
def test_a_batch_depends_on_the_seed_and_the_step_alone(sampling: str) -> None:
    first, *others = (asked(order(batch_size=30, sampling=sampling)) for asked in ASKED)
    for other in others:
        assert all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    different = ASKED[0](order(seed=2, batch_size=30, sampling=sampling))
    assert not any(np.array_equal(a, b) for a, b in zip(first, different, strict=True))


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_workers_shards_make_up_the_whole_batch(size: int, accumulation: int) -> None:
    # 60 images by permutation in batches of 29: 29, 29 and then 2, fewer than most numbers of workers
    settings: dict[str, Any] = {"batch_size": 29, "sampling": "permutation", "accumulation": accumulation}
    alone = training_batches(**settings)[0]
    for step in range(3):
        count, whole_parts = of_step(alone, step)
        of_workers = [
            of_step(training_batches(workers=Workers(rank, size, CPU), **settings)[0], step)[1] for rank in range(size)
        ]
        assert count == (29, 29, 2)[step]
        for number, (part,) in enumerate(whole_parts):
            shards = [parts[number][0] for parts in of_workers]
            assert torch.equal(torch.cat([shard.images for shard in shards]), part.images)
            assert torch.equal(torch.cat([shard.labels for shard in shards]), part.labels)
            assert max(len(shard.labels) for shard in shards) - min(len(shard.labels) for shard in shards) <= 1


def test_the_keys_of_a_network_that_draws_are_others_for_each_place_and_step() -> None:
    batches = training_batches()[0]
    batches.keyed = True
    keys = [shard.keys for step in range(5) for (shard,) in of_step(batches, step)[1]]
    drawn = torch.cat([each for each in keys if each is not None])
    assert len(drawn) == len(drawn.unique()) == 5 * 60


def test_sub_batches_make_up_the_batch() -> None:
    together, parts = (training_batches(accumulation=count)[0] for count in (1, 7))
    assert torch.equal(whole(together, 4)[0], whole(parts, 4)[0])
    assert [len(shard.labels) for (shard,) in of_step(parts, 4)[1]] == [8, 9, 8, 9, 8, 9, 9]
