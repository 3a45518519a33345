"""`python -m benchmarks.gpu`: needs a GPU, and neither Ray nor S3 nor a network.

First the tests of CUDA, then times in turns, then seeds of the 20-layer network at full length in what time is left.
What it has found stands in DIR after each part: `gpu.json`, `gpu.md`, `tests.log`, and the records of the runs. Parts
may be asked for one by one, into one DIR.
"""

import argparse
import importlib.util
import json
import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.gpu import full_length, steps
from benchmarks.gpu.report import markdown
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.data.dataset import Dataset, load_dataset
from resnet_dist.errors import UserError
from resnet_dist.records.provenance import describe
from resnet_dist.workers import alone

LOGGER = logging.getLogger("benchmarks")

PARTS = ("tests", "times", "training")
MOST_SEEDS = 8


def main(arguments: list[str] | None = None) -> int:
    """Measure, write, print; the exit code is 1 if a test failed or a run did."""
    args = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return Measurement(args).run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; what was found so far stands in {args.into}", file=sys.stderr)
        return 130


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--minutes", type=float, default=8, help="how long it may take (default: 8)")
    parser.add_argument("--into", type=Path, required=True, metavar="DIR", help="where results go")
    parser.add_argument("--source", default="synthetic", help="data.source of all runs (default: built-in images)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to do (default: all)")
    parser.add_argument("--seeds", type=int, default=0, help="seeds at full length (default: as many as time allows)")
    parser.add_argument("--epochs", type=int, default=200, help="of the training at full length (default: 200)")
    parser.add_argument("--precision", default="bfloat16", help="run.precision (default: bfloat16)")
    parser.add_argument(
        "--rehearse", action="store_true", help="do it all on the CPU, tiny, to see that every line of it works"
    )
    return parser.parse_args(arguments)


class Measurement:
    """One call of the command."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.ends = time.monotonic() + 60 * args.minutes
        if not args.minutes > 0:
            raise UserError(f"--minutes: {args.minutes:g} is not allowed; it must be greater than 0")
        try:
            args.into.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--into {args.into}: cannot be made: {error.strerror}; name a directory") from error
        known = args.into / "gpu.json"
        self.found: dict[str, Any] = json.loads(known.read_text()) if known.exists() else {}
        settings: dict[str, Any] = {
            "data.source": args.source,
            "run.precision": args.precision,
            "run.device": "cpu" if args.rehearse else "cuda",
            "run.checkpoint_epochs": 20,
        }
        self.effort = steps.Effort()
        if args.rehearse:
            settings |= {"network.width": 2, "data.batch_size": 8, "data.train_limit": 64, "data.test_limit": 20}
            self.effort = steps.Effort(steps=1, rounds=1, depths=(8,), packed=(1, 2))
        self.config = TrainingConfig().override(settings)

    def run(self) -> int:
        """All parts that were asked for."""
        workers = alone(self.config.run.device)
        self.dataset = load_dataset(self.config.data)
        self.config = self.config.with_fingerprint(self.dataset.fingerprint)
        self._note("machine", describe(workers, self.dataset.fingerprint))
        failed = False
        if "tests" in self.args.parts:
            failed |= not self._tests()
        if "times" in self.args.parts:
            self._times(self.dataset)
        if "training" in self.args.parts:
            failed |= not self._training()
        print((self.args.into / "gpu.md").read_text())
        return int(failed)

    def _tests(self) -> bool:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/resnet_dist/test_cuda.py"]
        started = time.monotonic()
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=os.environ | {"PYTEST_ADDOPTS": self._spread()}
        )
        (self.args.into / "tests.log").write_text(done.stdout + done.stderr)
        lines = (done.stdout or done.stderr).strip().splitlines()
        self._note(
            "tests",
            {
                "result": lines[-1].strip("= ") if lines else "nothing",
                "exit_code": done.returncode,
                "seconds": time.monotonic() - started,
            },
        )
        return done.returncode == 0

    def _spread(self) -> str:
        """pytest's processes, where there is what makes them; another plugin of some machines dislikes them."""
        if importlib.util.find_spec("xdist") is None:
            return ""
        return f"-p no:benchmark -n {min(6, os.cpu_count() or 1)}"

    def _times(self, dataset: Dataset) -> None:
        measured: Iterable[tuple[str, dict[str, Any]]] = steps.step_times(self.config, dataset, self.effort)
        self._collect("milliseconds of a step", measured)
        self._note("epoch", steps.epoch_time(self.config, dataset))
        self._collect("side by side", steps.packed_times(self.config, dataset, self.effort))
        self._note("conventional", steps.conventional_time(self.config, dataset, self.effort))
        self._note("agreement in float64", steps.agreement(self.config, dataset, 3 if self.args.rehearse else 50))

    def _training(self) -> bool:
        config = self.config.override({"run.epochs": self.args.epochs})
        if self.args.rehearse:
            config = config.shortened(2).override({"network.depth": 8})
        seeds = self.args.seeds or self._seeds_that_fit(config)
        if not seeds:
            self._note("training", {"seeds": 0, "reason": "there is no time left for one at full length"})
            return True
        started = time.monotonic()
        outcomes = full_length.train_seeds(config, seeds, self.args.into / "runs")
        self._note("training", {"seeds": seeds, "seconds": time.monotonic() - started, "runs": outcomes})
        return not any("error" in outcome for outcome in outcomes)

    def _seeds_that_fit(self, config: TrainingConfig) -> int:
        """As many seeds as the time that is left allows, by what was measured of runs side by side."""
        epoch, packed = self.found.get("epoch"), self.found.get("side by side")
        if not epoch or not packed:
            return 1
        left = self.ends - time.monotonic()
        rounds = {int(name.split()[0]): figures["round"] for name, figures in packed.items()}
        one = config.run.epochs * (epoch["training"] + epoch["evaluation"])
        fits = 0
        for seeds in range(1, MOST_SEEDS + 1):
            nearest = max((count for count in rounds if count <= seeds), default=1)
            cost = one * rounds[nearest] / rounds[min(rounds)] * seeds / nearest
            if 1.05 * cost < left:
                fits = seeds
        return fits

    def _collect(self, name: str, figures: Iterable[tuple[str, dict[str, Any]]]) -> None:
        for what, values in figures:
            self._note(name, self.found.get(name, {}) | {what: values})

    def _note(self, name: str, values: dict[str, Any]) -> None:
        """Keep what was found, on disk as well."""
        self.found[name] = values
        LOGGER.info("%s: %s", name, json.dumps(values, default=str)[:400])
        (self.args.into / "gpu.json").write_text(json.dumps(_rounded(self.found), indent=1) + "\n")
        (self.args.into / "gpu.md").write_text(markdown(self.found))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float) and math.isfinite(value) and value:
        return float(f"{value:.5g}")
    return value


if __name__ == "__main__":
    sys.exit(main())
