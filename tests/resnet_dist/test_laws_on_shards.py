"""Laws 1 and 2 where images come from shards: any number of workers, and a run killed inside an epoch."""

import functools
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.storage.local import LocalStorage
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.data.dataset import dataset_fingerprint, open_dataset
from tests.imagenet_layout import small_shards
from tests.killed_runs import Moment, Outcome, attempt, outcome
from tests.small_runs import Trace, small_config, trace
from tests.worker_processes import run_workers

pytestmark = pytest.mark.integration

STEPS = 6


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shards(tmp_path_factory.mktemp("shards"))


NETWORKS: dict[str, dict[str, Any]] = {
    "residual": {"network__family": "imagenet-residual", "network__depth": 18, "data__size": 40},
    # What it draws is a function of seed, step and sample, too.
    "CaffeNet with dropout and random slopes": {
        "network__family": "caffenet",
        "network__width": 6,
        "network__fully_connected": 8,
        "network__dropout": 0.5,
        "network__activation": "rrelu",
        "network__activation_batch_norm": "before",
        "data__size": 67,
        "data__mixup": 0.4,
    },
}


def config_of(shards: Path, exact: bool, network: str, augmentation: str = "paper") -> TrainingConfig:
    return small_config(
        **NETWORKS[network],
        data__source=f"shards:{shards}",
        data__batch_size=7,
        data__sampling="permutation",
        data__shuffle_block=3,
        data__augmentation=augmentation,
        data__test_crops="ten",
        run__exact=exact,
        run__virtual_shards=4,
        run__checkpoint_steps=2,
        solver__learning_rate=0.01,
    )


def traces(shards: Path) -> dict[tuple[bool, str], Trace]:
    cases = {(exact, name): config_of(shards, exact, name) for exact in (False, True) for name in NETWORKS}
    found = {case: trace(config, open_dataset(config.data), STEPS) for case, config in cases.items()}
    assert "torchvision" not in sys.modules, "of it only the decoder is loaded: the whole takes seconds"
    return found


@functools.cache
def of_workers(size: int, shards: Path) -> list[dict[tuple[bool, str], Trace]]:
    return run_workers(traces, size, shards)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("workers", [2, 3])
def test_workers_train_like_one_in_float64(workers: int, network: str, shards: Path) -> None:
    one, first = of_workers(1, shards)[0][False, network], of_workers(workers, shards)[0][False, network]
    assert len(set(one.losses)) == STEPS
    assert first.losses == pytest.approx(one.losses, rel=1e-9, abs=0)
    assert first.evaluation == pytest.approx(one.evaluation, rel=1e-9, abs=0)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("workers", [2, 3])
def test_workers_have_the_bits_of_one_in_exact_mode(workers: int, network: str, shards: Path) -> None:
    one, several = of_workers(1, shards)[0][True, network], of_workers(workers, shards)[0][True, network]
    assert several.losses == one.losses and several.evaluation == one.evaluation
    assert all(torch.equal(several.state[name], value) for name, value in one.state.items())


@pytest.mark.parametrize("network", NETWORKS)
def test_a_run_killed_inside_an_epoch_goes_on_bit_for_bit(network: str, shards: Path) -> None:
    config = config_of(shards, exact=False, network=network, augmentation="today")
    config = config.with_fingerprint(dataset_fingerprint(config.data))
    outcomes: list[Outcome] = []
    for kills in ([], [Moment("step", 3, 1), Moment("evaluation", 1, 0)]):
        with tempfile.TemporaryDirectory() as directory:
            for moment in kills:
                assert not attempt(config, Path(directory), 2, moment)
            # From step 2 on six are left: only a run that begins anew has a seventh.
            assert attempt(config, Path(directory), 2, Moment("step", 7) if kills else None)
            outcomes.append(outcome(LocalStorage(directory), config))
    assert outcomes[0].same_bits(outcomes[1])
