"""Training-loss curves of a handful of small configurations, on one CPU thread in float32.

This file imports nothing but the packages under test and their dependencies, and can be run as a script in a checkout
of another commit: it then prints the curves of that commit's code as JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any

STEPS = 20

BASE: dict[str, Any] = {
    "network.depth": 8,
    "network.width": 4,
    "data.batch_size": 16,
    "run.epochs": 10,
    "run.device": "cpu",
    # The images, batches and network are those of a real run; a tenth of its learning rate keeps the solver from
    # blowing rounding up, so that the curve can be held to a tight tolerance for long.
    "solver.learning_rate": 0.01,
    "schedule.milestones": [2],
    "schedule.gamma": 0.5,
}

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "batch-norm-before-relu": {},
    "batch-norm-before-no-relu": {"network.relu_after_addition": False},
    "batch-norm-after-relu": {"network.batch_norm_position": "after"},
    "batch-norm-after-no-relu": {"network.batch_norm_position": "after", "network.relu_after_addition": False},
    "plain": {"network.family": "plain"},
    # Width 8, for torch 2.14 corrupts memory in the backward pass of narrower strided 1x1 convolutions on CPUs.
    "shortcut-b-head": {"network.shortcut": "B", "network.initialisation": "head", "network.width": 8},
    "warm-up": {"schedule.warmup_iterations": 5},
    "rmsprop": {"solver.kind": "rmsprop", "solver.learning_rate": 0.0003},
    "adagrad": {"solver.kind": "adagrad", "solver.learning_rate": 0.001},
    "adadelta": {"solver.kind": "adadelta", "solver.learning_rate": 0.03},
    "dynamic-momentum": {"batch_norm.momentum": "dynamic", "data.sampling": "permutation"},
    "accumulation": {"data.accumulation": 3, "data.batch_size": 20},
}
"""What each curve's run sets beside `BASE`: four blocks, every solver, both samplings, what a step can do."""

TRAIN_IMAGES, TEST_IMAGES = 100, 50


def curve(settings: dict[str, Any], precision: str = "float32") -> dict[str, list[float]]:
    """The mean loss of each step's batch, and at each epoch's end the test loss with running statistics."""
    import torch

    from resnet_dist.configuration.training import TrainingConfig
    from resnet_dist.training.state import Training
    from resnet_dist.workers import alone

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # sums over several threads round otherwise
    try:
        config = TrainingConfig().override(BASE | settings | {"run.precision": precision})
        training = Training(config, _images(), alone("cpu"))
        train, test = [], []
        for _ in range(STEPS):
            epoch = training.epoch
            training.start_epoch()
            train.append(training.update().sum().item())
            if training.epoch != epoch:
                test.append(training.test.evaluate(training.network, training.autocast()).loss)
        return {"train_loss": train, "test_loss": test}
    finally:
        torch.set_num_threads(before)


def curves(precision: str = "float32") -> dict[str, dict[str, list[float]]]:
    """Every configuration's curve, by name."""
    return {name: curve(settings, precision) for name, settings in CONFIGURATIONS.items()}


def _images() -> Any:
    """The first images of the built-in data set."""
    import torch

    from resnet_dist.data.dataset import Dataset
    from resnet_dist.data.synthetic import CLASSES, draw_images

    images = torch.from_numpy(draw_images(0, TRAIN_IMAGES + TEST_IMAGES))
    labels = torch.arange(len(images)) % len(CLASSES)
    pixels = images[:TRAIN_IMAGES].double()
    return Dataset(
        source="synthetic",
        train_images=images[:TRAIN_IMAGES],
        train_labels=labels[:TRAIN_IMAGES],
        validation_images=images[:0],
        validation_labels=labels[:0],
        test_images=images[TRAIN_IMAGES:],
        test_labels=labels[TRAIN_IMAGES:],
        classes=CLASSES,
        fingerprint="first",
        mean=pixels.mean(0),
        std=float(pixels.std(correction=0)),
    )


if __name__ == "__main__":
    import resnet_dist

    used = Path(resnet_dist.__file__).parent.parent
    if used != Path.cwd():
        sys.exit(f"error: the code that was imported is that of {used}, not of {Path.cwd()}")
    print(json.dumps(curves()))
