"""What was trained, on what and for how long: the settings that all trials share, and those in which rows differ."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from resnet_dist.configuration.identity import NOT_IDENTITY
from resnet_dist.configuration.training import TrainingConfig
from tune_jobs.report.notices import shown_source
from tune_jobs.results.trials import ExperimentResults

_UNSAID = {"data.fingerprint", "code.fingerprint", "run.seed", "run.virtual_shards", *NOT_IDENTITY} - {"data.source"}
"""Settings that stand beside each trial, or change nothing."""


def recipe(results: ExperimentResults) -> str:
    """A paragraph for readers who have not seen the experiment's file. What differs from row to row stands there."""
    shared = _shared(results.record)

    def said(*parts: tuple[str, str]) -> str:
        """Each part whose settings all trials share, `{}` in it the value."""
        return ", ".join(text.format(_word(shared[name])) for name, text in parts if shared.get(name) is not None)

    source = shared.get("data.source")
    size = shared.get("data.size")
    images = f"{_images(results)}images" + (f" of {size}×{size} pixels" if size else "")
    data = f"{shown_source(str(source))}, {images}" if source else images
    shift = ("data.shift", "shifts up to {} pixels")
    how = said(
        ("data.sampling", "sampling: {}"),
        shift if shared.get("data.augmentation", "shift") == "shift" else ("data.augmentation", "crops: {}"),
        ("data.flip", "flips: {}"),
        ("data.batch_size", "{} a batch"),
    )
    block = shared.get("network.block") or shared.get("network.family", "residual")
    network = said(("network.depth", "{} layers"), ("network.width", "{} channels in the first group"))
    network += f", {block}" if block != "residual" else ""
    training = said(
        ("run.epochs", "{} epoch" if shared.get("run.epochs") == 1 else "{} epochs"),
        ("run.precision", "{}"),
        ("solver.kind", "{}"),
        ("solver.learning_rate", "learning rate {}"),
        ("solver.weight_decay", "weight decay {}"),
    )
    return f"Data: {data}; {how}. Network: {network}. Training: {training}{_schedule(shared)}."


def row_settings(table: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """In what a table and each of its rows differ from what all trials share, a sentence; empty if in nothing."""
    shared = _shared(record)
    rows = {str(cell["label"]): _flat(record["trials"][cell["trials"][0]]["config"]) for cell in table["cells"]}
    own = [name for name in next(iter(rows.values())) if name not in shared and name not in _UNSAID]
    varying = [name for name in own if len({_word(row[name]) for row in rows.values()}) > 1]

    def listed(row: Mapping[str, Any], names: list[str]) -> str:
        return ", ".join(f"{name} = {_word(row[name])}" for name in names if row[name] not in (None, ""))

    first = next(iter(rows.values()))
    said = [("All rows", listed(first, [name for name in own if name not in varying]))]
    said += [(label, listed(row, varying)) for label, row in rows.items()]
    told = "; ".join(f"{label}: {text}" for label, text in said if text)
    return f"Settings: {told}." if told else ""


def _schedule(shared: Mapping[str, Any]) -> str:
    warmup = f", warm-up over {updates} updates" if (updates := shared.get("schedule.warmup_iterations")) else ""
    kind = shared.get("schedule.kind")
    if kind not in (None, "step"):
        return f", {kind} schedule{warmup}"
    drops, factor = shared.get("schedule.milestones"), shared.get("schedule.gamma")
    if drops is None or factor is None:
        return warmup
    where = "" if kind else " (in rows whose schedule is step)"
    at = "epoch" if len(drops) == 1 else "epochs"
    return f", rate × {factor} at {at} {_word(drops)}{where}{warmup}" if drops else f", rate never lowered{warmup}"


def _shared(record: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that have one value in all trials."""
    every = [_flat(trial["config"]) for trial in record["trials"].values()]
    return {name: value for name, value in every[0].items() if all(one[name] == value for one in every)}


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """{"section.field": value}; what an earlier version did not know has its default."""
    return {
        f"{section}.{name}": config.get(section, {}).get(name, value)
        for section, defaults in _defaults().items()
        for name, value in defaults.items()
    }


@cache
def _defaults() -> dict[str, Any]:
    return TrainingConfig().to_dict()


def _images(results: ExperimentResults) -> str:
    """How many images there were, where a trial's provenance tells."""
    told = next((trial.provenance["images"] for trial in results.trials.values() if "images" in trial.provenance), None)
    if told is None:
        return ""
    held = f", {told['validation']:,} to validate" if told.get("validation") else ""
    return f"{told['train']:,} to train{held} and {told['test']:,} to test, of {told['classes']} classes: "


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
