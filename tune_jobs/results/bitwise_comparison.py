"""Two runs of one configuration, compared: metrics lines bit for bit, and final weights."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from resnet_dist.errors import StorageError
from tune_jobs.results.recorded_trial import RecordedTrial

TIMINGS = ("seconds", "images_per_second", "energy_joules")
"""Fields of a metrics line that no two runs share."""


@dataclass(frozen=True)
class Comparison:
    """How far the second run is the first."""

    first_epoch: int | None
    """The first epoch whose metrics differ; None if none does."""
    metrics: dict[str, tuple[Any, Any]]
    """`{name: (then, now)}` of the metrics that differ in that epoch."""
    top1_errors: tuple[float | None, float | None]
    """Test errors after the last epoch, then and now."""
    tensors: tuple[str, ...]
    """Weights and running statistics that differ."""
    largest_difference: float
    """Largest absolute difference of any of their numbers; infinite if shapes or names differ."""

    @property
    def identical(self) -> bool:
        """Whether every metric and every weight has the same bits."""
        return self.first_epoch is None and not self.tensors

    def lines(self) -> list[str]:
        """The comparison in words."""
        if self.identical:
            return ["Identical: every metric of every epoch and all weights have the same bits."]
        lines = []
        if self.first_epoch is not None:
            shown = ", ".join(f"{name} {old} then, {new} now" for name, (old, new) in self.metrics.items())
            lines.append(f"Different from epoch {self.first_epoch} on: {shown}")
        else:
            lines.append("The metrics of every epoch are identical.")
        old, new = self.top1_errors
        if old is not None and new is not None and old != new:
            lines.append(f"Test error at the end: {100 * old:.2f} % then, {100 * new:.2f} % now")
        if self.tensors:
            lines.append(f"Weights: {len(self.tensors)} tensors differ, by up to {self.largest_difference:.3g}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        plain = {"identical": self.identical, **asdict(self)}
        if math.isinf(self.largest_difference):
            plain["largest_difference"] = None
        return plain


def compare(then: RecordedTrial, now: RecordedTrial) -> Comparison:
    """Compare two finished runs of one configuration. Raises a `StorageError` if weights cannot be read."""
    epoch, metrics = _first_difference(then.metrics, now.metrics)
    tensors, largest = _weights(then, now)
    errors = tuple((trial.result or {}).get("top1_error") for trial in (then, now))
    return Comparison(epoch, metrics, (errors[0], errors[1]), tensors, largest)


def _first_difference(
    then: tuple[dict[str, Any], ...], now: tuple[dict[str, Any], ...]
) -> tuple[int | None, dict[str, tuple[Any, Any]]]:
    old, new = ({line["epoch"]: line for line in lines} for lines in (then, now))
    for epoch in sorted(old.keys() | new.keys()):
        a, b = old.get(epoch, {}), new.get(epoch, {})
        names = [name for name in (a or b) if name not in TIMINGS]
        names += [name for name in b if name not in a and name not in names and name not in TIMINGS]
        if differing := {name: (a.get(name), b.get(name)) for name in names if a.get(name) != b.get(name)}:
            return epoch, differing
    return None, {}


def _weights(then: RecordedTrial, now: RecordedTrial) -> tuple[tuple[str, ...], float]:
    import torch

    old, new = _decode(then), _decode(now)
    differing, largest = [], 0.0
    for name in sorted(old.keys() | new.keys()):
        a, b = old.get(name), new.get(name)
        if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
            differing.append(name)
            largest = math.inf
        elif not torch.equal(a, b):
            differing.append(name)
            difference = (a.double() - b.double()).abs().max().item()
            largest = max(largest, math.inf if math.isnan(difference) else difference)
    return tuple(differing), largest


def _decode(trial: RecordedTrial) -> dict[str, Any]:
    from resnet_dist.records.checkpoints import decode

    model = trial.require_sound_model()
    try:
        weights = decode(model)["network"]
        return {
            name: weights[name] for name in weights if not name.endswith("num_batches_tracked")
        }  # not in older files
    except Exception as error:  # torch names damage by errors of many kinds
        raise StorageError(f"{trial.place}model.pt: cannot be read: {type(error).__name__}") from None
