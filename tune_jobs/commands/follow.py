"""`grid status --follow` and `grid report --follow`: look again and again, until nothing is left to wait for.

A launch that has just begun has not told storage yet what it will run: it is waited for.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cluster.storage.keys import BrowsableStorage
from cluster.storage.lease import is_held
from resnet_dist.durations import in_words
from resnet_dist.errors import StorageError
from resnet_dist.plurals import counted
from resnet_dist.storage.interface import Storage, experiment_key
from tune_jobs.actions.results import asked_name, others
from tune_jobs.commands.terminal import Terminal
from tune_jobs.report.write import Report
from tune_jobs.results.time_left import Look, Watch, seconds_an_epoch
from tune_jobs.results.trials import TrialResults, tally

SECONDS = 5
"""Between two looks, if nothing else is asked for."""
MOST_WAITING = 3
"""Trials that wait and are named."""


def launched(experiment: str, storage: BrowsableStorage, seconds: float, console: Terminal) -> str:
    """The name under which an experiment is stored, once its launch has put it there; says so if it has to wait."""
    name = asked_name(experiment)
    if storage.get(experiment_key(name)) is None:
        said = f"{name}: waiting for its launch; {storage.uri} holds {others(name, storage)}"
        console.say(said)
    while storage.get(experiment_key(name)) is None:
        time.sleep(seconds)
    return name


def follow_status(storage: Storage, name: str, seconds: float, console: Terminal) -> None:
    """Show one table that refreshes, or in a file or pipe a line whenever an epoch has ended."""
    watch = Watch(storage, name)
    with Live(console=console, auto_refresh=False, transient=False) as live:
        shown, trouble, over = None, "", False
        while not over:
            if shown is not None:
                time.sleep(seconds)
            try:
                look, trouble = watch.look(), ""
                over = look.over and not is_held(storage, name)
            except StorageError as error:  # it may be back at the next look
                if shown is None:
                    raise
                look, trouble = shown, f"not read since: {error}"
            if console.is_terminal:
                live.update(_screen(look, over, trouble, console.height), refresh=True)
            elif shown is None or look.epochs_done != shown.epochs_done or over:
                console.say(summary(look, over))
            shown = look


def _screen(look: Look, over: bool, trouble: str, height: int) -> Group:
    """The trials that have begun, as many as there is room for, and what is to be said of all."""
    begun = [trial for trial in look.trials.values() if trial.state not in ("finished", "missing")]
    waiting = [trial for trial in look.trials.values() if trial.state == "missing"]
    finished = [trial for trial in look.trials.values() if trial.state == "finished"]
    room = max(3, height - 6)
    rows = (begun + finished[::-1])[:room]
    table = Table("trial", "state", "epochs", "test error", "images/s", "left", "", box=None, pad_edge=False)
    for trial in rows:
        table.add_row(*_row(trial))
    lines = [Text(summary(look, over))]
    if waiting:
        more = f" and {len(waiting) - MOST_WAITING} more" if len(waiting) > MOST_WAITING else ""
        lines.append(Text(f"Waiting: {', '.join(trial.name for trial in waiting[:MOST_WAITING])}{more}"))
    if len(rows) < len(begun) + len(finished):
        lines.append(Text(f"Not shown: {counted(len(begun) + len(finished) - len(rows), 'trial')}", style="dim"))
    if trouble:
        lines.append(Text(trouble, style="yellow"))
    return Group(table, *lines)


def _row(trial: TrialResults) -> tuple[str | Text, ...]:
    last, seconds = trial.last, seconds_an_epoch(trial)
    left = (trial.epochs - trial.epochs_done) * seconds if seconds and trial.state == "unfinished" else 0.0
    return (
        Text(trial.name),
        trial.state,
        f"{trial.epochs_done}/{trial.epochs}",
        "" if trial.newest_error is None else f"{100 * trial.newest_error:.2f} %",
        f"{last['images_per_second']:,.0f}" if last else "",
        in_words(left) if left else "",
        Text(trial.reason),
    )


def summary(look: Look, over: bool) -> str:
    """How far it is, in a line; `over` says that no launch is at work either."""
    states = [trial.state for trial in look.trials.values()]
    said = [
        f"{counted(len(states), 'trial')}: {tally(look.trials.values())}",
        f"{look.epochs_done:,} of {look.epochs:,} epochs",
    ]
    if look.epochs_an_hour:
        said.append(f"{look.epochs_an_hour:,.0f} an hour")
    if look.over:
        said.append("nothing is left to wait for" if over else "a launch is at its start or its end")
    elif look.seconds_left is not None:
        said.append(f"about {in_words(look.seconds_left)} left")
    return f"{'; '.join(said)} ({datetime.now(UTC):%H:%M:%S} UTC)"


def follow_report(
    storage: Storage, name: str, write: Callable[[bool], Report], seconds: float, console: Terminal
) -> Report:
    """Write the report again and again, and say so, until nothing is left to wait for. Returns the last one.

    `write` is told whether there will be another.
    """
    while True:
        report = write(True)
        states = [trial.state for trial in report.summary.results.trials.values()]
        if not {"unfinished", "missing"} & set(states) and not is_held(storage, name):
            return write(False)
        finished = f"{states.count('finished')} of {counted(len(states), 'trial')} finished"
        console.say(f"{datetime.now(UTC):%H:%M:%S} UTC, {finished}: {report.html_uri}")
        time.sleep(seconds)
