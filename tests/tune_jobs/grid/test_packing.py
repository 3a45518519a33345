"""How many trials share a GPU."""

from pathlib import Path
from typing import Any

import pytest

from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import UserError
from resnet_dist.networks.construction import make_network, parameter_count
from tests.small_runs import small_dataset
from tune_jobs.actions.grid import plan_grid, run_grid
from tune_jobs.grid.calibration import _activations
from tune_jobs.grid.data_sizes import image_memory
from tune_jobs.grid.packing import CONTEXT_MEMORY, RUN_MEMORY, Packing, choose, gain_of, run_memory

H100 = 80 * 10**9


def of(**settings: Any) -> TrainingConfig:
    base = {"run.precision": "bfloat16", "data.source": "cifar10"}
    return TrainingConfig().override(base | {name.replace("__", "."): value for name, value in settings.items()})


def runs(count: int, **settings: Any) -> list[TrainingConfig]:
    return [of(run__seed=seed, **settings) for seed in range(count)]


@pytest.mark.parametrize(
    ("trials", "gpus", "count"),
    [
        (64, 1, 8),  # the most that was measured
        (5, 1, 5),
        (8, 4, 2),  # else GPUs would wait for the others
        (9, 4, 3),
        (8, 8, 1),
        (1, 1, 1),
    ],
)
def test_as_many_as_were_measured_and_leave_no_gpu_without_work(trials: int, gpus: int, count: int) -> None:
    assert choose(runs(trials), gpus, H100).count == count


def test_what_a_number_gains_is_what_was_measured_or_on_the_line_between() -> None:
    gains = [gain_of(count) for count in (1, 2, 3, 4, 6, 8, 20)]
    assert gains == pytest.approx([1, 1.46, (1.46 + 1.87) / 2, 1.87, (1.87 + 2.12) / 2, 2.12, 2.12])


def test_those_that_a_gpus_memory_holds() -> None:
    deep = runs(64, network__depth=110)
    each = run_memory(deep[0])
    for held in (1, 2, 3, 7, 8, 100):
        memory = int((CONTEXT_MEMORY + held * each + 1) / 0.9)
        assert choose(deep, 1, memory).count == min(held, 8)
    assert choose(deep, 1, 0).count == 8, "nothing is known of it"
    two = int((CONTEXT_MEMORY + 2 * each + 1) / 0.9)
    assert choose([*runs(60), *deep[:1]], 1, two).count == 2, "the largest counts"


def test_a_batch_in_parts_takes_what_one_part_takes() -> None:
    assert run_memory(of(data__batch_size=1024, data__accumulation=8)) == run_memory(of(data__batch_size=128))


@pytest.mark.parametrize(
    "settings",
    [
        {"run__workers": 2},
        {"run__exact": True},
        {"run__cuda_graph": False},
        {"run__device": "cpu"},
        {"solver__kind": "mine:Solver", "solver__learning_rate": 0.1},
        {"data__source": "mine:images"},
        {"run__precision": "float16"},
    ],
)
def test_what_is_not_captured_or_changes_its_process_has_a_gpu_to_itself(settings: dict[str, Any]) -> None:
    assert choose(runs(8, **settings), 1, H100).count == 1
    assert Packing(8, 2.12, is_asked=True).of(of(**settings)) == 1
    assert Packing(8, 2.12, is_asked=True).slowed(of(**settings)) == 1


@pytest.mark.parametrize(
    "settings", [{"network__width": 64}, {"data__batch_size": 1024}, {"run__precision": "float64"}]
)
def test_what_was_not_measured_has_one_to_itself_unless_somebody_asks(settings: dict[str, Any]) -> None:
    assert choose(runs(8, **settings), 1, H100).count == 1
    chosen = choose([*runs(8, **settings), *runs(8)], 1, H100)
    assert chosen.of(of()) == 8 and chosen.of(of(**settings)) == 1
    asked = choose(runs(8, **settings), 1, H100, asked=3)
    assert asked.of(of(**settings)) == 3 and asked.slowed(of(**settings)) == pytest.approx(3 / gain_of(3))
    assert choose(runs(8), 1, H100, asked=1).of(of()) == 1


@pytest.mark.parametrize("asked", [0, 33])
def test_more_than_there_are_streams_are_refused_in_a_line(asked: int, tmp_path: Path) -> None:
    says = f"^side_by_side: {asked} is not allowed; it must be from 1 to 32$"
    with pytest.raises(UserError, match=says):
        plan_grid("demo", tmp_path, side_by_side=asked, measure=False)
    with pytest.raises(UserError, match=says):
        run_grid("demo", tmp_path / "results", side_by_side=asked, say=print)
    assert not list(tmp_path.rglob("experiment.json"))


def test_a_choice_says_why() -> None:
    assert choose(runs(8), 1, H100).why == (
        "2.12 × the trials an hour, measured on an H100, 20 layers in bfloat16; each takes up to 0.7 GiB of its 75"
    )
    assert choose(runs(8), 8, H100).why == "there are no more trials than GPUs"
    assert choose(runs(8), 1, 2**30).why == "each takes up to 0.7 GiB of its 1"
    assert choose([], 1, H100).why == "only captured updates of the study's networks are known to gain beside others"


@pytest.mark.parametrize(
    "settings", [{}, {"network__depth": 14, "network__shortcut": "B"}, {"network__family": "preactivation"}]
)
def test_a_run_keeps_no_more_than_is_reckoned(settings: dict[str, Any]) -> None:
    from resnet_dist.training.state import Training
    from resnet_dist.workers import alone

    config = of(network__depth=8, run__precision="float32", data__batch_size=32, data__source="synthetic").override(
        {name.replace("__", "."): value for name, value in settings.items()}
    )
    kept = _activations(Training(config, small_dataset(train=64), alone("cpu")))
    weights = 4 * 4 * parameter_count(make_network(config.network, config.batch_norm, classes=10))
    reckoned = run_memory(config) - image_memory(config) - RUN_MEMORY
    assert 0.3 * reckoned < kept + weights <= reckoned
