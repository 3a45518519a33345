"""Law 1: worker count does not change the result."""

from typing import Any

import pytest
import torch

from resnet_dist.configuration import TrainingConfig
from resnet_dist.dataset import Dataset
from tests.small_runs import Trace, small_config, small_dataset, trace
from tests.worker_processes import run_workers

VARIANTS: dict[str, dict[str, Any]] = {
    "the paper's block": {},
    "no ReLU, batch norm after": {"network__relu_after_addition": False, "network__batch_norm_position": "after"},
    "projection, dynamic momentum": {"network__shortcut": "B", "batch_norm__momentum": "dynamic"},
    "uneven batches by permutation, some workers empty": {"data__sampling": "permutation", "data__batch_size": 19},
    "accumulation": {"data__accumulation": 3, "data__batch_size": 17},
}


def traces(config: TrainingConfig, dataset: Dataset, steps: int, size: int) -> list[Trace]:
    return run_workers(trace, size, config, dataset, steps)


@pytest.mark.integration
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_workers_train_like_one_in_float64(variant: str, size: int) -> None:
    # 96 images in batches of 19 leave a last batch of one image: a worker without any, whatever the size
    config, dataset = small_config(**VARIANTS[variant]), small_dataset()
    alone = trace(config, dataset, steps=50)
    together = traces(config, dataset, 50, size)
    assert together[0].losses == pytest.approx(alone.losses, rel=1e-9, abs=0)
    assert together[0].evaluation == pytest.approx(alone.evaluation, rel=1e-9, abs=0)
    for name, value in alone.state.items():
        torch.testing.assert_close(together[0].state[name], value, rtol=1e-7, atol=1e-9)


@pytest.mark.integration
def test_all_workers_of_a_run_hold_the_same_bits() -> None:
    first, *others = traces(small_config(run__precision="float32"), small_dataset(), 10, 3)
    for other in others:
        assert other.losses == first.losses
        for name, value in first.state.items():
            assert torch.equal(other.state[name], value), name
