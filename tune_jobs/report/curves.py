"""The curves of a table: means over seeds with their range, epoch by epoch, before anything is drawn."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tune_jobs.report.summary import CellSummary, TableSummary
from tune_jobs.results.trials import TrialResults

Measure = Literal["train-loss", "test-error"]
MEASURES: tuple[Measure, ...] = ("train-loss", "test-error")

_KEYS: dict[Measure, tuple[str, float]] = {"train-loss": ("train_loss", 1.0), "test-error": ("top1_error", 100.0)}


@dataclass(frozen=True)
class Curve:
    """One line: the mean of a cell's seeds, their range, and each of them."""

    label: str
    epochs: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]
    by_seed: list[list[float]]

    @property
    def seeds(self) -> int:
        """How many there are."""
        return len(self.by_seed)

    @property
    def has_band(self) -> bool:
        """Whether the seeds differ anywhere."""
        return self.low != self.high


def cell_curve(cell: CellSummary, measure: Measure) -> Curve | None:
    """Mean and range over the seeds that have finished, which are those of the table.

    While none has, over those that have begun and not failed, as far as all of them have come. Losses are nats, errors
    per cent. None while no such seed has recorded an epoch.
    """
    key, scale = _KEYS[measure]
    begun = [trial for trial in cell.trials if trial.metrics]
    finished = [trial for trial in begun if trial.state == "finished"]
    running = [trial for trial in begun if trial.state not in ("failed", "early-stopped")]
    seeds = [_points(trial, key) for trial in finished or running]
    epochs = sorted(set.intersection(*(set(points) for points in seeds))) if seeds else []
    if not epochs:
        return None
    values = [[points[epoch] * scale for points in seeds] for epoch in epochs]
    return Curve(
        cell.label,
        epochs,
        [math.fsum(row) / len(row) for row in values],
        [min(row) for row in values],
        [max(row) for row in values],
        [list(run) for run in zip(*values, strict=True)],
    )


def _points(trial: TrialResults, key: str) -> dict[int, float]:
    return {int(row["epoch"]): row[key] for row in trial.metrics if math.isfinite(row[key])}


def table_curves(table: TableSummary, measure: Measure) -> list[Curve]:
    """The curves of a table's cells, of those that have any."""
    return [curve for cell in table.cells if (curve := cell_curve(cell, measure))]


def best_curves(curves: Sequence[Curve], most: int) -> list[Curve]:
    """Those that have come furthest and are lowest there."""
    return sorted(curves, key=lambda curve: (-curve.epochs[-1], curve.mean[-1]))[:most]


@dataclass(frozen=True)
class Envelope:
    """The distribution of many curves, epoch by epoch."""

    epochs: list[int]
    low: list[float]
    lower_quartile: list[float]
    upper_quartile: list[float]
    high: list[float]


def envelope(curves: Sequence[Curve]) -> Envelope:
    """Range and middle half of the curves' means at each epoch that any of them has reached."""
    import numpy as np

    by_epoch: dict[int, list[float]] = {}
    for curve in curves:
        for epoch, value in zip(curve.epochs, curve.mean, strict=True):
            by_epoch.setdefault(epoch, []).append(value)
    epochs = sorted(by_epoch)
    quartiles = np.array([np.percentile(by_epoch[epoch], (0, 25, 75, 100)) for epoch in epochs])
    return Envelope(epochs, *(column.tolist() for column in quartiles.T))


def rate_drops(table: TableSummary) -> list[int]:
    """Epochs after which the learning rate falls in any trial that has recorded one."""
    drops: set[int] = set()
    for cell in table.cells:
        for trial in cell.trials:
            schedule = trial.config["schedule"]
            if trial.metrics and schedule["kind"] == "step" and schedule["gamma"] < 1:
                drops |= {milestone for milestone in schedule["milestones"] if milestone < trial.epochs}
    return sorted(drops)


def steps_per_epoch(table: TableSummary) -> float | None:
    """Iterations in an epoch, if all trials agree on them."""
    ratios = {
        round(trial.metrics[-1]["step"] / trial.metrics[-1]["epoch"])
        for cell in table.cells
        for trial in cell.trials
        if trial.metrics and trial.metrics[-1].get("step")
    }
    if len(ratios) != 1:
        return None
    # Epochs of 390 and 391 steps alternate where batches are drawn with replacement: the longest run has the mean.
    step, epoch = max(
        (trial.metrics[-1]["step"], trial.metrics[-1]["epoch"])
        for cell in table.cells
        for trial in cell.trials
        if trial.metrics and trial.metrics[-1].get("step")
    )
    return float(step / epoch)
