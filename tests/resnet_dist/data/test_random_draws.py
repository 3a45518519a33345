from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from resnet_dist.data.random_draws import Stream, integers, normal, permutation, raw, uniform

WORD = 2**64


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64-10 in Python's integers, from Salmon et al. 2011, section 3.3 and its reference code."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * c0, WORD)
        high1, low1 = divmod(0xCA5A826395121157 * c2, WORD)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) % WORD, (k1 + 0xBB67AE8584CAA73B) % WORD
    return [c0, c1, c2, c3]


def test_the_reference_gives_the_published_answers() -> None:
    # Known answers of the Random123 distribution, file kat_vectors.
    assert philox([0] * 4, [0] * 2) == [
        0x16554D9ECA36314C,
        0xDB20FE9D672D0FDC,
        0xD7E772CEE186176B,
        0x7E68B68AEC7BA23B,
    ]
    assert philox([WORD - 1] * 4, [WORD - 1] * 2) == [
        0x87B092C3013FE90B,
        0x438C3C67BE8D0224,
        0x9CC7D7C69CD777B6,
        0xA09CAEBF594F0BA0,
    ]


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
@pytest.mark.parametrize("stream", Stream)
@pytest.mark.parametrize("index", [0, 1, 78_000])
def test_draws_are_philoxs(seed: int, stream: Stream, index: int) -> None:
    # The counter is advanced before each block of four.
    blocks = [philox([block, index, 0, 0], [seed, stream]) for block in (1, 2, 3)]
    assert raw(seed, stream, index, 12).tolist() == [word for block in blocks for word in block]


def test_the_first_draws_do_not_depend_on_how_many_are_made() -> None:
    assert raw(5, Stream.ORDER, 7, 3).tolist() == raw(5, Stream.ORDER, 7, 1000).tolist()[:3]


def test_seeds_streams_and_indices_do_not_overlap() -> None:
    words: Counter[int] = Counter()
    for seed in range(3):
        for stream in Stream:
            for index in range(5):
                words.update(raw(seed, stream, index, 200).tolist())
    assert len(words) == 3 * len(Stream) * 5 * 200


@given(st.lists(st.integers(0, WORD - 1), min_size=1), st.integers(1, 2**32 - 1))
def test_integers_scale_the_upper_half_of_the_draw(bits: list[int], bound: int) -> None:
    result = integers(np.array(bits, np.uint64), bound)
    assert result.tolist() == [(word >> 32) * bound >> 32 for word in bits]
    assert result.min() >= 0 and result.max() < bound


@pytest.mark.parametrize("bound", [2, 9, 10, 1000])
def test_integers_are_uniform(bound: int) -> None:
    counts = np.bincount(integers(raw(1, Stream.ORDER, 0, 200_000), bound), minlength=bound)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_uniform_numbers_stand_on_a_grid_of_two_to_the_minus_53() -> None:
    extremes = uniform(np.array([0, 2**11 - 1, 2**11, WORD - 1], np.uint64))
    assert extremes.tolist() == [0.0, 0.0, 2.0**-53, 1 - 2.0**-53]
    assert stats.kstest(uniform(raw(1, Stream.WEIGHTS, 0, 100_000)), "uniform").pvalue > 1e-3


def test_normal_numbers_are_standard_normal() -> None:
    values = normal(raw(1, Stream.WEIGHTS, 0, 200_000))
    assert values.shape == (100_000,)
    assert stats.kstest(values, "norm").pvalue > 1e-3
    assert abs(values.mean()) < 4 / 100_000**0.5
    assert abs(values.std() - 1) < 4 / 200_000**0.5
    assert abs(stats.pearsonr(values[1:], values[:-1]).statistic) < 4 / 100_000**0.5


def test_normal_numbers_are_finite_at_the_extremes() -> None:
    bits = np.array([0, 0, WORD - 1, 0, 0, WORD - 1, WORD - 1, WORD - 1], np.uint64)
    assert np.isfinite(normal(bits)).all()


def test_every_permutation_is_equally_likely() -> None:
    drawn = Counter(tuple(permutation(raw(1, Stream.ORDER, index, 4)).tolist()) for index in range(12_000))
    assert len(drawn) == 24
    assert stats.chisquare(list(drawn.values())).pvalue > 1e-3
