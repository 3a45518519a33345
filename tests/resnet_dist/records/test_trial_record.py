import numpy as np
import pytest

from resnet_dist.records.trial_record import decode_mask, encode_mask


@pytest.mark.parametrize("count", [1, 7, 8, 9, 10_000])
def test_a_mask_is_read_back_and_takes_a_bit_an_image(count: int) -> None:
    mask = np.random.default_rng(count).random(count) < 0.1
    text = encode_mask(mask)
    assert np.array_equal(decode_mask(text, count), mask)
    assert len(text) <= count / 6 + 4


def test_a_mask_starts_with_the_highest_bit() -> None:
    assert encode_mask(np.array([True] + 7 * [False])) == "gA=="  # 0b10000000


@pytest.mark.parametrize("count", [8, 17])
def test_a_mask_of_another_test_set_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"16 bits for {count} images"):
        decode_mask(encode_mask(np.ones(12, bool)), count)
