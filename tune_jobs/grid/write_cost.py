"""What a trial's records cost in storage: requests and bytes, foretold from its configuration.

Counted are the requests of a run that is not interrupted, and the content of what it writes; not Ray's own state, nor
what reading the results costs.
"""

import functools
import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from cluster.storage.s3 import MULTIPART_BYTES, PART_BYTES
from resnet_dist.configuration.batch_norm import BatchNormConfig
from resnet_dist.configuration.code import is_custom
from resnet_dist.configuration.network import NetworkConfig
from resnet_dist.configuration.solver import SolverConfig
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.data.batches import EpochPlan
from resnet_dist.networks.registry import make_network
from resnet_dist.records.checkpoints import KEEP
from resnet_dist.summaries.epochs import write_epoch
from resnet_dist.summaries.event_files import FILES
from tune_jobs.grid.plan import Plan, train_images

BYTES_PER_TENSOR = 300
"""What `torch.save` writes for a tensor beside its content: 284 to 307 measured, for 8 to 110 layers."""
RECORD_BYTES = 7_000
"""Provenance, twice, and the result; without the patch of uncommitted changes."""
FIRST_EVENTS, LAST_EVENTS = 66_000, 10_000
"""Bytes of events of the first epoch, beyond those of each: settings and training samples (46,000 to 86,000 measured,
by what the images are); of the last: the confusion matrix (5,000 to 16,000)."""
MODEL_DATA = 3 * 32 * 32 * 8 + 1_000
"""Beside the weights in `model.pt`: the mean of the training images in float64, and the classes."""
START_READS, START_WRITES, START_DELETES = 8, 2, 1
"""Before the first epoch: reads tell whether the trial has begun before; configuration and provenance are written."""
END_WRITES = 3
"""Final weights, provenance, result."""


@dataclass(frozen=True)
class WriteCost:
    """Of one trial, or the sum over several."""

    epoch_requests: float = 0.0
    """On average, from the first epoch's to the last one's."""
    epoch_bytes: float = 0.0
    requests: int = 0
    """Of the whole, beginning and end included."""
    sent: int = 0
    """Bytes, of the whole."""
    kept: int = 0
    """Bytes in storage when the trial is finished."""


def write_cost(config: TrainingConfig, images: int, classes: int, is_remote: bool) -> WriteCost:
    """The cost of a trial on `images` training images. Remote storage takes large objects in parts."""
    return _write_cost(replace(config, run=replace(config.run, seed=0)), images, classes, is_remote)


@functools.cache
def _write_cost(config: TrainingConfig, images: int, classes: int, is_remote: bool) -> WriteCost:
    run = config.run
    plan = EpochPlan(images, config.data.batch_size, config.data.sampling)
    ends = {plan.start(epoch) for epoch in range(1, run.epochs + 1)}
    checkpoints = {plan.start(epoch) for epoch in range(run.checkpoint_epochs, run.epochs + 1, run.checkpoint_epochs)}
    checkpoints.add(plan.start(run.epochs))
    if run.checkpoint_steps:
        checkpoints |= set(range(run.checkpoint_steps, plan.start(run.epochs), run.checkpoint_steps)) - ends
    steps = plan.start(run.epochs) // run.epochs

    network, tensors = network_size(config.network, config.batch_norm, classes, run.precision)
    full, single = solver_tensors(config.solver)
    parameters, parameter_tensors = parameter_size(config.network, config.batch_norm, classes, run.precision)
    state = network + full * parameters + 4 * single * parameter_tensors + 8 * steps
    state += BYTES_PER_TENSOR * (tensors + (full + single) * parameter_tensors)
    model = network + BYTES_PER_TENSOR * tensors + MODEL_DATA
    manifest = len(json.dumps({"identity": config.identity()}, indent=1)) + 130
    settings = len(json.dumps({"config": config.to_dict()}, indent=1)) + 100
    line, events = _epoch_records(steps, run.summary_steps, bool(config.data.holdout))
    width = -(-run.epochs // FILES)

    epochs_sent = run.epochs * (line * (run.epochs + 1) / 2 + events * (width + 1) / 2)
    epochs_sent += FIRST_EVENTS * width + LAST_EVENTS  # a file is sent again for each epoch that is added to it
    epochs_sent += len(checkpoints) * (state + manifest)
    in_epochs = 2 * run.epochs + len(checkpoints) * (_requests(state, is_remote) + 1)
    in_epochs += 2 * max(0, len(checkpoints) - KEEP)
    around = START_READS + START_WRITES + START_DELETES + END_WRITES - 1 + _requests(model, is_remote)
    around += 2 * min(len(checkpoints), KEEP)
    return WriteCost(
        epoch_requests=in_epochs / run.epochs,
        epoch_bytes=epochs_sent / run.epochs,
        requests=in_epochs + around,
        sent=round(epochs_sent + model + settings + RECORD_BYTES),
        kept=round(run.epochs * (line + events) + FIRST_EVENTS + LAST_EVENTS + model + settings + RECORD_BYTES * 0.6),
    )


def _requests(size: int, is_remote: bool) -> int:
    """Requests that write an object: one, or one for each part and two around them."""
    return 1 if size < MULTIPART_BYTES or not is_remote else 2 + -(-size // PART_BYTES)


@functools.cache
def _network(network: NetworkConfig, batch_norm: BatchNormConfig, classes: int) -> nn.Module:
    # Shapes without content; code of the user's own may need content to make them.
    with torch.device("cpu" if network.block or is_custom(network.family) else "meta"):
        return make_network(network, batch_norm, classes)


@functools.cache
def network_size(network: NetworkConfig, batch_norm: BatchNormConfig, classes: int, precision: str) -> tuple[int, int]:
    """Bytes and number of the tensors of a network's state."""
    values = _network(network, batch_norm, classes).state_dict().values()
    return sum(value.numel() for value in values) * _item(precision), len(values)


@functools.cache
def parameter_size(
    network: NetworkConfig, batch_norm: BatchNormConfig, classes: int, precision: str
) -> tuple[int, int]:
    """Bytes and number of a network's trained tensors."""
    parameters = list(_network(network, batch_norm, classes).parameters())
    return sum(parameter.numel() for parameter in parameters) * _item(precision), len(parameters)


SOLVER_TENSORS = {
    "sgd": (1, 0),
    "rmsprop": (1, 1),
    "adagrad": (1, 1),
    "adadelta": (2, 1),
    "adam": (2, 1),
    "adamw": (2, 1),
}
"""Tensors that a solver keeps for each trained tensor: of the same size, and of a single number. One of the
user's own is taken to keep as much as any."""


def solver_tensors(config: SolverConfig) -> tuple[int, int]:
    """As `SOLVER_TENSORS`; without momentum, SGD keeps none. (Making a solver would take seconds of imports.)"""
    return (0, 0) if config.kind == "sgd" and not config.momentum else SOLVER_TENSORS.get(config.kind, (2, 1))


def _item(precision: str) -> int:
    return 8 if precision == "float64" else 4


class _Measured:
    """Takes the place of a trial's event files."""

    size = 0

    def write(self, epoch: int, segment: bytes) -> None:
        self.size = len(segment)


@functools.cache
def _epoch_records(steps: int, every: int, holdout: bool) -> tuple[int, int]:
    """Bytes of an epoch's metrics line, and of its events."""
    third = 1 / 3  # as many digits as a number has
    line: dict[str, Any] = {"epoch": 100, "step": 100 * steps, "learning_rate": 0.01, "train_loss": third}
    line |= {"test_loss": third, "top1_error": 0.1234, "top5_error": 0.0123}
    line |= {"validation_error": 0.1234} if holdout else {}
    line |= {"seconds": 123.456, "images_per_second": 1234.5}
    measured = _Measured()
    write_epoch(measured, line, [third] * steps, [0.1] * steps, every)  # type: ignore[arg-type]
    return len(json.dumps(line)) + 1, measured.size


CLASSES = 10
"""For which the cost is told; with others, most networks differ by less than a per cent."""


def planned_costs(planned: Plan, is_remote: bool) -> dict[str, WriteCost]:
    """By id, the cost of each trial that is not finished, from its beginning to its end."""
    waiting = [item.trial for item in planned.trials if item.state != "finished"]
    return {
        trial.trial_id: write_cost(trial.config, train_images(trial.config), CLASSES, is_remote) for trial in waiting
    }


def total(costs: Collection[WriteCost]) -> WriteCost:
    """The sum over trials; of the figures for an epoch, the mean."""
    count = max(1, len(costs))
    return WriteCost(
        sum(cost.epoch_requests for cost in costs) / count,
        sum(cost.epoch_bytes for cost in costs) / count,
        sum(cost.requests for cost in costs),
        sum(cost.sent for cost in costs),
        sum(cost.kept for cost in costs),
    )


def in_words(cost: WriteCost, trials: int) -> str:
    """One line for `grid plan`."""
    plural = "" if trials == 1 else "s"
    return (
        f"Storage: {cost.epoch_requests:.1f} requests and {_amount(cost.epoch_bytes)} an epoch and trial; "
        f"{trials:,} trial{plural} from beginning to end: {cost.requests:,} requests, {_amount(cost.sent)} sent, "
        f"{_amount(cost.kept)} kept"
    )


def _amount(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
