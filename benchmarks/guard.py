"""Whether an update has become slower: beside plain PyTorch's and beside its own bare arithmetic, in turns.

    python -m benchmarks.guard [--rounds 15]

Exit code 1 if a ratio is below what ten runs have shown to be noise (`LEAST`), 2 for an error. Half a minute on one
thread. What counts is processor time, and the median of the rounds' ratios, so that other work on the machine counts
for little.
"""

import random
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

from benchmarks.command import exit_with
from benchmarks.targets import Target, median_ratio, print_lines
from tune_jobs.commands.options import Parser, positive

LEAST = {"beside plain PyTorch": 1.1, "beside the ceiling": 0.95}
"""How many times as fast an update has to be. Ten runs on two busy cores of a Xeon: 1.19 to 1.24 and 0.98 to 1.00."""


def measure(rounds: int, settings: Mapping[str, object] = MappingProxyType({})) -> dict[str, list[float]]:
    """Seconds of the thread that updates take, round by round: ours, plain PyTorch's on one batch, and the ceiling's.

    The study's 20-layer network in float32, 128 built-in images an update, unless the settings say otherwise.
    """
    import torch

    from benchmarks.conventional import ConventionalTrainer
    from benchmarks.end_to_end import Ceiling, OurTrainer
    from resnet_dist.configuration.training import TrainingConfig
    from resnet_dist.data.dataset import load_dataset
    from resnet_dist.training.memory import kept_memory
    from resnet_dist.workers import alone, on_threads

    config, workers = TrainingConfig().override({"run.device": "cpu", **settings}), alone("cpu")
    dataset, classes = load_dataset(config.data), 10
    with on_threads(1), kept_memory(dataset):
        plain = ConventionalTrainer(config, dataset.train_images, dataset.train_labels, classes, workers.device)
        images = torch.randn(config.data.batch_size, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        labels = torch.arange(len(images)) % classes
        ours, ceiling = OurTrainer(config, dataset, workers), Ceiling(config, classes, workers.device)
        contenders: dict[str, Callable[[], object]] = {
            "ours": lambda: ours.run(1),
            "plain PyTorch": lambda: plain.update(images, labels),
            "the ceiling": lambda: ceiling.run(1),
        }
        times: dict[str, list[float]] = {name: [] for name in contenders}
        order = random.Random(0)
        for number in range(rounds + 1):
            for name in order.sample(list(contenders), len(contenders)):
                started = time.thread_time()
                contenders[name]()
                if number:  # the first chooses kernels
                    times[name].append(time.thread_time() - started)
    return times


def targets(times: dict[str, list[float]]) -> list[Target]:
    """The ratios, as medians over the rounds, held against the least that is allowed."""
    return [
        Target(
            f"an update {name}",
            least,
            "×",
            median_ratio(times[name.removeprefix("beside ")], times["ours"]),
        )
        for name, least in LEAST.items()
    ]


def main(arguments: list[str]) -> int:
    """Measure, print, and return the exit code."""
    parser = Parser(prog="python -m benchmarks.guard", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=positive, default=15, help="updates of each that count (default: 15)")
    return print_lines(targets(measure(parser.parse_args(arguments).rounds)))


if __name__ == "__main__":
    exit_with(main)
