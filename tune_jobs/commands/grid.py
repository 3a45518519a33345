"""`resnet-dist grid run | status | report`; `grid plan` is in `plan.py`."""

import argparse
import contextlib
import math
import shlex
import sys
from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from cluster.storage.opening import open_storage
from resnet_dist.errors import ConfigurationError, UserError
from resnet_dist.plurals import counted
from tune_jobs.actions.grid import run_grid
from tune_jobs.actions.report import write_report
from tune_jobs.actions.results import Results, stored_name
from tune_jobs.commands.display import GridDisplay
from tune_jobs.commands.follow import SECONDS, follow_report, follow_status, launched
from tune_jobs.commands.options import Parser, add_json, add_storage, positive
from tune_jobs.commands.output import program
from tune_jobs.commands.plan import MANY, add_grid_settings, add_launch, add_plan, dry_run, grid_options
from tune_jobs.commands.terminal import Terminal, make_console
from tune_jobs.grid import pruning
from tune_jobs.grid.edits import edits
from tune_jobs.grid.experiment import registered
from tune_jobs.grid.experiment_file import is_file
from tune_jobs.report.write import Report
from tune_jobs.results.experiment_record import read_record
from tune_jobs.results.trials import read_experiment, tally

_MOST_EDITS = 6
"""Changes of a file that a note names."""


def add_arguments(parser: Parser) -> None:
    """The options of `grid …`."""
    parser.description = "Many runs: an experiment."
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=Parser)
    for action, add, text, example in (
        ("plan", add_plan, "print the trials, their steps and the time to expect; nothing is run", "--seeds 3"),
        ("run", _add_run, "run what is missing, go on with what is half done, then report", "--seeds 3"),
        ("status", _add_status, "print each trial's state, read from storage", "--follow"),
        ("report", _add_report, "print the tables and write the report: Markdown, one HTML file, CSV and figures", ""),
        ("prune", _add_prune, "list trials in storage that are no longer part of the experiment, or remove them", ""),
    ):
        command = actions.add_parser(
            action,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            examples=[f"grid {action} model-size --storage results {example}".rstrip()],
        )
        command.add_argument(
            "experiment",
            metavar="EXPERIMENT|FILE.toml",
            help="a registered experiment, or the path of a TOML file",
        )
        add_storage(command)
        add_json(command)
        add(command)


def _add_run(parser: Parser) -> None:
    add_launch(parser)
    parser.add_argument(
        "--retry-failed", action="store_true", help="also run again trials that diverged or that asha stopped"
    )
    parser.add_argument("--dry-run", action="store_true", help="print which trials would start; run and write nothing")
    parser.add_argument(
        "--scheduler",
        choices=("fifo", "asha"),
        default="fifo",
        help="fifo: every trial to its end (default). asha: search, stopping early the trials that look bad; "
        "its results stay out of the tables until a launch with fifo has brought every trial to its end",
    )
    add_grid_settings(parser)
    parser.set_defaults(run=run)


def _add_status(parser: Parser) -> None:
    parser.add_argument(
        "--follow",
        nargs="?",
        type=positive,
        const=SECONDS,
        metavar="SECONDS",
        help=f"look again so often (default: {SECONDS}), with rates and the time left, until all is done or Ctrl-C; "
        "the grid may run anywhere",
    )
    parser.set_defaults(run=status)


def _add_report(parser: Parser) -> None:
    parser.add_argument(
        "--smallest-difference",
        type=_percent_points,
        default=0.005,
        metavar="POINTS",
        help="smallest difference of two errors that matters, in %% points (default: 0.5): rows that are less apart "
        "are equivalent, and the report says how many seeds it takes to see it",
    )
    parser.add_argument(
        "--into",
        metavar="DIR|s3://…",
        help="write the report there and not beside the results, to publish it: records are then named, not linked",
    )
    parser.add_argument(
        "--follow",
        type=positive,
        metavar="SECONDS",
        help="write it again so often until all is done or Ctrl-C; the page in a browser renews itself",
    )
    parser.add_argument(
        "--best-epoch",
        action="store_true",
        help="also show each row's best epoch, which is optimistic: it is chosen on the test set",
    )
    parser.add_argument(
        "--preface",
        default="",
        metavar="TEXT",
        help="a paragraph of yours that the report begins with, such as what it can and cannot show",
    )
    parser.set_defaults(run=report)


def _add_prune(parser: Parser) -> None:
    parser.add_argument("--delete", action="store_true", help="remove them, which nothing brings back; else only list")
    parser.set_defaults(run=prune)


def _percent_points(text: str) -> float:
    """Percentage points on the command line, a fraction inside."""
    try:
        points = float(text)
    except ValueError:
        points = math.nan
    if not 0 < points <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of % points above 0 and up to 100")
    return points / 100


def run(args: argparse.Namespace) -> int:
    """Run what is missing and go on with what is half done; then report. One launch of an experiment at a time."""
    if args.dry_run:
        return dry_run(args)
    console = make_console(quiet=args.json)
    with GridDisplay(console, args.experiment) as display:
        done = run_grid(
            args.experiment,
            args.storage,
            **grid_options(args),
            retry_failed=args.retry_failed,
            scheduler=args.scheduler,
            observer=display.observer(),
            say=display.say,
        )
    if not console.answers(done.to_dict()):
        _print_report(done.report, done.results.uri, done.results.name, console)
    return 1 if done.unfinished else 0


def status(args: argparse.Namespace) -> int:
    """Print each trial's state, from storage alone."""
    storage = open_storage(args.storage)
    if args.follow:
        _require_no_json(args)
        with contextlib.suppress(KeyboardInterrupt):
            name = launched(args.experiment, storage, args.follow, make_console())
            follow_status(storage, name, args.follow, make_console())
        return 0
    name = stored_name(args.experiment, storage)
    results = Results.of(read_experiment(storage, name, details=False))
    edited = _edits(args.experiment, results.record)
    console = make_console(quiet=args.json)
    if console.answers(results.to_dict() | {"edits": edited}):
        return 0
    _print_edits(args.experiment, edited, console)
    if len(results.trials) <= MANY or not sys.stdout.isatty():
        table = Table("trial", "name", "state", "epochs", "test error", "", box=None, pad_edge=False)
        for trial in results.trials.values():
            error = "" if trial.newest_error is None else f"{100 * trial.newest_error:.2f} %"
            epochs = f"{trial.epochs_done}/{trial.epochs}"
            table.add_row(trial.trial_id, escape(trial.name), trial.state, epochs, error, escape(trial.reason))
        console.print(table)
    console.print(f"{counted(len(results.trials), 'trial')}: {tally(results.trials.values())}")
    return 0


def _edits(experiment: str, record: Mapping[str, Any]) -> list[str]:
    """In what an experiment's file, if that was given, is another than at the last launch."""
    if record.get("single_runs") or not (is_file(experiment) or experiment in registered()):
        return []
    try:
        return edits(experiment, record)
    except ConfigurationError as error:
        return [f"it cannot be read: {error}"]


def _print_edits(experiment: str, edited: list[str], console: Terminal) -> None:
    if edited:
        more = f" and {len(edited) - _MOST_EDITS} more" if edited[_MOST_EDITS:] else ""
        console.say(
            f"Note: {experiment} has changed since its last launch, of which this is ({'; '.join(edited[:_MOST_EDITS])}"
            f"{more}); grid plan shows what a launch now would do",
            style="yellow",
        )


def prune(args: argparse.Namespace) -> int:
    """List the trials in storage that the experiment, as it was last launched, does not ask for; remove them."""
    from cluster.storage.lease import lease

    storage, console = open_storage(args.storage), make_console(quiet=args.json)
    name = stored_name(args.experiment, storage)
    results = read_experiment(storage, name, details=False)
    asked = {trial.trial_id: {"name": trial.name, "config": trial.config} for trial in results.trials.values()}
    others = pruning.describe(storage, name, results.unlisted, asked)
    for other in others:
        state = "finished" if other.finished else "unfinished"
        size = f"{other.size / 1e6:,.1f} MB"
        said = f"{other.trial_id}  {other.name}: {state}, {other.why}, {size}"
        console.say(said)
    if args.delete and others:
        with lease(storage, name, on_wait=console.say):
            pruning.remove(storage, others)
    said = f"{counted(len(others), 'trial')} that {name} as last launched does not ask for"
    then = "removed" if args.delete else "nothing was removed; --delete removes them"
    console.print(f"{said}: {then}" if others else f"no {said.partition(' ')[2]}")
    console.answers({"trials": [other.trial_id for other in others], "removed": bool(args.delete and others)})
    return 0


def report(args: argparse.Namespace) -> int:
    """Print the tables and write the report, from storage alone."""
    storage = open_storage(args.storage)
    if args.follow:
        _require_no_json(args)
        try:
            name = launched(args.experiment, storage, args.follow, make_console())
        except KeyboardInterrupt:
            return 0
    else:
        name = stored_name(args.experiment, storage)
    edited = _edits(args.experiment, read_record(storage, name))

    def write(again: bool) -> Report:
        return write_report(
            name,
            args.storage,
            into=args.into,
            smallest_difference=args.smallest_difference,
            best_epoch=args.best_epoch,
            preface=args.preface,
            renewed_after=args.follow if again else None,
        )

    if args.follow:
        try:
            written = follow_report(storage, name, write, args.follow, make_console())
        except KeyboardInterrupt:
            written = write(False)
    else:
        written = write(False)
    console = make_console(quiet=args.json)
    if not console.answers(written.to_dict() | {"edits": edited}):
        _print_edits(args.experiment, edited, console)
        _print_report(written, storage.uri, name, console)
    return 0


def _require_no_json(args: argparse.Namespace) -> None:
    if args.json:
        raise UserError("--follow: is for people to watch, and --json for a program; leave one out")


def _print_report(written: Any, storage_uri: str, name: str, console: Terminal) -> None:
    console.print(written.terminal)
    console.say(f"Report:      {written.html_uri}")
    console.say(f"TensorBoard: {program()} tensorboard {shlex.quote(f'{storage_uri}/{name}')}")
