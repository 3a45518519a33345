"""Laws 1 and 2 on configurations drawn at random: what each setting keeps alone, they keep together."""

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, note, reject, settings
from hypothesis import strategies as st

from cluster.storage.local import LocalStorage
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.data.dataset import Dataset
from resnet_dist.errors import ConfigurationError
from tests.killed_runs import Moment, Outcome, attempt, outcome
from tests.small_runs import small_dataset

EXAMPLES = int(os.environ.get("RESNET_DIST_TEST_EXAMPLES") or 3)

SEVERAL = settings(
    max_examples=EXAMPLES,
    database=None,
    phases=[Phase.generate],  # to look for a smaller configuration would take minutes
    suppress_health_check=list(HealthCheck),
)

of = st.sampled_from
FLAG = st.booleans()

# Depth, width, size of the images, and what else the family has.
FAMILIES: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "residual": {
        "network.depth": of([8, 14]),
        "network.width": of([1, 3]),
        "data.size": of([9, 32]),
        "network.relu_after_addition": FLAG,
        "network.batch_norm_position": of(["before", "after"]),
        "network.shortcut": of("ABC"),
        "network.initialisation": of(["published", "head"]),
        "network.zero_last_scale": FLAG,
    },
    "plain": {"network.depth": of([8]), "network.width": of([3]), "data.size": of([9, 32])},
    "preactivation": {"network.depth": of([8]), "network.width": of([2]), "data.size": of([32])},
    "imagenet-residual": {
        "network.depth": of([18, 50]),
        "network.width": of([1]),
        "data.size": of([40]),
        "network.bottleneck_stride": of(["1x1", "3x3"]),
        "network.shortcut": of("ABC"),
    },
    "caffenet": {
        "network.depth": of([8]),
        "network.width": of([6]),
        "data.size": of([64]),
        "network.fully_connected": of([3]),
        "network.dropout": of([0, 0.5]),
        "network.activation": of(["relu", "prelu", "rrelu", "maxout", "selu"]),
        "network.activation_batch_norm": of(["none", "before", "after"]),
        "network.local_response_norm": FLAG,
    },
}
COMMON: dict[str, st.SearchStrategy[Any]] = {
    "data.batch_size": of([2, 7, 16]),
    "data.accumulation": of([1, 2]),
    "data.sampling": of(["replacement", "permutation"]),
    "data.shift": of([0, 4]),
    "data.flip": FLAG,
    "data.colour": of([0, 0.4]),
    "data.cutout": of([0, 8]),
    "data.mixup": of([0, 0.3]),
    "batch_norm.momentum": of([0, 0.01, 0.1, 1, "dynamic"]),
    "solver.kind": of(["sgd", "rmsprop", "adagrad", "adadelta", "adam", "adamw"]),
    "solver.gradient_clip": of([0, 0.5]),
    "solver.average_decay": of([0, 0.9]),
    "solver.reference_batch": of([0, 128]),
    "solver.weight_decay": of([0, 1e-4]),
    "loss.label_smoothing": of([0, 0.1]),
    "schedule.kind": of(["step", "constant", "cosine"]),
    "schedule.milestones": of([[], [1]]),
    "schedule.warmup_iterations": of([0, 3]),
    "schedule.warmup_shape": of(["constant", "linear"]),
    "run.seed": st.integers(0, 2**63 - 1),
    "run.epochs": of([1, 2, 3]),
    "run.precision": of(["float64", "float32", "bfloat16"]),
    "run.virtual_shards": of([2, 4, 8]),
    "run.evaluation_epochs": of([1, 2]),
    "run.checkpoint_steps": of([0, 1, 2, 3]),
    "run.checkpoint_epochs": of([0, 1]),
    "run.checkpoints": of([1, 16]),
    "run.summary_steps": of([1, 3]),
    "run.histogram_epochs": of([0, 1]),
}


@st.composite
def configurations(draw: st.DrawFn, exact: bool) -> TrainingConfig:
    """A configuration of a run of a few steps."""
    family = draw(of(sorted(FAMILIES)))
    given_settings = draw(st.fixed_dictionaries(COMMON | FAMILIES[family]))
    try:
        return TrainingConfig().override({"network.family": family, "run.exact": exact} | given_settings)
    except ConfigurationError:  # settings that exclude each other
        reject()


MOMENTS = st.builds(
    Moment, of(["step", "evaluation", "half written", "before write", "after write"]), st.integers(1, 8)
)


def finished(config: TrainingConfig, dataset: Dataset, *attempts: tuple[int, Moment | None]) -> Outcome:
    """What is left after these attempts, each with its number of workers, killed at its moment."""
    with tempfile.TemporaryDirectory() as directory:
        for workers, moment in attempts:
            attempt(config, Path(directory), workers, moment, dataset)
        return outcome(LocalStorage(directory), config)


def dataset_of(config: TrainingConfig, classes: int) -> Dataset:
    # 20 images: the last batch of a permutation has 2, 6 or 4.
    return small_dataset(train=20, test=7, classes=classes, size=config.data.size)


@pytest.mark.integration
@SEVERAL
@given(configurations(exact=False), of([2, 10]), st.lists(MOMENTS, min_size=1, max_size=2))
def test_a_run_killed_at_any_moments_is_the_run_left_alone(
    config: TrainingConfig, classes: int, kills: list[Moment]
) -> None:
    note(str(config))
    dataset = dataset_of(config, classes)
    killed = finished(config, dataset, *((1, moment) for moment in kills), (1, None))
    assert killed.same_bits(finished(config, dataset, (1, None)))


@pytest.mark.integration
@SEVERAL
@given(configurations(exact=True), of([2, 10]), st.integers(2, 5), st.integers(1, 3))
def test_in_exact_mode_any_number_of_workers_killed_on_the_way_has_the_bits_of_one(
    config: TrainingConfig, classes: int, workers: int, step: int
) -> None:
    note(str(config))
    dataset = dataset_of(config, classes)
    workers = min(workers, config.run.virtual_shards)
    killed = finished(config, dataset, (workers, Moment("step", step)), (workers, None))
    assert killed.same_bits(finished(config, dataset, (1, None)))
