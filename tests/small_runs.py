"""Small data and configurations, and runs of them, for tests of the training path."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.data.dataset import Dataset
from resnet_dist.data.sharded import ShardedDataset
from resnet_dist.training.exact import tree_sum
from resnet_dist.training.numerics import own_stream, settings_of_run
from resnet_dist.training.state import Training
from resnet_dist.workers import Workers, alone, current


def small_dataset(train: int = 96, test: int = 20, classes: int = 10, size: int = 32) -> Dataset:
    """Random images whose class shows in their brightness; enough for the training path to have something to do."""
    random = np.random.Generator(np.random.PCG64(7))

    def images(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = np.arange(count) % classes
        pixels = random.integers(0, 200, (count, 3, size, size)) + 5 * labels[:, None, None, None]
        return torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels)

    train_images, train_labels = images(train)
    test_images, test_labels = images(test)
    pixels = train_images.double()
    return Dataset(
        source="synthetic",
        train_images=train_images,
        train_labels=train_labels,
        validation_images=train_images[:0],
        validation_labels=train_labels[:0],
        test_images=test_images,
        test_labels=test_labels,
        classes=tuple(f"class {i}" for i in range(classes)),
        fingerprint="small",
        mean=pixels.mean(0),
        std=float(pixels.std()),
    )


def small_config(**settings: Any) -> TrainingConfig:
    """An 8-layer network of width 2 in float64; settings as `section__field=value`."""
    base = {
        "network.depth": 8,
        "network.width": 2,
        "data.batch_size": 16,
        "run.precision": "float64",
        "run.epochs": 2,
        "schedule.milestones": [1],
    }
    return TrainingConfig().override(base | {name.replace("__", "."): value for name, value in settings.items()})


@dataclass(frozen=True)
class Trace:
    """What a run of a few steps computed."""

    losses: list[float]
    """Mean loss of each step's whole batch."""
    state: dict[str, torch.Tensor]
    """Weights and running statistics at the end, as they are evaluated."""
    evaluation: tuple[float, float, float]


def trace(config: TrainingConfig, dataset: Dataset | ShardedDataset, steps: int) -> Trace:
    """Train for some steps on the current process group's workers, or alone where there is none."""
    import torch.distributed as dist

    workers: Workers = current("cpu") if dist.is_initialized() else alone("cpu")
    return trace_of(config, dataset, steps, workers)


def trace_of(config: TrainingConfig, dataset: Dataset | ShardedDataset, steps: int, workers: Workers) -> Trace:
    """The same on workers that are given."""
    with settings_of_run(config.run.exact), own_stream(workers.device, config.run.exact):
        training = Training(config, dataset, workers)
        losses = []
        for _ in range(steps):
            training.start_epoch()
            losses.append(tree_sum(workers.sum(training.update().clone())).item())
        test = training.test.evaluate(training.evaluated, training.autocast())
    state = {name: value.to("cpu", copy=True) for name, value in training.evaluated.state_dict().items()}
    return Trace(losses, state, (test.loss, test.top1_error, test.top5_error))
