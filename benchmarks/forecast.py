"""How well `grid plan --on` foresees grids that are then run: three on this machine, predicted and measured.

    python -m benchmarks.forecast [--places 2]

The machine is to be quiet: updates are measured first, and what else runs on it later shows as an error of the
prediction. So the simulation is judged by itself, too: with the training times that the trials report of themselves.
"""

import json
import tempfile
import time
from pathlib import Path

from benchmarks.command import exit_with
from benchmarks.targets import Target, print_lines
from tune_jobs.commands.options import Parser, positive
from tune_jobs.grid.calibration import EVALUATION_COST

RATIO_TARGET = 1.15
"""Of the longer of the two times to the shorter one."""

RECIPE = """
name = "{name}"
title = "{name}"
seeds = {seeds}

[recipe.run]
epochs = {epochs}
workers = {workers}

[recipe.data]
train_limit = 2560
test_limit = 500

[recipe.schedule]
milestones = []

[[table]]
name = "{name}"

[table.grid]
"network.depth" = {depths}
"""

GRIDS = {
    "mixed depths": {"seeds": 2, "epochs": 3, "workers": 1, "depths": [8, 14, 20]},
    "many trials": {"seeds": 12, "epochs": 2, "workers": 1, "depths": [8]},
    "two workers": {"seeds": 4, "epochs": 3, "workers": 2, "depths": [14]},
}


def measure(name: str, places: int, storage: Path) -> tuple[float, float, float]:
    """Seconds that a grid was to take, that it would have with its trials' own times, and that it took.

    It took what passed from its launch to its last result.
    """
    from tune_jobs.actions.forecast import forecast_grid
    from tune_jobs.actions.grid import run_grid
    from tune_jobs.grid.data_sizes import test_images, train_images
    from tune_jobs.grid.forecast import measured_times
    from tune_jobs.grid.simulation import Work, simulate

    file = storage / "grid.toml"
    file.write_text(RECIPE.format(name=name.replace(" ", "-"), **GRIDS[name]))
    planned, expected = forecast_grid(file, storage, f"{places}xhere")
    assert expected is not None
    begun = time.time()
    done = run_grid(file, storage)
    assert not done.unfinished
    records = {file.parent.name: json.loads(file.read_text()) for file in storage.rglob("result.json")}
    ended = max(file.stat().st_mtime for file in storage.rglob("result.json"))
    trials = []
    for trial in planned.to_run():
        training = sum(line["seconds"] for line in records[trial.trial_id]["metrics"])
        share = 1 + EVALUATION_COST * test_images(trial.config) / train_images(trial.config)
        trials.append(Work(training * share, trial.config.run.workers))
    return expected.steady.seconds, simulate(trials, places, measured_times()).seconds, ended - begun


def main(arguments: list[str]) -> int:
    """Predict, run, compare and print."""
    parser = Parser(prog="python -m benchmarks.forecast", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--places", type=positive, default=2, help="trials at a time, as the machine has (default: 2)")
    args = parser.parse_args(arguments)
    targets: list[Target] = []
    for name in GRIDS:
        with tempfile.TemporaryDirectory(prefix="resnet-dist-benchmark-") as storage:
            predicted, simulated, measured = measure(name, args.places, Path(storage))
        print(
            f"{name:12} predicted {predicted:.1f} s, simulated {simulated:.1f} s, measured {measured:.1f} s", flush=True
        )
        for kind, seconds in (("predicted", predicted), ("simulated with its own training times", simulated)):
            ratio = max(seconds / measured, measured / seconds)
            targets.append(Target(f"{name}, {kind}", RATIO_TARGET, "× time", ratio))
    return print_lines(targets)


if __name__ == "__main__":
    exit_with(main)
