"""Colours, cutout, mixup and a transform of one's own: each held against what its source says, one image at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from resnet_dist.configuration.data import DataConfig
from resnet_dist.configuration.loss import LossConfig
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.custom_code import collect, install
from resnet_dist.data import augmentation
from resnet_dist.data.augmentation import Augmentation, jittered, uniform
from resnet_dist.data.batches import Batch, share_of
from resnet_dist.errors import ConfigurationError
from resnet_dist.training.custom_checks import check_code
from resnet_dist.training.gradients import Loss
from resnet_dist.training.state import Training
from resnet_dist.workers import alone
from tests.small_runs import small_config, small_dataset

PLAIN: dict[str, Any] = {"data__shift": 0, "data__flip": False}


def batch_of(step: int = 0, **settings: Any) -> Batch:
    """A step's batch on one worker, whose other draws are those of every other call."""
    batches = Training(small_config(**settings), small_dataset(), alone("cpu")).batches
    ((batch,),) = batches.parts(batches.drawn(range(step, step + 1))[0])
    return batch


def test_an_augmentation_leaves_the_draws_of_the_others_alone() -> None:
    whole = batch_of()
    cut = batch_of(data__cutout=8)
    assert torch.equal(whole.labels, cut.labels)
    kept = cut.images != 0
    assert torch.equal(whole.images[kept], cut.images[kept])


def test_no_draw_of_an_augmentation_follows_from_another_or_from_another_steps() -> None:
    drawing = Augmentation(DataConfig(cutout=8, colour=0.4))
    columns = np.concatenate([drawing.draw(0, step, 4000) for step in (0, 1)], axis=1).T
    assert np.abs(np.corrcoef(columns) - np.eye(10)).max() < 0.06


def test_the_square_of_cutout_lies_where_it_was_drawn_whatever_the_shift_and_the_flip() -> None:
    batches = Training(small_config(data__cutout=8), small_dataset(), alone("cpu")).batches
    drawn = batches.drawn(range(1))[0]
    ((batch,),) = batches.parts(drawn)
    for image, (row, column) in zip(batch.images, (drawn[:, 4:6] - 4).tolist(), strict=True):
        assert (image[:, max(0, row) : row + 8, max(0, column) : column + 8] == 0).all()


def test_cutout_zeroes_a_square_about_a_place_anywhere() -> None:
    images = torch.cat([(batch_of(step, data__cutout=8, **PLAIN).images == 0).all(1) for step in range(40)])
    sides = images.any(2).sum(1), images.any(1).sum(1)
    assert all(torch.equal(image.sum(), rows * columns) for image, rows, columns in zip(images, *sides, strict=True))
    # About the 4th pixel it is whole; about the first, half of it is beyond the edge.
    for side in sides:
        assert set(side.tolist()) == {4, 5, 6, 7, 8}
        assert (side == 8).double().mean().item() == pytest.approx(25 / 32, abs=0.06)


@pytest.mark.parametrize("factors", [(1.3, 1, 1), (1, 0.6, 1), (1, 1, 1.4), (0.7, 1.3, 0.6)])
def test_colours_are_changed_as_torchvision_does(factors: tuple[float, float, float]) -> None:
    images = torch.rand(3, 3, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = images
    for change, factor in zip(
        (reference.adjust_brightness, reference.adjust_contrast, reference.adjust_saturation), factors, strict=True
    ):
        expected = change(expected, factor)
    made = jittered(255 * images.permute(0, 2, 3, 1), torch.tensor([factors] * 3, dtype=torch.float64))
    # torchvision's weights of the colours have four digits.
    torch.testing.assert_close(made.permute(0, 3, 1, 2) / 255, expected, rtol=0, atol=2e-4)


def test_the_factors_of_colours_are_drawn_from_one_less_to_one_plus_the_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[Tensor] = []

    def look(images: Tensor, factors: Tensor) -> Tensor:
        found.append(factors)
        return images

    monkeypatch.setattr(augmentation, "jittered", look)
    batches = Training(small_config(data__colour=0.4), small_dataset(), alone("cpu")).batches
    for step in range(60):
        list(batches.parts(batches.drawn(range(step, step + 1))[0]))
    for factors in torch.cat(found).T:
        assert stats.kstest(factors.numpy(), stats.uniform(0.6, 0.8).cdf).pvalue > 0.001


def test_mixup_joins_each_image_to_another_of_the_whole_batch_and_their_losses() -> None:
    plain, mixed = batch_of(), batch_of(data__mixup=0.4)
    assert mixed.others is not None and mixed.share is not None
    share = mixed.share[0]
    assert 0 < share < 1 and (mixed.share == share).all()
    torch.testing.assert_close(mixed.images, share * plain.images + (1 - share) * plain.images.flip(0))
    assert torch.equal(mixed.labels, plain.labels) and torch.equal(mixed.others, plain.labels.flip(0))
    logits = torch.randn(16, 10, dtype=torch.float64)
    batch = Batch(logits, mixed.labels, mixed.others, mixed.share)
    found = Loss("float64", torch.device("cpu"), LossConfig(label_smoothing=0.1))(torch.nn.Identity(), batch, 16)
    target = share * F.one_hot(mixed.labels, 10) + (1 - share) * F.one_hot(mixed.others, 10)
    expected = F.cross_entropy(logits, target, label_smoothing=0.1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_the_share_is_drawn_from_a_beta_distribution_anew_in_each_step() -> None:
    shares = [share_of(7, step, 0.4) * 2.0**-53 for step in range(2000)]
    assert stats.kstest(shares, stats.beta(0.4, 0.4).cdf).pvalue > 0.01


def test_numbers_of_53_bits_are_uniform() -> None:
    assert uniform(torch.tensor([0, 2**52, 2**53 - 1]), torch.float64).tolist() == [0, 0.5, 1 - 2.0**-53]


NEGATIVE = """
import torch

def negative(images, numbers):
    return torch.where(numbers[:, 0, None, None, None] < 0.5, 255 - images, images)
"""
WRONG = {
    "shape": ("images[:, :1]", "gives torch.float64 [5, 1, 32, 32], not images as it got them"),
    "kind": ("None", "gives NoneType, not images"),
    "own draws": ("images + torch.rand(())", "draws random numbers of its own"),
    "neighbours": ("images - images.mean(0)", "depend on its neighbours"),
    "in place": ("images.mul_(0.5)", "writes into the images"),
    "infinite": ("images / 0", "not finite"),
}


def own_transform(folder: Path, text: str) -> TrainingConfig:
    (folder / "looks.py").write_text(text)
    install(collect({"data.transform": "looks:negative"}, [folder]))
    return small_config(data__transform="looks:negative")


@pytest.mark.parametrize("beside", [{}, {"data__cutout": 1}], ids=["alone", "beside another"])
def test_a_transform_of_ones_own_has_numbers_of_each_image_for_its_chances(
    beside: dict[str, Any], tmp_path: Path
) -> None:
    check_code(own_transform(tmp_path, NEGATIVE))
    dataset, settings = small_dataset(), PLAIN | beside
    found, plain = batch_of(data__transform="looks:negative", **settings).images, batch_of(**settings).images
    kept = plain != 0  # all but the pixel that is cut out

    def raw(images: Tensor) -> Tensor:
        return images * dataset.std + dataset.mean

    turned = [not torch.equal(a, b) for a, b in zip(found, plain, strict=True)]
    assert 0 < np.mean(turned) < 1
    for image, before, is_turned, seen in zip(raw(found), raw(plain), turned, kept, strict=True):
        expected = 255 - before if is_turned else before
        torch.testing.assert_close(image[seen], expected[seen], rtol=0, atol=1e-9)


@pytest.mark.parametrize("fault", WRONG)
def test_a_transform_that_breaks_a_law_is_refused_in_one_line(fault: str, tmp_path: Path) -> None:
    text, said = WRONG[fault]
    config = own_transform(tmp_path, f"import torch\ndef negative(images, numbers): return {text}\n")
    with pytest.raises(ConfigurationError) as error:
        check_code(config)
    assert said in str(error.value) and str(error.value).startswith("data.transform: 'looks:negative': ")
