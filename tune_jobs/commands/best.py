"""`resnet-dist results STORAGE/EXPERIMENT --best`: the trial that is best by a measure, and how sure that is."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from resnet_dist.errors import UserError
from resnet_dist.plurals import counted
from tune_jobs.report.statistics import summarise, t_quantile
from tune_jobs.results.trials import TrialResults

MEASURES = ("top1_error", "top5_error", "validation_error", "best_top1_error", "test_loss", "train_loss")
"""Of a result, smaller is better; the first is the default."""


def best(record: Mapping[str, Any], trials: Iterable[TrialResults], measure: str) -> dict[str, Any]:
    """The best finished trial, its interval over the images, and that of its rows over their seeds.

    Raises a `UserError` if no trial has the measure.
    """
    finished = {trial.trial_id: trial for trial in trials if trial.counts}
    values = {trial_id: trial.result.get(measure) for trial_id, trial in finished.items()}
    known = {trial_id: float(value) for trial_id, value in values.items() if value is not None and math.isfinite(value)}
    if not known:
        raise UserError(f"{record['experiment']}: no finished trial has a {measure}")
    trial_id = min(known, key=lambda one: (known[one], one))
    images = finished[trial_id].provenance.get("images", {})
    count = images.get("validation" if measure == "validation_error" else "test")
    is_error = measure.endswith("_error")
    resolution, largest = (1 / count if count else 0.0, 1.0) if is_error else (0.0, math.inf)
    rows = []
    for table in record["tables"]:
        for cell in table["cells"]:
            if trial_id in cell["trials"]:
                row = summarise([known[one] for one in cell["trials"] if one in known], resolution, largest)
                interval = None if row.low is None else (row.low, row.high)
                said = {"table": table["name"], "row": cell["label"], "n": row.n, "mean": row.mean}
                rows.append(said | {"interval": interval})
    return {
        "measure": measure,
        "trial": trial_id,
        "name": finished[trial_id].name,
        "value": known[trial_id],
        "interval": wilson(known[trial_id], count) if count and is_error else None,
        "images": count,
        "of_trials": len(known),
        "equal": sorted(one for one in known if known[one] == known[trial_id] and one != trial_id),
        "rows": rows,
    }


def wilson(fraction: float, images: int) -> tuple[float, float]:
    """95 % interval of an error that was counted over so many images (Wilson 1927)."""
    z = t_quantile(0.975, math.inf)
    centre, scale = fraction + z * z / (2 * images), 1 + z * z / images
    half = z * math.sqrt(fraction * (1 - fraction) / images + (z / (2 * images)) ** 2)
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def lines(found: Mapping[str, Any]) -> Iterable[str]:
    """The answer in words."""
    measure = found["measure"]

    def shown(value: float) -> str:
        return f"{100 * value:.2f} %" if measure.endswith("_error") else f"{value:.4f}"

    yield f"{found['trial']} ({found['name']}): {measure} {shown(found['value'])}"
    if found["interval"]:
        low, high = found["interval"]
        yield f"  95 % interval over its {found['images']:,} images: {shown(low)} to {shown(high)}"
    for row in found["rows"]:
        said = f"mean {shown(row['mean'])} of {counted(row['n'], 'seed')}"
        if row["interval"]:
            low, high = row["interval"]
            said += f", 95 % interval {shown(low)} to {shown(high)}"
        yield f"  its row, {row['table']}: {row['row']}: {said}"
    if equal := found["equal"]:
        have = "has" if len(equal) == 1 else "have"
        yield f"  {counted(len(equal), 'other trial')} {have} the same: {', '.join(equal)}"
    if found["of_trials"] > 1:
        yield f"  the best of {found['of_trials']} trials was chosen by this number, and so looks better than it is"
