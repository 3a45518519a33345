"""Progress bars of a notebook, by its own display protocol; nothing where no notebook runs."""

import sys
import time
from html import escape
from importlib import import_module
from typing import Any

from resnet_dist.records.trial_record import error_text
from tune_jobs.grid.experiment import Trial
from tune_jobs.grid.observer import Observer

REDRAW_SECONDS = 0.2


class ProgressBar:
    """A bar in the output of a notebook's cell, drawn anew in place as work goes on."""

    def __init__(self, total: int, unit: str) -> None:
        self.total = total
        self.unit = unit
        self.done = 0
        self.said = ""
        self.started = time.monotonic()
        self.drawn = 0.0
        self.handle: Any = None

    def __enter__(self) -> "ProgressBar":
        self.handle = import_module("IPython.display").display(self, display_id=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.update(self)

    def show(self, done: int, said: str) -> None:
        """So much is done, and that is what there is to say of it."""
        self.done, self.said = done, said
        if self.handle and (done == self.total or time.monotonic() - self.drawn > REDRAW_SECONDS):
            self.drawn = time.monotonic()
            self.handle.update(self)

    def epoch(self, line: dict[str, Any]) -> None:
        """An epoch of one run has ended."""
        self.show(line["epoch"], f"training loss {line['train_loss']:.4f}, test error {error_text(line)}")

    def _repr_html_(self) -> str:
        bar = f'<progress value="{self.done}" max="{max(1, self.total)}"></progress>'
        return f"{bar} {self.done} of {self.total} {self.unit}, {self._seconds()} s. {escape(self.said)}"

    def __repr__(self) -> str:
        return f"{self.done} of {self.total} {self.unit}, {self._seconds()} s. {self.said}"

    def _seconds(self) -> int:
        return round(time.monotonic() - self.started)


def in_notebook() -> bool:
    """Whether this is the process behind a notebook, which shows what is displayed."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")


def training_display(epochs: int) -> ProgressBar | None:
    """A bar over the epochs of a run; None where no notebook runs."""
    return ProgressBar(epochs, "epochs") if in_notebook() else None


def grid_observer() -> Observer:
    """Shows a bar over the epochs of a grid, in a notebook; else nothing."""
    return _NotebookGrid().observer() if in_notebook() else Observer()


class _NotebookGrid:
    def __init__(self) -> None:
        self.done: dict[str, int] = {}
        self.bar = ProgressBar(0, "epochs")

    def observer(self) -> Observer:
        return Observer(
            on_launch=self.launch,
            on_start=self.start,
            on_result=self.result,
            on_failure=self.fail,
            on_trouble=self.fail,
        )

    def launch(self, trials: list[Trial]) -> None:
        self.done = {trial.trial_id: 0 for trial in trials}
        self.bar = ProgressBar(sum(trial.config.run.epochs for trial in trials), "epochs").__enter__()
        self.bar.show(0, "starting Ray")

    def start(self, trial: Trial) -> None:
        self.bar.show(sum(self.done.values()), f"{trial.name} starts")

    def result(self, trial: Trial, line: dict[str, Any]) -> None:
        self.done[trial.trial_id] = max(self.done[trial.trial_id], line["epoch"])
        said = f"{trial.name}: epoch {line['epoch']}, test error {error_text(line)}"
        self.bar.show(sum(self.done.values()), said)

    def fail(self, trial: Trial, reason: str) -> None:
        self.bar.show(sum(self.done.values()), f"{trial.name}: {reason}")
