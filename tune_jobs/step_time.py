"""How long one update of the weights takes here, measured on a few updates and remembered."""

import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from resnet_dist.configuration import DataConfig, TrainingConfig

UPDATES = 3
"""Updates that are timed, after one that is not; their median counts."""


def step_seconds(config: TrainingConfig) -> float:
    """Seconds of one update on one worker with one CPU thread, as a grid's workers have, or on one GPU.

    Remembered in the cache directory for each kind of network, batch, precision and processor.
    """
    from resnet_dist.dataset import cache_directory
    from resnet_dist.provenance import describe
    from resnet_dist.workers import alone

    workers = alone(config.run.device)
    key = json.dumps([_cost(config), describe(workers, "")["device"]])
    file = cache_directory() / "step-times.json"
    known = _read(file)
    if key not in known:
        known[key] = _measure(config)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(known, indent=1))
    return known[key]


def _cost(config: TrainingConfig) -> list[Any]:
    network, data = config.network, config.data
    return [
        network.depth,
        network.width,
        network.family,
        network.shortcut,
        data.batch_size,
        data.accumulation,
        config.run.precision,
    ]


def _read(file: Path) -> dict[str, float]:
    try:
        return dict(json.loads(file.read_text()))
    except (OSError, ValueError):
        return {}


def _measure(config: TrainingConfig) -> float:
    import torch

    from resnet_dist.dataset import load_dataset
    from resnet_dist.training import Training
    from resnet_dist.workers import alone

    size = config.data.batch_size
    data = replace(config.data, source="synthetic", fingerprint="", train_limit=size, test_limit=10, holdout=0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        dataset = load_dataset(replace(DataConfig(), batch_size=size, train_limit=size, test_limit=10))
        training = Training(replace(config, data=data), dataset, alone(config.run.device))
        times = []
        for _ in range(1 + UPDATES):
            training.start_epoch()
            started = time.perf_counter()
            training.update().item()  # waits for the device
            times.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return statistics.median(times[1:])
