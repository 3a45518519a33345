"""What workers that share processors wait for each other, with threads that interrupt one another and without.

    python -m benchmarks.collectives [--workers 2 4 8] [--rounds 5]

One sum over the workers of as many numbers as a layer's message in batch norm has, and one update of the study's
20-layer network on 128 built-in images in float32; gloo processes of one thread each, the two ways by turns.
"""

import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.command import exit_with
from tune_jobs.commands.options import Parser, positive

SUMS, UPDATES = 200, 8


def measure(size: int, turns: bool) -> tuple[float, float]:
    """Seconds of a sum and of an update on `size` workers."""
    from torch.multiprocessing.spawn import spawn

    with tempfile.TemporaryDirectory() as directory:
        spawn(_worker, (size, turns, directory), nprocs=size)
        sums, updates = map(float, Path(directory, "seconds").read_text().split())
        return sums / SUMS, updates / UPDATES


def _worker(rank: int, size: int, turns: bool, directory: str) -> None:
    import torch
    import torch.distributed as dist

    from resnet_dist.configuration.training import TrainingConfig
    from resnet_dist.data.dataset import load_dataset
    from resnet_dist.training.state import Training
    from resnet_dist.workers import current, take_turns

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=size)
    if turns:
        take_turns()
    message = torch.ones(128, dtype=torch.float64)
    config = TrainingConfig().override({"data.train_limit": 2000, "data.test_limit": 100})
    training = Training(config, load_dataset(config.data), current("cpu"))
    training.start_epoch()
    training.update()
    start = time.perf_counter()
    for _ in range(SUMS):
        dist.all_reduce(message)
    between = time.perf_counter()
    for _ in range(UPDATES):
        training.update()
    if rank == 0:
        Path(directory, "seconds").write_text(f"{between - start} {time.perf_counter() - between}")
    dist.destroy_process_group()


def main(arguments: list[str]) -> int:
    """Measure by turns and print medians."""
    parser = Parser(prog="python -m benchmarks.collectives", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--workers", type=positive, nargs="+", default=[2, 4, 8], help="how many (default: 2 4 8)")
    parser.add_argument("--rounds", type=positive, default=5, help="of each way (default: 5)")
    args = parser.parse_args(arguments)
    print("workers          sum: before  taking turns       update: before  taking turns")
    for size in args.workers:
        ways: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
        for _ in range(args.rounds):
            for turns, times in ways.items():
                times.append(measure(size, turns))
        (sum_before, update_before), (sum_after, update_after) = (
            [statistics.median(values) for values in zip(*times, strict=True)] for times in ways.values()
        )
        print(
            f"{size:>7}  {sum_before * 1e3:>15.2f} ms  {sum_after * 1e3:>9.2f} ms"
            f"  {update_before:>19.3f} s  {update_after:>10.3f} s",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    exit_with(main)
