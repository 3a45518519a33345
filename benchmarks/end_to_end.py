"""Training speed, end to end: ours, the conventional trainer, and the ceiling, measured in turns in one run.

The ceiling is the same network in the same precision with nothing around it: forward, backward and update on one
batch that is there already. All take the same number of images a step, and none evaluates.
"""

import contextlib
import logging
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from benchmarks.conventional import ConventionalTrainer
from benchmarks.targets import Target, median_ratio
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.data.dataset import Dataset
from resnet_dist.networks.cifar import ResidualNetwork
from resnet_dist.networks.initialisation import initialise
from resnet_dist.training.memory import kept_memory
from resnet_dist.training.numerics import own_stream
from resnet_dist.training.solvers import make_solver
from resnet_dist.training.state import Training
from resnet_dist.workers import Workers

LOGGER = logging.getLogger(__name__)

SLICE_SECONDS = {"cpu": 0.5, "cuda": 2.0}
"""How long each contender runs at a time, at least. Short, so that what else the machine does falls on all alike. On
CUDA a step takes milliseconds, and what the conventional loader prepared while the others ran must not count."""
LEAST_ROUNDS = 5

CONVENTIONAL_TARGET = {"float32": 1.3, "bfloat16": 1.5}
"""Both in the same precision."""
CEILING_TARGET = 0.9


class Contender(Protocol):
    """Something that trains step by step."""

    name: str

    def run(self, steps: int) -> None:
        """Train for some steps."""


class OurTrainer:
    """`resnet_dist.training`: draws, augmentation, update, losses kept on the device and read once an epoch."""

    def __init__(self, config: TrainingConfig, dataset: Dataset, workers: Workers) -> None:
        self.name = f"resnet_dist {config.run.precision}"
        self.training = Training(config, dataset, workers)
        self.training.start_epoch()

    def run(self, steps: int) -> None:
        """Train for some steps."""
        training = self.training
        for _ in range(steps):
            training.update()
            if training.step == training.plan.first_step(training.epoch):
                training.losses.tolist()
                training.start_epoch()


class Ceiling:
    """The bare arithmetic of a step: forward, backward and update on one batch."""

    def __init__(self, config: TrainingConfig, classes: int, device: torch.device) -> None:
        self.name = f"ceiling {config.run.precision}"
        network = ResidualNetwork(config.network, config.batch_norm, classes)
        initialise(network, config.network, config.run.seed)
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.solver = make_solver(config.solver, network.parameters())
        self.autocast = torch.autocast(
            device.type, torch.bfloat16, enabled=config.run.precision == "bfloat16", cache_enabled=False
        )
        size = config.data.batch_size
        images = torch.randn(size, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        self.images = images.to(device, memory_format=torch.channels_last)
        self.labels = (torch.arange(size) % classes).to(device)

    def run(self, steps: int) -> None:
        """Train on the one batch for some steps."""
        for _ in range(steps):
            self.solver.zero_grad(set_to_none=True)
            with self.autocast:
                logits = self.network(self.images)
            F.cross_entropy(logits.float(), self.labels).backward()
            self.solver.step()


class Apart:
    """The conventional trainer in a process of its own: what a process has set for its memory is part of a trainer."""

    def __init__(self, precision: str, arguments: dict[str, Any]) -> None:
        context = torch.multiprocessing.get_context("spawn")
        self.name = f"conventional {precision}"
        self.orders, theirs = context.Pipe()
        given = (theirs, torch.get_num_threads(), arguments | {"precision": precision})
        self.process = context.Process(target=_train_to_order, args=given)
        self.process.start()
        theirs.close()

    def run(self, steps: int) -> None:
        """Have it train for some steps."""
        self.orders.send(steps)
        self.orders.recv()

    def close(self) -> None:
        """End it and its loader's processes."""
        self.orders.close()
        self.process.join()


def _train_to_order(orders: Connection, threads: int, arguments: dict[str, Any]) -> None:
    torch.set_num_threads(threads)
    with contextlib.closing(ConventionalTrainer(**arguments)) as trainer, contextlib.suppress(EOFError):
        while True:
            trainer.run(orders.recv())
            orders.send(None)


@dataclass(frozen=True)
class Speeds:
    """Images per second of each contender, one figure a round."""

    rounds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Images per second."""
        return statistics.median(self.rounds[name])

    def ratio(self, name: str, other: str) -> float:
        """How many times as fast as `other`: the median over rounds of the ratio within a round.

        What slows the machine for a while slows both slices of a round. On a machine with three times as many busy
        processes as cores, the standard error of this over 67 rounds was 0.02, that of the ratio of medians 0.08.
        """
        return median_ratio(self.rounds[name], self.rounds[other])


def precisions(device: torch.device) -> tuple[str, ...]:
    """Precisions that are measured on this device: bfloat16 only where the hardware computes in it."""
    return ("float32", "bfloat16") if has_bfloat16(device) else ("float32",)


def has_bfloat16(device: torch.device, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the device has bfloat16 instructions. Without them PyTorch emulates it, slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if not cpuinfo.exists():
        return False
    flags = {
        word
        for line in cpuinfo.read_text().splitlines()
        if line.lower().startswith(("flags", "features"))
        for word in line.partition(":")[2].split()
    }
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def measure(
    config: TrainingConfig, dataset: Dataset, workers: Workers, seconds: float, loader_workers: int | None = None
) -> Speeds:
    """Let all contenders run in turns, for about `seconds` and at least `LEAST_ROUNDS` rounds.

    `config` gives network, batch size and solver; each contender has its own weights and its own precision.
    """
    device = workers.device
    with contextlib.ExitStack() as stack:
        stack.enter_context(kept_memory(dataset))
        stack.enter_context(own_stream(device, exact=False))
        contenders: list[Contender] = []
        images, labels, classes = dataset.train_images, dataset.train_labels, len(dataset.classes)
        loader = {"device": device, "loader_workers": loader_workers}
        given = {"config": config, "images": images, "labels": labels, "classes": classes} | loader
        for precision in precisions(device):
            opponent = Apart(precision, given)
            stack.enter_context(contextlib.closing(opponent))
            # The precision is one of those that RunConfig names.
            ours = replace(config, run=replace(config.run, precision=precision))  # type: ignore[arg-type]
            contenders += [opponent, OurTrainer(ours, dataset, workers), Ceiling(ours, classes, device)]
        return _in_turns(contenders, config.data.batch_size, device, seconds)


def _in_turns(contenders: Sequence[Contender], batch_size: int, device: torch.device, seconds: float) -> Speeds:
    started = time.perf_counter()
    for contender in contenders:
        _timed(contender, 1, device)  # the loader's start, kernels chosen, memory allocated
    steps = max(1, math.ceil(SLICE_SECONDS[device.type] / _timed(contenders[0], 1, device)))
    rounds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    # In another order each round: nobody always follows the same neighbour. The same orders every time.
    order = random.Random(0)
    count = 0
    while count < LEAST_ROUNDS or time.perf_counter() - started < seconds:
        for contender in order.sample(contenders, len(contenders)):
            rounds[contender.name].append(steps * batch_size / _timed(contender, steps, device))
        count += 1
    speeds = Speeds(rounds)
    for name in rounds:
        LOGGER.info("%s: %.1f images per second, median of %d × %d steps", name, speeds.median(name), count, steps)
    return speeds


def _timed(contender: Contender, steps: int, device: torch.device) -> float:
    return seconds(lambda: contender.run(steps), device)


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """How long a call takes until the device has done what it was told."""
    _wait(device)
    started = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def targets(speeds: Speeds) -> list[Target]:
    """The targets of training speed, held against what was measured."""
    found = []
    for precision, least in CONVENTIONAL_TARGET.items():
        for other, target in {"conventional": least, "ceiling": CEILING_TARGET}.items():
            name = f"{precision} beside the {'conventional trainer' if other == 'conventional' else other}"
            if (ours := f"resnet_dist {precision}") in speeds.rounds:
                found.append(Target(name, target, "×", speeds.ratio(ours, f"{other} {precision}")))
            else:
                found.append(Target(name, target, "×", reason=f"this processor has no {precision}"))
    return found
