"""Times of one update on a GPU: eager, captured, the ceiling; runs side by side; a whole epoch."""

import contextlib
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.conventional import ConventionalTrainer
from benchmarks.end_to_end import Ceiling, seconds
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.data.dataset import Dataset
from resnet_dist.training import captured
from resnet_dist.training.captured import WARM
from resnet_dist.training.numerics import own_stream, settings_of_run
from resnet_dist.training.state import Training
from resnet_dist.workers import Workers, alone


@dataclass(frozen=True)
class Effort:
    """How long things are measured."""

    steps: int = 100
    """Updates that are timed together."""
    rounds: int = 3
    """How often, of which the median counts."""
    depths: tuple[int, ...] = (20, 32, 44, 56, 110)
    packed: tuple[int, ...] = (1, 2, 4, 8)
    """Runs side by side."""


class Run:
    """A run, on a stream of its own, that trains step by step."""

    def __init__(self, config: TrainingConfig, dataset: Dataset, workers: Workers) -> None:
        self._stack = contextlib.ExitStack()
        self.stream = torch.cuda.Stream() if workers.device.type == "cuda" else None
        with self.current():
            self.training = Training(config, dataset, workers)
            self.training.start_epoch()
            self.steps(WARM + 1)

    def current(self) -> "contextlib.AbstractContextManager[Any]":
        """Make this run's stream the current one."""
        return torch.cuda.stream(self.stream) if self.stream else contextlib.nullcontext()

    def steps(self, count: int) -> None:
        """So many updates; the losses of an epoch are begun anew where it ends."""
        for _ in range(count):
            self.training.start_epoch()
            self.training.update()


def step_times(config: TrainingConfig, dataset: Dataset, effort: Effort) -> Iterator[tuple[str, dict[str, Any]]]:
    """For each depth: milliseconds of an update, in turns; yields (name, figures) as they are found."""
    workers = alone(config.run.device)
    with settings_of_run(exact=False):
        for depth in effort.depths:
            of = config.override({"network.depth": depth})
            contenders: dict[str, Callable[[int], None]] = {
                "captured": Run(of, dataset, workers).steps,
                "eager": Run(of.override({"run.cuda_graph": False}), dataset, workers).steps,
                "ceiling": _captured_ceiling(of, len(dataset.classes), workers),
            }
            found = in_turns(contenders, effort, workers.device)
            found["of the ceiling"] = found["ceiling"] / found["captured"]
            yield f"{depth} layers", found
        yield (
            "20 layers, float32",
            in_turns(
                {"captured": Run(config.override({"run.precision": "float32"}), dataset, workers).steps},
                effort,
                workers.device,
            ),
        )


def in_turns(contenders: dict[str, Callable[[int], None]], effort: Effort, device: torch.device) -> dict[str, float]:
    """Milliseconds of a step of each, by turns."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(effort.rounds):
        for name, steps in contenders.items():
            count = max(1, effort.steps // 5) if name in ("eager", "conventional") else effort.steps
            times[name].append(1e3 * seconds(lambda: steps(count), device) / count)  # noqa: B023
    return {name: statistics.median_low(values) for name, values in times.items()}


def _captured_ceiling(config: TrainingConfig, classes: int, workers: Workers) -> Callable[[int], None]:
    """Forward, backward and update on one batch that is there already, as one graph."""
    if workers.device.type != "cuda":
        return Ceiling(config, classes, workers.device).run
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        ceiling = Ceiling(config, classes, workers.device)
        ceiling.run(WARM)
        replay = captured.capture(lambda: ceiling.run(1))

    def run(steps: int) -> None:
        with torch.cuda.stream(stream):
            for _ in range(steps):
                replay()

    return run


def conventional_time(config: TrainingConfig, dataset: Dataset, effort: Effort) -> dict[str, float]:
    """The conventional trainer beside ours, in turns."""
    workers = alone(config.run.device)
    images, labels = dataset.train_images, dataset.train_labels
    opponent = ConventionalTrainer(config, images, labels, len(dataset.classes), workers.device)
    with contextlib.closing(opponent), settings_of_run(exact=False):
        opponent.run(2)
        ours = Run(config, dataset, workers)
        return in_turns({"captured": ours.steps, "conventional": opponent.run}, effort, workers.device)


def packed_times(config: TrainingConfig, dataset: Dataset, effort: Effort) -> Iterator[tuple[str, dict[str, float]]]:
    """K runs of other seeds on K streams: milliseconds in which each has made one step, and images a second gained."""
    workers = alone(config.run.device)
    with settings_of_run(exact=False):
        runs = [Run(_seeded(config, seed), dataset, workers) for seed in range(max(effort.packed))]
        alone_ms = 0.0
        for count in effort.packed:

            def steps(number: int, count: int = count) -> None:
                for _ in range(number):
                    for run in runs[:count]:
                        with run.current():
                            run.steps(1)

            milliseconds = in_turns({"round": steps}, effort, workers.device)["round"]
            alone_ms = alone_ms or milliseconds
            yield f"{count} side by side", {"round": milliseconds, "gain": count * alone_ms / milliseconds}


def _seeded(config: TrainingConfig, seed: int) -> TrainingConfig:
    return replace(config, run=replace(config.run, seed=seed))


def epoch_time(config: TrainingConfig, dataset: Dataset) -> dict[str, float]:
    """Seconds of a whole epoch's training and of its evaluation; of 200 epochs, both together."""
    workers = alone(config.run.device)
    with settings_of_run(exact=False), own_stream(workers.device, exact=False):
        training = Training(config, dataset, workers)
        for _ in range(2):  # the first one captures
            training.start_epoch()
            first, last = training.step, training.plan.first_step(training.epoch + 1)
            train = seconds(lambda: [training.update() for _ in range(first, last)], workers.device)  # noqa: B023
            evaluate = seconds(lambda: training.test.evaluate(training.network, training.autocast()), workers.device)
    return {
        "training": train,
        "evaluation": evaluate,
        "share": evaluate / train,
        "200 epochs": 200 * (train + evaluate),
    }


def agreement(config: TrainingConfig, dataset: Dataset, steps: int = 50) -> dict[str, Any]:
    """The relative differences between the losses of a GPU and a CPU, in float64, with a warm-up.

    Of the GPU's, with and without cuDNN: which of the two has its convolutions and its batch norm shows whose kernels
    part from a CPU's.
    """
    config = config.override(
        {"run.precision": "float64", "schedule.warmup_iterations": 10, "data.batch_size": 32, "run.epochs": 200}
    )

    def curve(device: str, cudnn: bool) -> list[float]:
        workers = alone(device)
        by_cudnn = torch.backends.cudnn.flags(enabled=cudnn, deterministic=True, allow_tf32=False)
        with settings_of_run(exact=False), own_stream(workers.device, exact=False), by_cudnn:
            training, losses = Training(config, dataset, workers), []
            for _ in range(steps):
                training.start_epoch()
                losses.append(training.update().item())
        return losses

    expected = curve("cpu", True)
    found = {}
    for name, cudnn in (("by step", True), ("by step, without cuDNN", False)):
        losses = curve(config.run.device, cudnn)
        found[name] = [abs(a - b) / abs(b) for a, b in zip(losses, expected, strict=True)]
    most = {"difference": max(found["by step"]), "without cuDNN": max(found["by step, without cuDNN"])}
    return {"steps": steps, **most, **found}
