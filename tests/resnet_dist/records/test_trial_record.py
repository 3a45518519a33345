import contextlib
import hashlib
import json
from typing import Any

import numpy as np
import pytest

from resnet_dist.records.trial_record import (
    decode_mask,
    encode,
    encode_mask,
    encode_metrics,
    encode_result,
    parse_metrics,
    parse_result,
)
from resnet_dist.storage.interface import LAYOUT


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


@pytest.mark.parametrize("epochs", [(1, 1), (2, 1)])
def test_lines_of_an_epoch_twice_or_before_an_earlier_one_are_no_metrics(epochs: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="its epochs are not in order"):
        parse_metrics(encode_metrics({"epoch": epoch} for epoch in epochs))


RESULT: dict[str, Any] = {"layout": LAYOUT, "trial": "0123456789abcdef", "epochs": 1, "top1_error": 0.25}


def test_a_result_is_read_back_without_its_digest_and_those_of_earlier_versions_have_none() -> None:
    assert parse_result(encode_result(RESULT), RESULT["trial"]) == RESULT
    assert parse_result(encode(RESULT), RESULT["trial"]) == RESULT


def test_a_result_is_one_json_object_whose_digest_comes_last() -> None:
    data = encode_result(RESULT)
    told = json.loads(data)
    assert list(told) == [*RESULT, "sha256"]
    assert told["sha256"] == hashlib.sha256(data[: data.index(b',\n "sha256"')]).hexdigest()


def test_no_changed_byte_of_a_result_goes_unnoticed() -> None:
    data = encode_result(RESULT)
    for place in range(len(data) - 1):  # but for the line's end after it all
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with contextlib.suppress(ValueError, KeyError, TypeError):
            read = parse_result(changed, RESULT["trial"])
            assert {name: read.get(name) for name in RESULT} == RESULT, changed
