"""Dropout and random slopes: functions of keys, with the distribution that they are to have."""

import pytest
import torch
from scipy import stats

from resnet_dist.networks.noise import Dropout, Noise, RandomisedReLU, _mixed, keyed

KEYS = torch.tensor([3, 2**53 - 1, 77, 0])


def test_the_hash_is_that_of_splitmix64() -> None:
    """Its first outputs from the state 1234567, by its reference implementation in C."""
    step = 0x9E3779B97F4A7C15
    states = [(1234567 + step * n) % 2**64 for n in (1, 2, 3)]
    signed = torch.tensor([state - 2**64 if state >= 2**63 else state for state in states])
    assert [value % 2**64 for value in _mixed(signed).tolist()] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_an_images_numbers_depend_on_its_key_and_the_layer_alone() -> None:
    images = torch.zeros(4, 3, 5, 5)
    with keyed(KEYS):
        whole, other = Noise(1).uniform(images), Noise(2).uniform(images)
    with keyed(KEYS[2:]):
        part = Noise(1).uniform(images[2:].to(memory_format=torch.channels_last))
    assert torch.equal(whole[2:], part) and len(whole.unique()) == whole.numel()
    assert not torch.isin(other, whole).any()


def test_the_numbers_are_uniform() -> None:
    with keyed(KEYS):
        drawn = Noise(0).uniform(torch.zeros(4, 50_000, dtype=torch.float64))
    assert stats.kstest(drawn.flatten().numpy(), "uniform").pvalue > 1e-3
    assert abs(float(torch.corrcoef(drawn)[0, 1])) < 0.02
    assert abs(float(torch.corrcoef(torch.stack([drawn[0, 1:], drawn[0, :-1]]))[0, 1])) < 0.02


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dropout_zeroes_its_part_and_keeps_the_mean(dtype: torch.dtype) -> None:
    layer, images = Dropout(0.75, 0), torch.ones(4, 20_000, dtype=dtype)
    with keyed(KEYS):
        found = layer(images)
    assert set(found.flatten().tolist()) == {0.0, 4.0} and found.dtype == dtype
    assert float(found.double().mean()) == pytest.approx(1, abs=0.03)
    assert torch.equal(layer.eval()(images), images)


def test_negative_values_are_divided_by_10_to_30_and_in_evaluation_by_20() -> None:
    layer, images = RandomisedReLU(0, (10.0, 30.0)), torch.full((4, 20_000), -60.0, dtype=torch.float64)
    images[:, ::2] = 60
    with keyed(KEYS):
        found = layer(images)
    assert (found[:, ::2] == 60).all()
    divisors = -60 / found[:, 1::2]
    assert divisors.min() >= 10 and divisors.max() <= 30 and float(divisors.mean()) == pytest.approx(20, abs=0.2)
    assert torch.equal(layer.eval()(images)[:, 1], torch.full((4,), -3.0, dtype=torch.float64))


def test_a_network_that_draws_wants_keys() -> None:
    with pytest.raises(AssertionError, match="batches with keys"):
        Dropout(0.5, 0)(torch.ones(2, 3))
