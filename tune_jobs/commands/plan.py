"""`resnet-dist grid plan`, and `grid run --dry-run`: what a launch would do; nothing is run or written to storage."""

import argparse
import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from resnet_dist.durations import in_words
from resnet_dist.errors import UserError
from resnet_dist.plurals import counted
from tune_jobs.actions.grid import plan_grid
from tune_jobs.commands.options import SHORTHANDS, Parser, add_settings, positive
from tune_jobs.commands.output import print_json
from tune_jobs.commands.terminal import Terminal, make_console
from tune_jobs.grid.experiment import Trial
from tune_jobs.grid.machines import constants
from tune_jobs.grid.plan import Plan, PlannedCell

MANY = 60
"""Cells, or trials to run, beyond which a terminal shows counts and no row for each."""


def add_plan(parser: Parser) -> None:
    """The options of `grid plan`."""
    add_launch(parser)
    parser.add_argument("--no-measure", action="store_true", help="do not measure step times to estimate hours")
    parser.add_argument(
        "--on",
        metavar="NxMACHINE[,spot[=RATE]]",
        help="instead, what it would take on a cluster that is not at hand, and what gives way as that grows: 16xH100; "
        "16xH100,spot if machines are taken away, so often an hour; 16xhere: machines like this one",
    )
    parser.add_argument(
        "--price", type=_price, metavar="P", help="with --on, of one device for an hour, in your currency"
    )
    add_grid_settings(parser)
    parser.set_defaults(run=plan)


def add_launch(parser: Parser) -> None:
    """What `grid plan` and `grid run` have in common before their own options."""
    parser.add_argument(
        "--seeds",
        type=positive,
        default=None,
        metavar="K",
        help="repeat each cell with seeds 0 to K-1 (default: the experiment's own, 1 unless it says otherwise)",
    )
    parser.add_argument(
        "--epochs",
        type=positive,
        default=None,
        metavar="E",
        help="shorten or lengthen every run; milestones are scaled with it",
    )
    parser.add_argument(
        "--side-by-side",
        type=positive,
        default=None,
        metavar="N",
        help="trials of one worker that share each GPU; it changes no number (default: as many as end soonest and "
        "fit; grid plan says how many, and why)",
    )


def add_grid_settings(parser: Parser) -> None:
    """Every setting of a run, except that seeds and epochs are those of the whole grid."""
    add_settings(parser, {name: s for name, s in SHORTHANDS.items() if name not in ("run.seed", "run.epochs")})


def grid_options(args: argparse.Namespace) -> dict[str, Any]:
    """What the options of `add_launch` and `add_grid_settings` say of a grid."""
    return {name: getattr(args, name) for name in ("seeds", "epochs", "settings", "side_by_side")}


def plan(args: argparse.Namespace) -> int:
    """Print the cells of an experiment, their trials, steps, and the time and memory to expect."""
    console = make_console(quiet=args.json)
    if args.on:
        return _plan_on(args, console)
    if args.price:
        raise UserError("--price: goes with --on, which says of what")
    with contextlib.nullcontext() if args.no_measure else console.status("measuring step times"):
        planned = plan_grid(args.experiment, args.storage, measure=not args.no_measure, **grid_options(args))
    if args.json:
        print_json(planned.to_dict())
    else:
        print_plan(planned, console)
    return 0


def _plan_on(args: argparse.Namespace, console: Terminal) -> int:
    from tune_jobs.actions.forecast import forecast_grid
    from tune_jobs.commands.forecast import print_forecast

    with console.status("measuring step times") if "here" in args.on.lower() else contextlib.nullcontext():
        planned, found = forecast_grid(args.experiment, args.storage, args.on, price=args.price, **grid_options(args))
    if args.json:
        print_json(planned.to_dict() | {"on": found and found.to_dict()})
        return 0
    print_head(planned, console)
    if found:
        print_forecast(planned, found, console)
    else:
        console.print("Nothing is left to run.")
    return 0


def _price(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = -1.0
    if not 0 < price < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no price above 0")
    return price


def dry_run(args: argparse.Namespace) -> int:
    """Say which trials `grid run` would start, and in which order."""
    console = make_console(quiet=args.json)
    planned = plan_grid(args.experiment, args.storage, measure=False, **grid_options(args))
    started = planned.to_run(args.retry_failed, args.scheduler)
    if args.json:
        print_json(planned.to_dict() | {"would_start": [trial.trial_id for trial in started]})
        return 0
    print_plan(planned, console)
    _print_started(planned, started, console)
    return 0


def _print_started(planned: Plan, started: Sequence[Trial], console: Console) -> None:
    if not started:
        console.print("A launch would start nothing; it would write the report.")
        return
    console.print(f"A launch would start {counted(len(started), 'trial')}, the longest first:")
    known = {item.trial.trial_id: item for item in planned.trials}
    shown = started[:MANY] if console.is_terminal else started
    lines = []
    for trial in shown:
        item = known[trial.trial_id]
        again = f", going on after step {item.steps_done:,}" if item.steps_done else ""
        workers = f", {trial.config.run.workers} workers" if trial.config.run.workers > 1 else ""
        lines.append(f"  {trial.trial_id}  {trial.name}{workers}{again}")
    console.print("\n".join(lines), markup=False, soft_wrap=True)
    if len(shown) < len(started):
        console.print(f"  … and {len(started) - len(shown)} more")
    console.print("Nothing was written.")


def print_head(planned: Plan, console: Terminal) -> None:
    """Print what is planned without its cells, in lines that fit a terminal: title, notes, how many there are."""
    _print_title(planned, console)
    console.say_in_paragraphs(*(f"  {note}" for note in planned.notes), _sums(planned))


def _print_title(planned: Plan, console: Console) -> None:
    console.print(f"[bold]{escape(planned.experiment.title)}[/]")
    for deviation in planned.experiment.deviations:
        console.print(f"  {deviation.setting}: {_words(deviation.actual)} instead of {_words(deviation.recipe)}")


def _sums(planned: Plan) -> str:
    waiting = [item for item in planned.trials if item.state != "finished"]
    tables = len(planned.experiment.tables)
    shared = f" ({planned.shared} of them in several tables)" if planned.shared else ""
    return (
        f"{counted(len(planned.cells), 'cell')} in {counted(tables, 'table')}, "
        f"{counted(planned.configurations, 'different configuration')}{shared}, × {counted(planned.seeds, 'seed')}: "
        f"{counted(len(planned.trials), 'trial')}, {len(planned.trials) - len(waiting)} finished, "
        f"{sum(item.steps - item.steps_done for item in waiting):,} steps to run"
    )


def print_plan(planned: Plan, console: Console) -> None:
    """Print a plan: a row for each cell, and the sums."""

    _print_title(planned, console)
    if len(planned.cells) <= MANY or not console.is_terminal:
        for table in planned.experiment.tables:
            _print_table(table.title, [cell for cell in planned.cells if cell.table == table.name], console)
    for said in planned.notes:
        console.print(f"  {said}", markup=False, soft_wrap=True)
    console.print(_sums(planned), soft_wrap=True)
    waiting = [item for item in planned.trials if item.state != "finished"]
    if planned.storage:
        requests, sent = planned.storage
        console.print(
            f"Storage: a finished trial has made {requests:,.0f} requests and sent {sent / 1e6:,.1f} MB on average; "
            f"{counted(len(waiting), 'trial')} to go",
            soft_wrap=True,
        )
    if planned.expected_storage and waiting:
        requests, sent = planned.expected_storage
        console.print(
            f"Storage: about {sent / 1e9:,.3g} GB in {round(requests, -2):,.0f} requests for "
            f"{counted(len(waiting), 'trial')}",
            soft_wrap=True,
        )
    elif waiting and not planned.storage:
        console.print("Storage: requests and bytes of a trial are known when the first one is finished")
    if planned.hours is not None and waiting:
        for line in _expected(planned, max(item.memory or 0 for item in waiting)):
            console.print(line, markup=False, soft_wrap=True)


def _expected(planned: Plan, memory: int) -> Iterator[str]:
    """How long it will take here, and with twice as many workers."""
    hours, work, start = planned.hours_with(planned.slots), planned.hours, constants()["times"]
    assert hours is not None and work is not None
    yield (
        f"Expected: {in_words(3600 * hours)} with {counted(planned.slots, 'worker')} at a time on {planned.machine}, "
        f"up to {_memory(memory)} of memory each ({_hours(hours)} hours, {_hours(work)} worker-hours; step times "
        "measured, several workers taken to share the work evenly; to start, Ray takes some "
        f"{start['ray']:g} s beyond that, and a group of workers some {start['group']:g} s)"
    )
    if planned.packing.why:
        yield f"Side by side on each GPU: {planned.packing.count} ({planned.packing.why})"
    if feeding := max((item.decoding for item in planned.trials if item.decoding), key=math.prod, default=None):
        seconds, rate = feeding
        cores = counted(math.ceil(seconds * rate), "core")
        yield (
            f"Decoding an image takes a core {1000 * seconds:.1f} ms: {cores} feed one {planned.machine} "
            f"in the fastest row, at {rate:,.0f} images/s (data.decoding_threads)"
        )
    doubled = planned.hours_with(2 * planned.slots)
    if doubled is not None and doubled < 0.95 * hours:
        yield f"With twice as many, {2 * planned.slots} at a time: {in_words(3600 * doubled)}"
    elif doubled is not None:
        yield f"Twice as many would not shorten it: its longest trial takes {in_words(3600 * doubled)}"


def _print_table(title: str, cells: Sequence[PlannedCell], console: Console) -> None:
    rows = Table("cell", "trial", "also in", "workers", "epochs", "steps", "hours", "memory", "storage", box=None)
    for cell in cells:
        first = cell.trials[0]
        run = first.trial.config.run
        rows.add_row(
            escape(cell.label),
            first.trial.trial_id,
            escape(", ".join(cell.also_in)),
            str(run.workers),
            str(run.epochs),
            f"{first.steps:,}",
            _hours(first.hours),
            _memory(first.memory),
            cell.states,
        )
    console.print(f"\n{escape(title)}" if title else "")
    console.print(rows)


def _hours(hours: float | None) -> str:
    if hours is None:
        return ""
    return f"{hours:.3g}" if hours >= 0.01 or not hours else "< 0.01"


def _memory(size: int | None) -> str:
    return "" if size is None else f"{size / 2**30:.1f} GiB"


def _words(values: tuple[Any, ...]) -> str:
    return ", ".join(escape(str(value)) for value in values)
