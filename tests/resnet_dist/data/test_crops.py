"""What is cut out of images, and what the colours of the paper add."""

import numpy as np
import pytest
import torch

from resnet_dist.data import random_draws as draws
from resnet_dist.data.crops import WORDS, colour_shifts, paper_box, test_crop, today_box, training_crop
from resnet_dist.data.random_draws import Stream

test_crop.__test__ = False  # type: ignore[attr-defined]

COUNT = 4000
ALL = draws.raw(0, Stream.CROP, 0, COUNT * WORDS).reshape(COUNT, WORDS)


@pytest.mark.parametrize("box", [paper_box, today_box])
@pytest.mark.parametrize("shape", [(375, 500), (500, 30), (1, 1), (7, 3000)])
def test_what_is_cut_lies_in_the_image(box: object, shape: tuple[int, int]) -> None:
    for words in ALL[:300]:
        top, left, height, width = box(*shape, words)  # type: ignore[operator]
        assert 0 <= top <= top + height <= shape[0] and 0 <= left <= left + width <= shape[1]
        assert height > 0 and width > 0


def test_the_papers_square_is_that_of_a_shorter_side_from_256_to_480() -> None:
    boxes = np.array([paper_box(375, 500, words) for words in ALL])
    scaled = 375 / boxes[:, 2] * 224  # what the shorter side has when the square has 224
    assert (boxes[:, 2] == boxes[:, 3]).all()
    assert 255 < scaled.min() < 258 and 477 < scaled.max() < 482
    assert scaled.mean() == pytest.approx((256 + 480) / 2, abs=4)
    assert boxes[:, 0].min() == boxes[:, 1].min() == 0
    assert (boxes[:, 1] + boxes[:, 3]).max() == 500


def test_todays_part_has_8_to_100_per_cent_of_the_area() -> None:
    boxes = np.array([today_box(500, 500, words) for words in ALL])
    areas, ratios = boxes[:, 2] * boxes[:, 3] / 500**2, boxes[:, 3] / boxes[:, 2]
    assert 0.078 < areas.min() < 0.1 and areas.max() > 0.9
    assert 0.74 < ratios.min() < 0.77 and 1.3 < ratios.max() < 1.35
    assert np.log(ratios).mean() == pytest.approx(0, abs=0.02)


def test_a_strip_gives_the_most_of_its_middle() -> None:
    assert {today_box(20, 900, words)[1:] for words in ALL[:20]} == {((900 - 27) // 2, 20, 27)}


def test_a_test_image_is_the_middle_256_of_which_224_are_seen() -> None:
    pixels = torch.zeros(3, 256, 300, dtype=torch.uint8)
    pixels[:, 16:240, 38:262] = 200
    assert (test_crop(pixels, 224, "paper") == 200).all()
    assert (test_crop(pixels, 224, "shift") == 0).any()
    assert test_crop(pixels, 224, "today").shape == (3, 224, 224)
    assert training_crop(pixels[:, :10, :10], 32, "today", ALL[0]).shape == (3, 32, 32)  # smaller than the crop


def test_colours_move_along_the_principal_components() -> None:
    axes = np.linalg.qr(np.array([[1.0, 1, 1], [1, -1, 0], [1, 1, -2]]).T)[0]
    variances = np.array([9000.0, 700, 100])
    shifts = colour_shifts(ALL, axes * variances @ axes.T) @ axes
    expected = 255 * 0.1 * variances / 255**2
    assert shifts.std(0) == pytest.approx(expected, rel=0.05)
    assert abs(shifts.mean(0)) == pytest.approx(0, abs=0.1)
    assert abs(np.corrcoef(shifts.T) - np.eye(3)).max() < 0.05
    # What is cut out says nothing of them, nor of how far they move.
    place = draws.uniform(ALL[:, :3])
    for moved in (shifts, abs(shifts)):
        assert abs(np.corrcoef(np.column_stack([moved, place]).T)[:3, 3:]).max() < 0.06
