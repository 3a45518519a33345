"""What exact mode costs: seconds of an update with it and without it, alternately, on one worker.

    python -m benchmarks.exact_mode [--rounds 8] [--virtual-shards 8] [--precision float32]

Every setting of `resnet-dist train` may be given. One CPU thread, as exact mode has.
"""

import statistics
import time

from benchmarks.command import exit_with
from benchmarks.targets import median_ratio
from resnet_dist.configuration.training import TrainingConfig
from tune_jobs.commands.options import SHORTHANDS, Parser, add_settings, normalise, positive


def main(arguments: list[str]) -> int:
    """Time updates in both modes and print medians and the ratio."""
    parser = Parser(prog="python -m benchmarks.exact_mode", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=positive, default=8, help="updates of each that count (default: 8)")
    add_settings(parser, SHORTHANDS)
    args = parser.parse_args(normalise(arguments))
    import torch

    from resnet_dist.data.dataset import load_dataset
    from resnet_dist.training.numerics import settings_of_run
    from resnet_dist.training.state import Training
    from resnet_dist.workers import alone

    torch.set_num_threads(1)
    base = TrainingConfig().override({"data.test_limit": 10} | args.settings)
    dataset, workers = load_dataset(base.data), alone(base.run.device)
    contenders = {
        name: Training(base.override({"run.exact": name == "exact"}), dataset, workers)
        for name in ("ordinary", "exact")
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(2 + args.rounds):
        for name, training in contenders.items():
            with settings_of_run(training.config.run.exact):
                training.start_epoch()
                started = time.perf_counter()
                training.update().sum().item()
                times[name].append(time.perf_counter() - started)
    cost = median_ratio(times["exact"][2:], times["ordinary"][2:])
    for name, values in times.items():
        print(f"{name:<9} {statistics.median(values[2:]):.3f} s an update (median of {args.rounds})")
    print(f"exact mode with {base.run.virtual_shards} virtual shards costs {cost:.2f} x")
    return 0


if __name__ == "__main__":
    exit_with(main)
