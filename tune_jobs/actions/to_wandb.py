"""Finished trials written as offline runs of Weights & Biases, which `wandb sync` uploads."""

import shutil
from pathlib import Path
from typing import Any

from cluster.storage.keys import BrowsableStorage
from tune_jobs.actions.callbacks import Say
from tune_jobs.actions.hand_over import Given, HandedOver, hand_over, missing

COMPLETE = "resnet_dist.complete"
"""The file in a run's directory that says that all of it is there."""


def to_wandb(storage: BrowsableStorage, name: str, directory: Path, say: Say) -> HandedOver:
    """Write the finished trials of an experiment as runs of the project of its name, below `<directory>/wandb/`.

    Nothing is sent, and nothing of this machine is recorded. Raises a `UserError` if wandb is not installed.
    """
    try:
        import wandb
    except ImportError:
        raise missing("wandb", "wandb") from None
    settings: Any = wandb.Settings(
        mode="offline",
        silent=True,
        console="off",
        disable_git=True,
        save_code=False,
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
    )

    def there(trial_id: str) -> bool:
        """Whether the trial has a run; one that an interrupted hand-over left is removed."""
        complete = False
        for run in (directory / "wandb").glob(f"offline-run-*-{trial_id}"):
            if (run / COMPLETE).exists():
                complete = True
            else:
                shutil.rmtree(run)
        return complete

    def give(given: Given) -> None:
        trial = given.trial
        notes = {"resnet_dist": {"trial": trial.trial_id, "cells": given.cells, **given.origin}}
        with wandb.init(
            project=name,
            id=trial.trial_id,
            name=trial.name,
            dir=str(directory),
            config=trial.config.to_dict() | notes,
            settings=settings,
        ) as run:
            for epoch, _, numbers in given.epochs:
                run.log(numbers, step=epoch)
            for file in sorted(given.files.iterdir()):
                run.save(str(file), base_path=str(given.files), policy="now")
            written = Path(run.dir).parent
        for link in (written / "files").iterdir():  # to files that go when this is over
            if link.is_symlink():
                content = link.read_bytes()
                link.unlink()
                link.write_bytes(content)
        (written / COMPLETE).touch()

    directory.mkdir(parents=True, exist_ok=True)
    return hand_over(storage, name, f"{directory}/wandb, project {name}", there, give, say)
