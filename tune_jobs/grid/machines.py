"""What is known of machines that are not at hand: measured constants, each with its source (`machines.toml`)."""

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnet_dist.configuration.network import NetworkConfig
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import UserError
from resnet_dist.nearest_name import suggestion
from tune_jobs.grid.calibration import Calibration, Cost

FILE = Path(__file__).with_suffix(".toml")

HERE = "here"
"""Name of the machine that this is, whose updates are measured."""


@functools.cache
def constants() -> dict[str, Any]:
    """The file, as it is."""
    return tomllib.loads(FILE.read_text())


@dataclass(frozen=True)
class Machine:
    """A device whose updates were measured."""

    name: str
    title: str
    source: str
    memory: float
    """Bytes."""
    batch_size: int
    evaluation_cost: float
    """Of an image, beside that of training on it."""
    eager_milliseconds: float
    """That an update takes at least which is not captured, as those of several workers are not."""
    milliseconds: Mapping[str, Mapping[int, float]]
    """Of an update, by precision and depth; the first precision has all depths."""
    side_by_side: Mapping[int, float]
    """What so many runs on one device do in an hour, beside one alone."""
    notes: dict[str, None] = field(default_factory=dict)
    """What was taken for want of a measurement, in words, in the order in which it was needed."""

    def calibration(self, slots: int) -> Calibration:
        """As if so many of them were the cluster at hand."""
        return _Tabulated(self.title, slots, self._cost, self.evaluation_cost, int(self.memory))

    def _cost(self, config: TrainingConfig) -> Cost:
        return Cost(self.update(config) / 1000, 0, 4 * _weights(config.network))

    def update(self, config: TrainingConfig) -> float:
        """Milliseconds of an update on one device."""
        _require_studys(config, self.name)
        depth, precision, workers = config.network.depth, config.run.precision, config.run.workers
        if precision not in self.milliseconds:
            raise UserError(
                f"on: updates in {precision} were not measured on {self.name}; give run.precision "
                f"{' or '.join(self.milliseconds)}"
            )
        whole = next(iter(self.milliseconds.values()))
        known = self.milliseconds[precision]
        time = self._at(whole, depth)
        if known is not whole and depth not in known:
            (at, measured), *_ = known.items()
            time *= measured / whole[at]
            self.notes[
                f"{precision} measured at {at} layers alone: other depths take {measured / whole[at]:.2f} times "
                f"their {next(iter(self.milliseconds))}"
            ] = None
        elif known is not whole:
            time = known[depth]
        if config.data.batch_size != self.batch_size:
            time *= config.data.batch_size / self.batch_size
            self.notes[f"updates of {config.data.batch_size} images in proportion to those of {self.batch_size}"] = None
        if workers > 1 and time / workers < self.eager_milliseconds:
            time = self.eager_milliseconds * workers
            self.notes[
                "several workers on GPUs were never measured: no update of theirs is taken to be shorter than an "
                f"eager one, {self.eager_milliseconds:g} ms"
            ] = None
        return time

    def _at(self, known: Mapping[int, float], depth: int) -> float:
        """Between two depths, or beyond the last ones, on the line through the nearest two."""
        if depth in known:
            return known[depth]
        depths = sorted(known)
        above = next((index for index, each in enumerate(depths) if each > depth), len(depths) - 1)
        low, high = depths[max(0, above - 1)], depths[max(1, above)]
        self.notes[f"{depth} layers on the line through {low} and {high}, which were measured"] = None
        return known[low] + (known[high] - known[low]) * (depth - low) / (high - low)


class _Tabulated(Calibration):
    """Looked up anew in each plan, and not remembered on disk."""

    def __call__(self, config: TrainingConfig) -> Cost:
        return self.measure(config)


def machine(name: str) -> Machine:
    """One of the file, by its name in any case. Raises a `UserError` that lists them for another."""
    known = {each["name"]: each for each in constants()["machine"]}
    found = next((each for each in known.values() if each["name"].lower() == name.lower()), None)
    if found is None:
        names = [*known, HERE]
        raise UserError(
            f"on: updates on {name!r} were never measured; known are {', '.join(names)}{suggestion(name, names)}"
        )
    by_depth = {
        precision: {int(depth): time for depth, time in times.items()}
        for precision, times in found["milliseconds"].items()
    }
    together = {int(count): gain for count, gain in found["side_by_side"].items()}
    return Machine(**(found | {"milliseconds": by_depth, "side_by_side": together}))


def _require_studys(config: TrainingConfig, name: str) -> None:
    network, data = config.network, config.data
    usual = NetworkConfig()
    other = (
        f"network.family {network.family}"
        if network.family != usual.family or network.block
        else f"network.width {network.width}"
        if network.channels != usual.channels
        else f"data.size {data.size}"
        if data.size != 32
        else "run.exact"
        if config.run.exact
        else "run.device cpu"
        if config.run.device == "cpu"
        else ""
    )
    if other:
        raise UserError(f"on: {other} was not measured on {name}; only the study's networks on 32x32 images were")


@functools.cache
def _weights(network: NetworkConfig) -> int:
    from resnet_dist.configuration.batch_norm import BatchNormConfig
    from resnet_dist.networks.construction import make_network, parameter_count

    return parameter_count(make_network(network, BatchNormConfig(), classes=10))
