"""`python -m benchmarks`: measures speed against targets, one line a target.

Exit code 0 if every target that was measured is reached, 1 if one is short, 2 for an error.
"""

import argparse
import json
import logging
import os
import statistics
import sys
from dataclasses import asdict
from typing import Any

from benchmarks.command import exit_with
from benchmarks.targets import Target, exit_code, print_lines

LOGGER = logging.getLogger("benchmarks")

SECONDS = {"quick": 40.0, "full": 300.0}
"""How long the trainers run in turns."""
TRIALS = {"quick": 12, "full": 40}
"""Trials whose cost is measured, once warm."""
PLANS = {"quick": 2, "full": 5}
"""Runs of each command that expands a large grid."""
TWO_WORKERS = {"quick": 20.0, "full": 90.0}
"""How long two workers, plain ones and one worker run in turns."""
LAUNCHES = {"quick": 2, "full": 5}
"""Launches of `train` that are timed up to the first update."""


def main(arguments: list[str]) -> int:
    """Measure, print, and return the exit code."""
    args = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # The trials go to a directory of this machine: a cluster that the environment names could not reach it.
    os.environ.pop("RAY_ADDRESS", None)
    targets, record = run("quick" if args.quick else "full")
    if not args.json:
        return print_lines(targets)
    print(json.dumps(record, indent=1))
    return exit_code(targets)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure training speed and the cost of a trial against targets.",
        epilog="Exit code: 0 if all that was measured is reached, 1 if something is short, 2 for an error.",
    )
    parser.add_argument("--quick", action="store_true", help="under three minutes on two cores (default: about nine)")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON and nothing else")
    return parser.parse_args(arguments)


def run(length: str) -> tuple[list[Target], dict[str, Any]]:
    """Measure everything; returns what was to be reached, and what --json prints."""
    import torch

    from benchmarks import end_to_end, first_update, planning, trial_overhead, two_workers
    from resnet_dist.configuration.training import TrainingConfig
    from resnet_dist.data.dataset import load_dataset
    from resnet_dist.records.provenance import describe
    from resnet_dist.workers import alone

    workers = alone()
    if workers.device.type == "cpu":
        # One thread for each contender, as a grid's workers have; the conventional loader has the other cores.
        torch.set_num_threads(1)
    machine = describe(workers, "")
    LOGGER.info("%s, torch %s; trainers in turns for %.0f s", machine["device"], machine["torch"], SECONDS[length])
    config = TrainingConfig()
    speeds = end_to_end.measure(config, load_dataset(config.data), workers, SECONDS[length])
    targets = end_to_end.targets(speeds)
    LOGGER.info("two workers in turns with others")
    precisions = end_to_end.precisions(torch.device("cpu"))
    two = two_workers.measure(TWO_WORKERS[length], precisions)
    targets += two_workers.targets(two, precisions)
    LOGGER.info("launches of train")
    launches, memory = first_update.first_updates([], LAUNCHES[length]), first_update.peak_memory([])
    targets += first_update.targets(launches, memory)
    LOGGER.info("a grid of tiny trials on a local Ray")
    costs = trial_overhead.measure(TRIALS[length])
    targets.append(trial_overhead.target(costs))
    LOGGER.info("plans of 3,600 trials")
    plans = planning.measure(PLANS[length])
    targets += planning.targets(plans)
    return targets, {
        "machine": {key: machine[key] for key in ("device", "torch", "ray", "python", "threads", "commit", "dirty")},
        "images_per_second": {
            name: {"median": statistics.median(rounds), "rounds": rounds} for name, rounds in speeds.rounds.items()
        },
        "two_workers": {name: [asdict(one) for one in rounds] for name, rounds in two.items()},
        "first_update": {"launches": [asdict(taken) for taken in launches], "trial_megabytes": memory},
        "trial_cost_seconds": {"median": statistics.median(costs), "trials": costs},
        "plans": {name: [asdict(cost) for cost in rounds] for name, rounds in plans.items()},
        "targets": [target.to_dict() for target in targets],
    }


if __name__ == "__main__":
    exit_with(main)
