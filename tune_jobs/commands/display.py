"""What a terminal shows while a run or a grid goes on: a bar, and a line an epoch; in a file the lines alone."""

import logging
import sys
import time
from typing import Any, Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from resnet_dist.logs import structured
from resnet_dist.records.trial_record import error_text
from tune_jobs.commands.terminal import Terminal
from tune_jobs.grid.experiment import Trial
from tune_jobs.grid.observer import Observer

LOGGER = logging.getLogger(__name__)

STYLES = {logging.WARNING: "yellow", logging.ERROR: "red"}


class _Display:
    """A bar, begun by whoever has something to show, and gone at the end of the block; and lines."""

    def __init__(self, console: Terminal, unit: str, total: int | None, *columns: ProgressColumn) -> None:
        self.console = console
        self.bar = Progress(
            TextColumn(unit),
            MofNCompleteColumn(),
            BarColumn(),
            *columns,
            console=console,
            transient=True,
            redirect_stderr=sys.stderr.isatty(),  # what goes to a file stays in it
            disable=not console.is_terminal or console.quiet,
        )
        self.task = self.bar.add_task(unit, total=total, detail="")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line."""
        self.console.say(text, style)


class RunDisplay(_Display):
    """Of one run."""

    def __init__(self, console: Terminal, epochs: int) -> None:
        super().__init__(console, "epoch", epochs, TextColumn("{task.fields[detail]}"), TimeRemainingColumn())
        self.epochs = epochs
        self.shown = 0.0

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def step(self, step: int, loss: Any) -> None:
        """Show the newest loss, at most twice a second: reading it waits for the device."""
        if not self.bar.disable and time.monotonic() - self.shown > 0.5:
            self.shown = time.monotonic()
            self.bar.update(self.task, detail=f"step {step}, loss {loss.sum().item():.3f}")

    def epoch(self, line: dict[str, Any]) -> None:
        """Print an epoch's line."""
        self.bar.update(self.task, completed=line["epoch"])
        if structured():  # the log has it already
            return
        self.say(
            f"epoch {line['epoch']:>3}/{self.epochs}  step {line['step']:>6}  lr {line['learning_rate']:<6g} "
            f"train loss {line['train_loss']:.4f}  test error {error_text(line):>8} "
            f"(top-5 {error_text(line, 'top5_error')})  {line['images_per_second']:.0f} images/s"
        )


class GridDisplay(_Display):
    """Of a grid, over the epochs of all its trials."""

    def __init__(self, console: Terminal, experiment: str) -> None:
        super().__init__(console, "epochs", None, TimeElapsedColumn(), TextColumn("{task.fields[detail]}"))
        self.experiment = experiment
        self.done: dict[str, int] = {}
        self.total = 0

    def observer(self) -> Observer:
        """Has this shown what happens."""
        return Observer(self.launch, self.start, self.result, self.failure, self.stop, self.trouble)

    def launch(self, trials: list[Trial]) -> None:
        """Start the bar, or say in a file or pipe what the first seconds go into."""
        self.done = {trial.trial_id: 0 for trial in trials}
        self.total = sum(trial.config.run.epochs for trial in trials)
        self.bar.update(self.task, total=self.total, detail="starting Ray")
        if trials:
            self.bar.start()
            if not self.console.is_terminal:
                self.say("Starting Ray")

    def start(self, trial: Trial) -> None:
        """Say that a worker group starts, which takes seconds, or longer where a node has to come first."""
        self.bar.update(self.task, detail="")
        if (workers := trial.config.run.workers) > 1:
            self._say(trial, f"{trial.name}: starting {workers} workers")

    def result(self, trial: Trial, line: dict[str, Any]) -> None:
        """Show a trial's newest epoch."""
        self.done[trial.trial_id] = max(self.done[trial.trial_id], line["epoch"])
        self.bar.update(self.task, completed=sum(self.done.values()))
        epochs = trial.config.run.epochs
        workers = f", {trial.config.run.workers} workers" if trial.config.run.workers > 1 else ""
        self._say(
            trial,
            f"[{sum(self.done.values()):>{len(str(self.total))}}/{self.total}] {trial.name}{workers}: "
            f"epoch {line['epoch']}/{epochs}, train loss {line['train_loss']:.4f}, "
            f"test error {error_text(line)}",
        )

    def stop(self, trial: Trial, reason: str) -> None:
        """Show that a search stopped a trial early."""
        self._say(trial, f"{trial.name}: {reason}")

    def failure(self, trial: Trial, reason: str) -> None:
        """Show that a trial failed; the others go on."""
        self._say(trial, f"{trial.name}: failed: {reason}", logging.ERROR)

    def trouble(self, trial: Trial, reason: str) -> None:
        """Show that a trial's records do not reach storage."""
        self._say(trial, f"{trial.name}: {reason}", logging.WARNING)

    def _say(self, trial: Trial, text: str, level: int = logging.INFO) -> None:
        if structured():
            LOGGER.log(level, text, extra={"fields": {"experiment": self.experiment, "trial": trial.trial_id}})
        else:
            self.say(text, STYLES.get(level))
