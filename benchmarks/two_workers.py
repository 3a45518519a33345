"""Two workers that share each batch, beside plain data parallelism and beside one worker, in turns in one run.

    python -m benchmarks.two_workers [--seconds 60] [--precision float32 bfloat16]

- **two workers**: `Training.update`, with batch norm over the batch of both, as every run on two workers calls it;
- **plain**: the same network with torch's `nn.BatchNorm2d`, each worker's own, in `DistributedDataParallel` as it
  comes, forward, backward and update on half a batch that is there already;
- **one worker**: `Training.update` on the whole batch, in a process of its own.

The study's 20-layer network on 128 built-in images, one thread each. The workers are gloo processes of this machine.
"""

import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.command import exit_with
from benchmarks.targets import Target, median_ratio, print_lines
from tune_jobs.commands.options import Parser, positive

PLAIN_TARGET = 1.15
ONE_WORKER_TARGET = 1.6
STEPS = 3
"""Updates of each contender at a time."""


@dataclass(frozen=True)
class Round:
    """What an update took of each contender that ran in turns."""

    seconds: float
    processor: float
    """Seconds of one worker's processor, the most of any."""


def measure(seconds: float, precisions: tuple[str, ...]) -> dict[str, list[Round]]:
    """What an update of each contender takes, round by round; names are `two workers float32` and so on."""
    import torch.multiprocessing as multiprocessing

    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as directory:
        pipes, processes = [], []
        for rank in (0, 1, None):
            ours, theirs = context.Pipe()
            process = context.Process(target=_worker, args=(theirs, rank, directory, precisions), daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        try:
            return _in_turns(pipes, seconds, precisions)
        finally:
            for pipe in pipes:
                pipe.close()
            for process in processes:
                process.join(30)
                process.kill()


def _in_turns(pipes: list[Connection], seconds: float, precisions: tuple[str, ...]) -> dict[str, list[Round]]:
    callers = {"two workers": pipes[:2], "plain": pipes[:2], "one worker": pipes[2:]}
    contenders = [(name, precision) for name in callers for precision in precisions]
    rounds: dict[str, list[Round]] = {f"{name} {precision}": [] for name, precision in contenders}
    order = random.Random(0)
    for pipe in pipes:
        pipe.recv()  # it is ready
    started, warm = time.perf_counter(), False
    while not warm or time.perf_counter() - started < seconds:
        for name, precision in order.sample(contenders, len(contenders)):
            for pipe in callers[name]:
                pipe.send((name, precision))
            elapsed, used = (max(times) / STEPS for times in zip(*(pipe.recv() for pipe in callers[name]), strict=True))
            if warm:
                rounds[f"{name} {precision}"].append(Round(elapsed, used))
        warm = True
    return rounds


def _worker(pipe: Connection, rank: int | None, directory: str, precisions: tuple[str, ...]) -> None:
    import torch
    import torch.distributed as dist

    from resnet_dist.workers import take_turns

    torch.set_num_threads(1)
    if rank is not None:
        take_turns()
        dist.init_process_group("gloo", init_method=f"file://{Path(directory)}/store", rank=rank, world_size=2)
    calls = {}
    for precision in precisions:
        calls["one worker" if rank is None else "two workers", precision] = _ours(precision)
        if rank is not None:
            calls["plain", precision] = _plain(precision)
    pipe.send("ready")
    while True:
        try:
            call = calls[pipe.recv()]
        except EOFError:
            break
        if rank is not None:
            dist.barrier()
        started, used = time.perf_counter(), time.process_time()
        for _ in range(STEPS):
            call()
        pipe.send((time.perf_counter() - started, time.process_time() - used))
    if rank is not None:
        dist.destroy_process_group()


def _ours(precision: Any) -> Callable[[], object]:
    import torch.distributed as dist

    from resnet_dist.configuration.training import TrainingConfig
    from resnet_dist.data.dataset import load_dataset
    from resnet_dist.training.state import Training
    from resnet_dist.workers import alone, current

    config = TrainingConfig().override({"data.train_limit": 2000, "data.test_limit": 100})
    config = replace(config, run=replace(config.run, precision=precision))
    training = Training(config, load_dataset(config.data), current("cpu") if dist.is_initialized() else alone("cpu"))

    def update() -> None:
        if training.step == training.plan.first_step(training.epoch):
            training.start_epoch()
        training.update()

    return update


def _plain(precision: str) -> Callable[[], object]:
    import torch
    import torch.nn.functional as F
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    from resnet_dist.configuration.training import TrainingConfig
    from resnet_dist.networks.batch_norm import SynchronisedBatchNorm
    from resnet_dist.networks.cifar import ResidualNetwork
    from resnet_dist.training.solvers import make_solver

    config = TrainingConfig()
    network = ResidualNetwork(config.network, config.batch_norm, 10)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, SynchronisedBatchNorm):
                setattr(module, name, nn.BatchNorm2d(child.num_features))
    network = network.to(memory_format=torch.channels_last)
    parallel = DistributedDataParallel(network)
    solver = make_solver(config.solver, network.parameters())
    images = torch.randn(config.data.batch_size // 2, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.arange(len(images)) % 10

    def update() -> None:
        solver.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False):
            logits = parallel(images)
        F.cross_entropy(logits.float(), labels).backward()
        solver.step()

    return update


def targets(rounds: dict[str, list[Round]], precisions: tuple[str, ...]) -> list[Target]:
    """What is to be reached in each precision, as medians of the rounds' ratios."""
    found = []
    for precision in precisions:
        two, plain, one = (
            [figure.seconds for figure in rounds[f"{name} {precision}"]]
            for name in ("two workers", "plain", "one worker")
        )
        beside = f"two workers beside plain ones, {precision}"
        found.append(Target(beside, PLAIN_TARGET, "× time", median_ratio(two, plain)))
        found.append(Target(f"two workers beside one, {precision}", ONE_WORKER_TARGET, "×", median_ratio(one, two)))
    return found


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = Parser(prog="python -m benchmarks.two_workers", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=positive, default=60, help="of all in turns (default: 60)")
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"], help="(default: float32 bfloat16)")
    args = parser.parse_args(arguments)
    precisions = tuple(args.precision)
    rounds = measure(args.seconds, precisions)
    for name, figures in rounds.items():
        elapsed = statistics.median(figure.seconds for figure in figures)
        used = statistics.median(figure.processor for figure in figures)
        print(
            f"{name:<22} {elapsed:.3f} s an update, {used:.3f} s of a processor (medians of {len(figures)} × {STEPS})"
        )
    return print_lines(targets(rounds, precisions))


if __name__ == "__main__":
    exit_with(main)
