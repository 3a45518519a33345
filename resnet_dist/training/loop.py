"""One training run, from configuration to result record. The same function runs on one worker or on many.

configuration → network, data, solver → for each step: batch → loss → gradients → update
              → each epoch: test error → summaries, metrics line → result record; checkpoints by time
"""

import logging
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.data.dataset import Dataset
from resnet_dist.data.sharded import ShardedDataset
from resnet_dist.errors import DivergedError
from resnet_dist.networks.construction import parameter_count
from resnet_dist.records import checkpoints, trial_record
from resnet_dist.records.initial_state import InitialState
from resnet_dist.records.model_file import encode_model
from resnet_dist.records.recorder import Recorder
from resnet_dist.training.checkpoint_times import CheckpointTimes
from resnet_dist.training.energy import energy_meter
from resnet_dist.training.memory import kept_memory
from resnet_dist.training.numerics import own_stream, settings_of_run
from resnet_dist.training.observations import observe
from resnet_dist.training.state import Training
from resnet_dist.workers import Workers

LOGGER = logging.getLogger(__name__)

OnStep = Callable[[int, Tensor], None]
"""Called after each update with the number of updates so far and this worker's part of the loss, as `update` returns
it: on the device, for which reading it waits."""
OnEpoch = Callable[[dict[str, Any]], None]
"""Called after each epoch, on every worker, with the epoch's metrics line."""


def train(
    config: TrainingConfig,
    dataset: Dataset | ShardedDataset,
    workers: Workers,
    recorder: Recorder | None,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
    initial: InitialState | None = None,
) -> dict[str, Any]:
    """Train to the end, from the newest checkpoint if there is one. Returns the result record, on every worker.

    `initial` is what the run begins from, where it draws no weights. `recorder` is given on the first worker alone. A
    finished trial is not trained again.
    """
    exact = config.run.exact
    with kept_memory(dataset), settings_of_run(exact), own_stream(workers.device, exact):
        return _train(config, dataset, workers, recorder, on_epoch, on_step, initial)


def _train(
    config: TrainingConfig,
    dataset: Dataset | ShardedDataset,
    workers: Workers,
    recorder: Recorder | None,
    on_epoch: OnEpoch | None,
    on_step: OnStep | None,
    initial: InitialState | None,
) -> dict[str, Any]:
    result = workers.broadcast(recorder.result() if recorder else None)
    if result is not None:
        return dict(result)
    training = Training(config, dataset, workers, initial)
    data = workers.broadcast(recorder.start(workers, dataset.fingerprint) if recorder else None)
    if data is not None:
        training.load(checkpoints.decode(data))

    run, plan, meter = config.run, training.plan, energy_meter(workers)
    times = CheckpointTimes(run, workers, training.step, training.total_steps)
    while training.step < training.total_steps:
        epoch = training.epoch
        training.start_epoch()
        if meter:
            meter.start()
        started, first = time.perf_counter(), training.step
        while training.step < plan.first_step(epoch + 1):
            loss = training.update()
            if on_step:
                on_step(training.step, loss)
            if training.step < plan.first_step(epoch + 1) and times.due(training.step):
                _checkpoint(training, recorder)
        losses = training.epoch_losses()  # waits for the device, so the time is right
        elapsed = time.perf_counter() - started
        joules = meter.joules() if meter else None
        # After a resume inside an epoch, time and energy of the whole one are estimated from the part that was run.
        whole = (plan.first_step(epoch + 1) - plan.first_step(epoch)) / (training.step - first)
        last = epoch + 1 == run.epochs
        evaluate = last or (epoch + 1) % run.evaluation_epochs == 0
        line = training.epoch_line(losses, elapsed * whole, joules if joules is None else joules * whole, evaluate)
        if recorder:
            rates = [training.rate_at(step) for step in _steps(training, epoch)]
            recorder.epoch(line, losses, rates, observe(training, epoch))
        if times.due(training.step, ended=epoch + 1):
            _checkpoint(training, recorder)
        if on_epoch:
            on_epoch(line)
    return _finish(training, recorder)


def _steps(training: Training, epoch: int) -> range:
    return range(training.plan.first_step(epoch), training.plan.first_step(epoch + 1))


def _checkpoint(training: Training, recorder: Recorder | None) -> None:
    state = training.state()  # a collective: every worker takes part
    if recorder:
        recorder.checkpoint(training.step, checkpoints.encode(state))


def _finish(training: Training, recorder: Recorder | None) -> dict[str, Any]:
    result = None
    wrong = training.wrong_images()
    reads = _reads(training)
    # The last line may be of an earlier version, which has recorded a run that diverged to its last checkpoint.
    if recorder and not trial_record.diverged(recorder.lines[max(recorder.lines)]):
        lines = [recorder.lines[epoch] for epoch in sorted(recorder.lines)]
        last = lines[-1]
        summary = {
            "epochs": training.config.run.epochs,
            "steps": training.step,
            **{name: last[name] for name in ("top1_error", "top5_error", "test_loss", "train_loss")},
            **({"validation_error": last["validation_error"]} if "validation_error" in last else {}),
            "seconds": round(math.fsum(line["seconds"] for line in lines), 3),
            "images_per_second": round(sum(line["images_per_second"] for line in lines) / len(lines), 1),
            "workers": training.workers.size,
            "device": training.workers.device.type,
            "parameters": parameter_count(training.network),
            "test_images": len(wrong),
            "wrong_images": trial_record.encode_mask(wrong.numpy()),
            **_energy(lines),
            **reads,
        }
        weights = encode_model(training.evaluated, training.config, training.dataset)
        result = recorder.finish(weights, summary)
    result = training.workers.broadcast(result)
    if result is None:
        raise DivergedError(trial_record.DIVERGED)
    return dict(result)


def _reads(training: Training) -> dict[str, int]:
    """What all workers have asked of the storage in which shards lie; a collective. Nothing of images in memory."""
    if not isinstance(training.dataset, ShardedDataset):
        return {}
    here = training.dataset.reads()
    counts = training.workers.sum(torch.tensor(list(here.values()), device=training.workers.device)).tolist()
    reads = dict(zip(here, counts, strict=True))
    if reads["data_retries"] and training.workers.is_first:
        LOGGER.warning("%d of %d requests for shards were made again", reads["data_retries"], reads["data_requests"])
    return reads


def _energy(lines: list[dict[str, Any]]) -> dict[str, float]:
    """Joules of a run, if each of its epochs knows its own: they may be of several attempts on several machines."""
    if not all("energy_joules" in line for line in lines):
        return {}
    return {"energy_joules": round(math.fsum(line["energy_joules"] for line in lines), 3)}
