"""What `grid plan --on` prints, in lines of a hundred columns at most."""

import os
from collections import Counter

from rich.table import Table

from resnet_dist.durations import in_words
from resnet_dist.plurals import counted
from tune_jobs.commands.terminal import Terminal
from tune_jobs.grid.forecast import Cluster, Forecast, training_seconds
from tune_jobs.grid.machines import FILE
from tune_jobs.grid.plan import Plan
from tune_jobs.grid.simulation import SEED, Outcome


def print_forecast(planned: Plan, found: Forecast, console: Terminal) -> None:
    """Print hours, cost, storage, and what gives way first."""
    cluster = found.cluster
    on = f"{cluster.count} × {cluster.machine.title if cluster.machine else planned.machine}"
    measured = "updates measured here" if cluster.machine is None else "reckoned from measurements, not run there"
    console.print(f"\n[bold]On {on}[/] ({measured})\n")
    _print_networks(planned, cluster, console)
    rate = cluster.preemptions_an_hour
    rows = Table("", "time", "hours", *([] if found.price is None else ["cost"]), "busy", box=None, pad_edge=False)
    _add(rows, "one trial on each device", found, found.steady)
    if found.preempted:
        _add(rows, f"the same, each device lost {rate:g} times an hour", found, found.preempted)
    if found.packed:
        _add(rows, f"and {found.packed[0]} trials on each device *", found, found.packed[1], found.packed[0])
    console.print(rows)
    lines = [""]
    if lost := found.preempted:
        again = f"; it takes {counted(lost.launches, 'launch')}" if lost.launches > 1 else ""
        lines.append(
            f"Lost machines: {lost.preemptions:,}, with {lost.lost / 3600:.2g} worker-hours of training to repeat "
            f"(drawn with seed {SEED}{again})."
        )
    if found.packed:
        lines.append(f"* {planned.packing.why}. No grid has done so on a GPU yet.")
    if found.price is not None:
        lines.append(
            "Cost is that of all devices until the last trial ends; idle ones given back, take the busy share."
        )
    lines.append(
        f"Storage: {found.sent / 1e9:,.3g} GB in {round(found.requests, -2):,.0f} requests. "
        f"A report reads its trials in {in_words(found.report_seconds)}."
    )
    lines += [f"Taken for want of a measurement: {note}." for note in found.notes]
    console.say_in_paragraphs(*lines)
    _print_limits(found, console)
    console.say_in_paragraphs("", f"Every constant and its source: {os.path.relpath(FILE)}")


def _print_networks(planned: Plan, cluster: Cluster, console: Terminal) -> None:
    """A row for each kind of run that takes as long."""
    counts = Counter(
        (config.network.depth, config.run.precision, config.run.workers, item.steps, training_seconds(item, cluster))
        for item in planned.trials
        if item.state != "finished"
        for config in [item.trial.config]
    )
    rows = Table("layers", "precision", "workers", "trials", "steps", "hours of each", box=None, pad_edge=False)
    for (depth, precision, workers, steps, seconds), count in sorted(counts.items())[:12]:
        rows.add_row(str(depth), precision, str(workers), f"{count:,}", f"{steps:,}", f"{seconds / 3600:.3g}")
    console.print(rows)
    if len(counts) > 12:
        console.print(f"… and {len(counts) - 12} more kinds of run")
    console.print()


def _add(rows: Table, name: str, found: Forecast, outcome: Outcome, side_by_side: int = 1) -> None:
    cost = found.cost(outcome)
    busy = outcome.busy / outcome.seconds / found.cluster.count / side_by_side
    rows.add_row(
        name,
        in_words(outcome.seconds),
        f"{outcome.seconds / 3600:.3g}",
        *([] if cost is None else [f"{cost:,.2f}"]),
        f"{100 * busy:.0f} %",
    )


def _print_limits(found: Forecast, console: Terminal) -> None:
    console.say_in_paragraphs("", "As the cluster grows, each gives way beyond so many devices, the first one on top:")
    for limit in found.limits:
        said = f"{limit.devices:>9,.0f}  {limit.name}: {limit.why}. Then: {limit.remedy}."
        console.say_in_paragraphs(said, indent=" " * 11)
