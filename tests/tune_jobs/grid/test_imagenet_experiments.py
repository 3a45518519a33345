"""The experiments on ImageNet: the paper's numbers, the conditions they were had under, and that every row trains."""

from typing import Any

import pytest
import torch

from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.training.state import Training
from resnet_dist.workers import alone
from tests.small_runs import small_dataset
from tune_jobs.grid.experiment import load_experiment, trials

# Top-1 errors: He et al. 2015, tables 2 and 3 (ten crops); of CaffeNet, of the page that the document names.
PAPERS: dict[str, list[float | None]] = {
    "imagenet-depth": [0.2794, 0.2854, 0.2788, 0.2503, 0.2788, 0.2503, 0.2285, 0.2175, 0.2143],
    "imagenet-shortcut": [0.2503, 0.2452, 0.2419],
    "imagenet-blocks": [0.2503, None, None, None, None],
    "caffenet-batchnorm": [1 - 0.471, 1 - 0.478, 1 - 0.493],
    "caffenet-activation": [
        *(1 - 0.471, None, 1 - 0.469, 1 - 0.485, 1 - 0.488, 1 - 0.470, 1 - 0.486),
        *(1 - 0.401, 1 - 0.423, 1 - 0.417, None, 1 - 0.517, 1 - 0.389),
    ],
}


def cells(name: str) -> list[Any]:
    return [cell for table in load_experiment(name).tables for cell in table.cells]


@pytest.mark.parametrize("name", PAPERS)
def test_rows_have_the_papers_numbers_and_its_recipe(name: str) -> None:
    found = cells(name)
    assert [cell.paper for cell in found] == pytest.approx(PAPERS[name])
    assert {cell.reference for cell in found} == {None}  # the document has words alone
    for cell in found:
        caffenet = name.startswith("caffenet")
        assert (cell.config.data.batch_size, cell.config.data.size) == (256, 128 if caffenet else 224)
        assert cell.config.solver.weight_decay == (5e-4 if caffenet else 1e-4)
        bottlenecks = cell.config.network.depth >= 50
        assert caffenet or name == "imagenet-shortcut" or (cell.config.network.shortcut == "B") == bottlenecks
    for table in load_experiment(name).tables:
        assert dict(table.reference_settings)["data.source"] == "imagenet:ILSVRC2012"


def test_a_row_that_stands_in_two_tables_is_one_trial() -> None:
    assert len(trials(load_experiment("imagenet-depth"), 1)) == 7


def reduced(config: TrainingConfig) -> TrainingConfig:
    """The same row on few and small images, with few channels."""
    caffenet = config.network.family == "caffenet"
    size = 224 if config.network.stem_and_head == "script" else 67 if caffenet else 32
    few: dict[str, Any] = {
        "network.width": 6 if caffenet else 2,
        "data.size": size,
        "data.batch_size": 4,
        "run.epochs": 1,
    }
    few |= {
        "solver.learning_rate": 1e-4,
        "batch_norm.momentum": 1,
    }  # or 152 layers evaluate to infinity after one update
    return config.override(few | ({"network.fully_connected": 8} if caffenet else {}))


@pytest.mark.parametrize("name", PAPERS)
def test_every_row_trains_at_reduced_size(name: str) -> None:
    losses = []
    for config in {cell.config: None for cell in cells(name)}:
        small = reduced(config)
        training = Training(small, small_dataset(train=8, test=4, size=small.data.size), alone("cpu"))
        before = [parameter.clone() for parameter in training.network.parameters()]
        training.start_epoch()
        losses.append(training.update().sum().item())
        assert any(not torch.equal(*pair) for pair in zip(before, training.network.parameters(), strict=True))
        assert training.test.evaluate(training.network, training.autocast()).finite
    assert all(0 < loss < 1000 for loss in losses) and len(set(losses)) == len(losses)
