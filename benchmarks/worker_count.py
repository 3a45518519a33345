"""Law 1 on data of your choice: the training loss of the first steps on one worker and on several, side by side.

    python -m benchmarks.worker_count --data.source folder:cifar10.tar.xz --precision float64 --workers 2 --steps 50

Every setting of `resnet-dist train` may be given. The workers are gloo processes on this machine's CPUs.
"""

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.command import exit_with
from resnet_dist.configuration.training import TrainingConfig
from tune_jobs.commands.options import SHORTHANDS, Parser, add_settings, normalise, positive


def losses(config: TrainingConfig, steps: int, rank: int = 0, size: int = 1) -> list[float]:
    """Mean loss of each step's whole batch, as the workers of the current process group compute it."""
    import torch

    from resnet_dist.data.dataset import load_dataset
    from resnet_dist.training.exact import tree_sum
    from resnet_dist.training.state import Training
    from resnet_dist.workers import Workers

    workers = Workers(rank, size, torch.device("cpu"))
    training = Training(config, load_dataset(config.data), workers)
    values = []
    for _ in range(steps):
        training.start_epoch()
        values.append(tree_sum(workers.sum(training.update().clone())).item())
    return values


def _worker(rank: int, size: int, directory: str, config: TrainingConfig, steps: int) -> None:
    import torch
    import torch.distributed as dist

    from resnet_dist.workers import take_turns

    torch.set_num_threads(1)
    take_turns()
    dist.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=size)
    values = losses(config, steps, rank, size)
    if rank == 0:
        Path(directory, f"losses-{size}").write_text(" ".join(value.hex() for value in values))
    dist.destroy_process_group()


def main(arguments: list[str]) -> int:
    """Train for some steps on one worker and on several, and print both losses and their relative difference."""
    parser = Parser(prog="python -m benchmarks.worker_count", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=positive, default=50, help="updates of the weights (default: 50)")
    add_settings(parser, SHORTHANDS)
    args = parser.parse_args(normalise(arguments))
    config = TrainingConfig().override({"run.workers": 2} | args.settings)
    curves: dict[int, list[float]] = {}
    from torch.multiprocessing.spawn import spawn

    for size in (1, config.run.workers):
        with tempfile.TemporaryDirectory() as directory:
            spawn_arguments: tuple[Any, ...] = (size, directory, config, args.steps)
            spawn(_worker, spawn_arguments, nprocs=size)
            text = Path(directory, f"losses-{size}").read_text()
            curves[size] = [float.fromhex(value) for value in text.split()]
    one, several = curves[1], curves[config.run.workers]
    print(f"{config.network.depth} layers, {config.run.precision}, {config.data.source}")
    print(f"{'step':>5}  {'1 worker':>20}  {f'{config.run.workers} workers':>20}  relative difference")
    for step, (a, b) in enumerate(zip(one, several, strict=True), start=1):
        if step == 1 or step % 10 == 0:
            print(f"{step:>5}  {a:>20.15f}  {b:>20.15f}  {abs(a - b) / abs(a):.1e}")
    largest = max(abs(a - b) / abs(a) for a, b in zip(one, several, strict=True))
    print(f"largest over {args.steps} steps: {largest:.1e}")
    return 0


if __name__ == "__main__":
    exit_with(main)
