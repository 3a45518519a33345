"""Experiments: the registry, settings given at launch, and the trials that an experiment stands for."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from resnet_dist.configuration.identity import NOT_IDENTITY
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import ConfigurationError
from resnet_dist.installed_packages import version
from resnet_dist.plurals import counted
from resnet_dist.storage.interface import LAYOUT
from tune_jobs.grid.experiment_file import (
    Deviation,
    Experiment,
    Table,
    naming,
    registry,
    require_possible,
    with_configs,
)
from tune_jobs.grid.trial_names import settings_identity, trial_names


@dataclass(frozen=True)
class Trial:
    """One training run of an experiment."""

    config: TrainingConfig
    name: str
    """What varies in the experiment, and the seed: `relu/bn-before/seed-0`."""
    cell: str = ""
    """Id that the trial has with the first seed: the same for all seeds of a cell."""

    @property
    def trial_id(self) -> str:
        """Hash of what determines the trial's numbers."""
        return self.config.trial_id()


def registered() -> tuple[str, ...]:
    """Names of the packaged experiments."""
    return tuple(registry())


def load_experiment(
    asked: Experiment | str, overrides: Mapping[str, Any] | None = None, epochs: int | None = None
) -> Experiment:
    """An experiment: a packaged one by name, a user's TOML file, or one that is read already.

    `epochs` shortens (or lengthens) every cell with its milestones; `overrides`, as {"section.field": value},
    then replace settings of every cell. Raises a `ConfigurationError` of one line for any mistake.
    """
    declared = asked if isinstance(asked, Experiment) else Experiment.from_file(asked)
    if epochs is not None and epochs < 1:
        raise ConfigurationError(f"epochs: {epochs} is not allowed; it must be at least 1")
    if "run.seed" in (overrides or {}):
        raise ConfigurationError("run.seed: an experiment does not set it; a launch is told how many seeds to run")
    settings = dict(overrides or {})

    def changed(config: TrainingConfig) -> TrainingConfig:
        # Shortened first, so that milestones and epochs that the user names are taken as they are.
        return (config if epochs is None else config.shortened(epochs)).override(settings)

    tables = with_configs(declared, changed).tables
    for table in tables:
        with naming(f"{declared.name}: table {table.name!r}"):
            _refuse_equal_cells(table)
    return replace(declared, tables=tables, deviations=_deviations(declared.tables, tables))


def _refuse_equal_cells(table: Table) -> None:
    seen: dict[str, str] = {}
    for cell in table.cells:
        key = repr(settings_identity(cell.config))
        if key in seen:
            raise ConfigurationError(
                f"cells {seen[key]!r} and {cell.label!r} are the same trial; let them differ in something that "
                f"changes results ({', '.join(name for name in NOT_IDENTITY if name != 'data.source')} do not)"
            )
        seen[key] = cell.label


def _deviations(declared: tuple[Table, ...], actual: tuple[Table, ...]) -> tuple[Deviation, ...]:
    found: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    unimportant = {*NOT_IDENTITY, "data.fingerprint"} - {"data.source"}
    for before, after in zip(declared, actual, strict=True):
        references = TrainingConfig().override(dict(before.reference_settings)).to_flat_dict()
        for cell, changed in zip(before.cells, after.cells, strict=True):
            recipe = cell.config.to_flat_dict()
            if cell.reference is not None or cell.paper is not None:
                recipe |= {name: references[name] for name, _ in before.reference_settings}
            for setting, value in changed.config.to_flat_dict().items():
                if setting not in unimportant and recipe[setting] != value:
                    old, new = found.setdefault(setting, ({}, {}))
                    old[repr(recipe[setting])] = recipe[setting]
                    new[repr(value)] = value
    return tuple(Deviation(setting, tuple(old.values()), tuple(new.values())) for setting, (old, new) in found.items())


def on_known_images(experiment: Experiment, name: str) -> Experiment:
    """The experiment as it is on images that its recipe and its references know by this name, wherever they lie."""
    other = (one for one in experiment.deviations if (one.setting, one.recipe) != ("data.source", (name,)))
    return replace(experiment, deviations=tuple(other))


def trials(experiment: Experiment, seeds: int) -> tuple[Trial, ...]:
    """Every trial of an experiment once, in the order of its tables, seeds 0 to `seeds - 1` of each cell.

    The configuration of a `folder:` source must carry its data's fingerprint.
    """
    if seeds < 1:
        raise ConfigurationError(f"seeds: {seeds} is not allowed; it must be at least 1")
    # Cells that stand in several tables are one trial; the first decides settings such as run.workers.
    unique: dict[str, TrainingConfig] = {}
    for table in experiment.tables:
        for cell in table.cells:
            unique.setdefault(cell.config.trial_id(), cell.config)
    require_possible(
        seeds * len(unique), f"{counted(seeds, 'seed')} of {counted(len(unique), 'configuration')} are", "trials"
    )
    names = trial_names(list(unique.values()))
    assert len(set(names)) == len(names), "two trials have one name"
    return tuple(
        Trial(with_seed(config, seed), f"{name}/seed-{seed}" if name else f"seed-{seed}", cell)
        for (cell, config), name in zip(unique.items(), names, strict=True)
        for seed in range(seeds)
    )


def keep_names(expanded: Sequence[Trial], earlier: Mapping[str, Mapping[str, Any]]) -> tuple[Trial, ...]:
    """The trials under the names of an earlier launch, which has `earlier` by id, and their further seeds likewise.

    A name says what varies in an experiment, so whatever is added to one would give its trials other names.
    """
    if not earlier:
        return tuple(expanded)
    stems = {}
    for trial in expanded:
        if trial.trial_id in earlier:
            stem, found, _ = str(earlier[trial.trial_id]["name"]).rpartition(f"seed-{trial.config.run.seed}")
            if found:
                stems[trial.cell] = stem
    taken = set(stems.values())
    named = []
    for trial in expanded:
        own = trial.name.removesuffix(f"seed-{trial.config.run.seed}")
        kept = stems.get(trial.cell)
        # A new one does not take the name of another.
        new = own if own not in taken else f"{own}{trial.cell[:8]}/"
        stem = new if kept is None else kept
        named.append(replace(trial, name=f"{stem}seed-{trial.config.run.seed}"))
    return tuple(named)


def with_seed(config: TrainingConfig, seed: int) -> TrainingConfig:
    """The same cell with another seed."""
    return replace(config, run=replace(config.run, seed=seed))


def experiment_record(
    experiment: Experiment,
    seeds: int,
    overrides: Mapping[str, Any] | None = None,
    scheduler: str = "fifo",
    names: Mapping[str, str] | None = None,
    asked_epochs: int | None = None,
) -> dict[str, Any]:
    """What `experiment.json` holds: all that a report needs to know of what was asked.

    `names` are those of trials by id, where a plan has them; `asked_epochs` is what shortened the experiment.
    """
    ids: dict[str, list[str]] = {}
    runs = {}
    for trial in trials(experiment, seeds):
        ids.setdefault(trial.cell, []).append(trial.trial_id)
        runs[trial.trial_id] = {"name": (names or {}).get(trial.trial_id, trial.name), "config": trial.config.to_dict()}
    epochs = {cell.config.run.epochs for table in experiment.tables for cell in table.cells}
    return {
        "layout": LAYOUT,
        "experiment": experiment.name,
        "title": experiment.title,
        "description": experiment.description,
        "seeds": seeds,
        "planned_seeds": max(seeds, experiment.seeds),
        "epochs": epochs.pop() if len(epochs) == 1 else None,
        "asked_epochs": asked_epochs,
        "overrides": dict(overrides or {}),
        "deviations": [asdict(deviation) for deviation in experiment.deviations],
        "tables": [
            {
                "name": table.name,
                "title": table.title,
                "caption": table.caption,
                "baseline": table.baseline or table.cells[0].label,
                **({"paired": True} if table.paired else {}),
                "cells": [
                    {
                        "label": cell.label,
                        "reference": cell.reference,
                        "paper": cell.paper,
                        "trials": ids[cell.config.trial_id()],
                    }
                    for cell in table.cells
                ],
            }
            for table in experiment.tables
        ],
        "trials": runs,
        "versions": {
            "python": platform.python_version(),
            "resnet_dist": version("resnet-dist"),
            "torch": version("torch"),
            "ray": version("ray"),
        },
        **({} if scheduler == "fifo" else {"scheduler": scheduler}),
    }
