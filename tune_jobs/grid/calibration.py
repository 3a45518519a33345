"""What training costs on this cluster: time and memory of one update, measured on a few and remembered on disk.

Remembered for each kind of network, batch and precision, kind of machine and version of torch, so that a second plan
measures nothing. Measured where trials would run: on a node of the cluster that RAY_ADDRESS names, or in this process.
"""

import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from resnet_dist.cache_directory import cache_directory
from resnet_dist.configuration.data import DataConfig
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import UserError

if TYPE_CHECKING:
    from cluster.ray_cluster.connection import Resources

T = TypeVar("T")

UPDATES = {"cpu": 3, "cuda": 20}
"""Updates that are timed, by device; their median counts."""
UNTIMED = {"cpu": 0, "cuda": 5}
"""Updates before them: on a GPU the first ones are eager, and the next is captured."""

DECODED = 64
"""Images in shards that are decoded to know what one takes."""

EVALUATION_COST = 1 / 3
"""Cost of evaluating an image beside that of training on it: a forward pass without a backward one."""

FILE = "calibration.json"

VERSION = 2
"""Of what is measured, and how. Raise it when that changes, so that nobody plans by earlier numbers."""


@dataclass(frozen=True)
class Cost:
    """What one update of the weights takes on one worker, which holds the whole batch."""

    seconds: float
    activations: int
    """Bytes that the forward pass keeps for the backward pass."""
    weights: int
    """Bytes of the weights; the gradients take as much again, and the solver a multiple of it."""
    decoding: float = 0.0
    """Seconds that a core decodes and cuts one training image, of those in shards."""


@dataclass(frozen=True)
class Calibration:
    """The costs of configurations on one kind of machine, and how many one-worker trials the cluster runs at a time."""

    machine: str
    """Name of the processor or GPU."""
    slots: int
    measure: Callable[[TrainingConfig], Cost]
    evaluation_cost: float = EVALUATION_COST
    """Of an image, beside that of training on it."""
    gpu_memory: int | None = None
    """Bytes of each GPU; 0 if they are not known, None if there are no GPUs."""

    def __call__(self, config: TrainingConfig) -> Cost:
        """The cost of a configuration's updates: remembered, or else measured."""
        file = cache_directory() / FILE
        known, key = _read(file), json.dumps([VERSION, self.machine, version("torch"), *_what_costs(config)])
        if key not in known:
            known[key] = asdict(self.measure(config))
            with suppress(OSError):  # a plan of a cache that cannot be written measures again
                _write(file, known)
        return Cost(**known[key])


@contextmanager
def calibrating(device: str) -> Iterator[Calibration]:
    """A calibration for runs with this `run.device`, on the cluster that a grid would run on."""
    if os.environ.get("RAY_ADDRESS"):
        from cluster.ray_cluster.connection import connected

        with connected() as resources:
            from resnet_dist.custom_code import installed

            use_gpu = resources.uses_gpu(device)
            kind, memory = _there(resources, device, _assigned_kind)
            yield Calibration(
                kind,
                resources.workers(use_gpu),
                lambda config: _there(resources, config.run.device, _measure_assigned, config, dict(installed())),
                gpu_memory=memory if use_gpu else None,
            )
        return
    import torch

    from resnet_dist.gpus import gpu_memory

    gpu = torch.cuda.is_available() and device != "cpu"
    slots = torch.cuda.device_count() if gpu else os.cpu_count() or 1
    yield Calibration(machine_kind(device), slots, measure, gpu_memory=gpu_memory() if gpu else None)


def machine_kind(device: str) -> str:
    """Name of the processor or GPU that a run with this `run.device` computes on here."""
    from resnet_dist.records.provenance import machine
    from resnet_dist.workers import alone

    return machine(alone(device))["device"]


def measure(config: TrainingConfig) -> Cost:
    """Train for a few updates here, on as many CPU threads as a trial has, or on one GPU."""

    from resnet_dist.data.dataset import load_dataset
    from resnet_dist.training.memory import kept_memory
    from resnet_dist.training.numerics import own_stream, settings_of_run
    from resnet_dist.training.state import Training
    from resnet_dist.workers import alone, on_threads

    size = config.data.batch_size
    data = replace(config.data, test_crops="one", augmentation="shift", resize="none", split=0.0)
    data = replace(data, source="synthetic", fingerprint="", train_limit=size, test_limit=10, holdout=0)
    with on_threads(config.run.threads):
        dataset = load_dataset(data)
        workers = alone(config.run.device)
        # Exact mode keeps as much, in threads that the count does not see.
        activations = _activations(
            Training(replace(config, data=data, run=replace(config.run, exact=False)), dataset, workers)
        )
        exact, device = config.run.exact, workers.device
        with kept_memory(dataset), settings_of_run(exact), own_stream(device, exact):
            training = Training(replace(config, data=data), dataset, workers)
            times = []
            for _ in range(UNTIMED[device.type] + UPDATES[device.type]):
                training.start_epoch()
                started = time.perf_counter()
                training.update().sum().item()  # waits for the device
                times.append(time.perf_counter() - started)
        weights = sum(parameter.nbytes for parameter in training.network.parameters())
        return Cost(statistics.median(times[UNTIMED[device.type] :]), activations, weights, _decoding(config.data))


def _decoding(data: DataConfig) -> float:
    """Seconds of a core to make what is trained on of one image in shards, which have been read; 0 for others."""
    if not data.source.startswith("shards:"):
        return 0.0
    import cluster.storage.opening  # noqa: F401 - with which a node opens shards, too
    from resnet_dist.data import random_draws as draws
    from resnet_dist.data.crops import WORDS, training_crop
    from resnet_dist.data.random_draws import Stream
    from resnet_dist.data.shard_reader import ShardReader
    from resnet_dist.data.sharded import open_shards
    from resnet_dist.data.streamed_images import decoded
    from resnet_dist.workers import on_threads

    storage, index = open_shards(data)
    reader = ShardReader(storage, index, index.train, block=DECODED, held=1)
    times = []
    with on_threads(1):
        decoded(reader, 0)  # reads the block, and loads the decoder
        for image in range(min(DECODED, len(index.train))):
            words = draws.raw(0, Stream.CROP, image, WORDS)
            started = time.thread_time()
            training_crop(decoded(reader, image), data.size, data.augmentation, words)
            times.append(time.thread_time() - started)
    return statistics.mean(times)


def _there(resources: "Resources", device: str, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function on the connected cluster, on what a trial with this `run.device` trains on."""
    import ray

    use_gpu = resources.uses_gpu(device)
    resources.require_workers(1, use_gpu)  # else Ray would wait for it
    called: Any = ray.remote(num_cpus=1, num_gpus=int(use_gpu))(function)
    try:
        answer: T = ray.get(called.remote(*arguments))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from error
        raise
    return answer


def _assigned_kind() -> tuple[str, int]:
    from resnet_dist.gpus import assigned_device, gpu_memory

    return machine_kind(assigned_device().type), gpu_memory()


def _measure_assigned(config: TrainingConfig, code: dict[str, str]) -> Cost:
    from resnet_dist.custom_code import install
    from resnet_dist.gpus import assigned_device

    install(code)
    return measure(config.override({"run.device": assigned_device().type}))


def _activations(training: Any) -> int:
    """Bytes that one update's forward passes keep, weights excepted, for the largest of its sub-batches."""
    import torch

    holders: Counter[int] = Counter()  # of each storage, by its address, while a forward pass keeps it
    held = most = 0
    weights = {part.untyped_storage().data_ptr() for part in training.network.parameters()}
    weights |= {part.untyped_storage().data_ptr() for part in training.network.buffers()}

    class Kept:
        """A tensor that goes when the pass back has used it: sub-batches are done one after the other."""

        def __init__(self, tensor: Any) -> None:
            nonlocal held, most
            self.tensor, storage = tensor, tensor.untyped_storage()
            self.address, self.size = storage.data_ptr(), storage.nbytes()
            if self.address not in weights:
                holders[self.address] += 1
                held += self.size if holders[self.address] == 1 else 0
                most = max(most, held)

        def __del__(self) -> None:
            nonlocal held
            if self.address not in weights:
                holders[self.address] -= 1
                held -= self.size if holders[self.address] == 0 else 0

    training.start_epoch()
    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        training.update()
    return most


def _what_costs(config: TrainingConfig) -> list[Any]:
    network, data, run = config.network, config.data, config.run
    return [
        *(network.depth, network.width, network.family, network.shortcut, network.block, config.code.fingerprint),
        *(network.bottleneck_stride, network.stem_and_head),
        *(network.activation, network.activation_batch_norm, network.local_response_norm, network.fully_connected),
        *(data.batch_size, data.accumulation, data.size),
        *(run.precision, run.exact, run.device),
        *((network.dropout,) if network.dropout else ()),
        *((data.fingerprint, data.augmentation) if data.source.startswith("shards:") else ()),
    ]


def _read(file: Path) -> dict[str, dict[str, Any]]:
    try:
        known = json.loads(file.read_text())
        return {key: value for key, value in known.items() if value.keys() == Cost.__dataclass_fields__.keys()}
    except (OSError, ValueError, AttributeError):
        return {}


def _write(file: Path, known: dict[str, dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    partial.write_text(json.dumps(known, indent=1))
    partial.replace(file)
