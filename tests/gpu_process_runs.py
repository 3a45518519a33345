"""Runs of a GPU's process side by side, without Ray, beside the same runs alone."""

import asyncio
import contextlib
import functools
import json
import os
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.storage.local import LocalStorage
from resnet_dist import launch
from resnet_dist.launch import Job
from resnet_dist.side_by_side import GpuProcess
from resnet_dist.workers import Workers
from tests.small_runs import small_config, small_dataset

GPU = torch.device("cuda", 0)

NEIGHBOURS: dict[str, dict[str, Any]] = {
    "one": {},
    "another seed": {"run__seed": 1},
    "RMSprop": {"solver__kind": "rmsprop", "solver__learning_rate": 1e-3},
    "deeper": {"network__depth": 14},
    "dynamic momentum, a permutation": {"batch_norm__momentum": "dynamic", "data__sampling": "permutation"},
    "bfloat16": {"run__precision": "bfloat16"},
}


@contextlib.contextmanager
def gpu_process() -> Iterator[GpuProcess]:
    """The process of a GPU, which is this one, and small images in it."""
    dataset = small_dataset(train=42)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "_dataset", lambda content: dataset)
        patch.setattr("resnet_dist.data.staged.is_at_hand", lambda data: True)
        patch.setattr("resnet_dist.gpus.device_of", lambda gpu: GPU)
        process = GpuProcess(launch._train_beside, 1, os.environ.get("CUDA_VISIBLE_DEVICES"))
        try:
            yield process
        finally:
            process._settings.close()


def job(into: Path, open_storage: Any = None, **settings: Any) -> Job:
    config = small_config(**{"run__epochs": 2, "schedule__milestones": []} | settings)
    return Job(config, "e", "name", open_storage or functools.partial(LocalStorage, into), side_by_side=6)


def alone(into: Path, **settings: Any) -> None:
    launch._train_recorded(job(into, **settings), Workers(0, 1, GPU))


async def heard(process: GpuProcess, work: Job, on_line: Callable[[Any], None] = lambda line: None) -> Any:
    """Train one run, and return what it failed with."""
    name = work.keys.trial_id
    await process.begin(name, ("0", work), os.getpid())
    while True:
        kind, what = await process.hear(name)
        if kind == "answer":
            return what
        on_line(what)


def together(*runs: Coroutine[Any, Any, Any]) -> list[Any]:
    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*runs)

    return asyncio.run(all_of_them())


def numbers(storage: Path, **settings: Any) -> Any:
    """All of a finished run but its times."""
    folder = storage / job(storage, **settings).keys.prefix
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    weights = torch.load(folder / "model.pt", map_location="cpu", weights_only=True)["network"]
    assert (folder / "result.json").exists()
    return (
        [{key: value for key, value in line.items() if "second" not in key} for line in lines],
        {name: tensor.numpy().tobytes() for name, tensor in weights.items()},
    )


def assert_bits_of_each_alone(process: GpuProcess, directory: Path) -> None:
    """Train unlike runs at a time, and then each by itself."""
    answers = together(*(heard(process, job(directory / "beside", **each)) for each in NEIGHBOURS.values()))
    assert answers == [None] * len(NEIGHBOURS)
    for name, settings in NEIGHBOURS.items():
        alone(directory / "alone", **settings)
        assert numbers(directory / "beside", **settings) == numbers(directory / "alone", **settings), name
