"""`resnet-dist results STORAGE/EXPERIMENT`: one tidy table for other tools, written row by row."""

import argparse
import contextlib
import csv
import functools
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from cluster.storage.keys import BrowsableStorage
from cluster.storage.opening import open_storage
from resnet_dist.errors import UserError
from resnet_dist.storage.interface import experiment_key
from tune_jobs.actions.callbacks import Say
from tune_jobs.actions.hand_over import HandedOver
from tune_jobs.actions.results import arrow_schema, arrow_table
from tune_jobs.commands.best import MEASURES, best, lines
from tune_jobs.commands.options import Parser
from tune_jobs.commands.output import json_text
from tune_jobs.commands.terminal import make_console
from tune_jobs.results.experiment_record import read_record
from tune_jobs.results.tidy_table import Column, ResultTable, Value
from tune_jobs.results.trials import iterate_trials

ROW_GROUP = 10_000
"""Rows of a Parquet file that are written at a time."""


def add_arguments(parser: Parser) -> None:
    """The options of `results`."""
    parser.examples = ("results results/model-size --output trials.csv", "results results/model-size --best")
    parser.description = (
        "Write one table of what storage holds of an experiment: a row a trial or a row an epoch, every "
        "setting that varies a column. Errors are fractions."
    )
    parser.add_argument(
        "experiment", metavar="STORAGE/EXPERIMENT", help="a storage and, below it, an experiment's name"
    )
    parser.add_argument("--format", choices=("csv", "json", "parquet"), default="csv", help="form (default: csv)")
    parser.add_argument("--rows", choices=("trials", "epochs"), default="trials", help="a row is one (default: trials)")
    parser.add_argument(
        "--best",
        nargs="?",
        const=MEASURES[0],
        choices=MEASURES,
        help=f"say instead which finished trial has the smallest of this, with its intervals (default: {MEASURES[0]})",
    )
    parser.add_argument(
        "--to",
        nargs="+",
        metavar="WHERE",
        help="hand over instead: `mlflow URI`, to a tracking server, or `wandb [DIR]`, as offline runs for `wandb "
        "sync`; finished trials with settings, metrics by epoch and files, each once",
    )
    parser.add_argument("--output", metavar="FILE", help="file to write (default: standard output)")
    parser.set_defaults(run=results_command)


def results_command(args: argparse.Namespace) -> int:
    """Write the table to a file or to standard output."""
    if args.format == "parquet" and args.output is None:
        raise UserError("--format parquet: is not for a terminal; name a file with --output FILE.parquet")
    if args.best and (args.format == "parquet" or args.rows != "trials"):
        raise UserError("--best: is one answer, in words or with --format json; leave out --rows and --format parquet")
    storage, name = open_experiment(args.experiment)
    if args.to:
        console = make_console(quiet=args.format == "json")
        handed = _hand_over(args.to, storage, name, console.say)
        console.say(handed.line())
        console.answers(asdict(handed))
        return 0
    record = read_record(storage, name)
    trials = iterate_trials(storage, name, record["trials"])
    if args.best:
        found = best(record, trials, args.best)
        said = json_text(found) if args.format == "json" else "\n".join(lines(found))
        write = functools.partial(print, said)
    else:
        table = ResultTable(record, args.rows)
        write = functools.partial(WRITERS[args.format], table.columns, table.rows(trials))
    if args.output is None:
        write(file=sys.stdout)
    else:
        with _replacing(Path(args.output), binary=args.format == "parquet") as file:
            write(file=file)
    return 0


def _hand_over(to: list[str], storage: BrowsableStorage, name: str, say: Say) -> HandedOver:
    if to[0] == "mlflow" and len(to) == 2:
        from tune_jobs.actions.to_mlflow import to_mlflow

        return to_mlflow(storage, name, to[1], say)
    if to[0] == "wandb" and len(to) <= 2:
        from tune_jobs.actions.to_wandb import to_wandb

        return to_wandb(storage, name, Path(to[1] if len(to) == 2 else "."), say)
    raise UserError(f"--to {' '.join(to)}: is not known; give `mlflow URI` or `wandb [DIR]`")


def open_experiment(uri: str) -> tuple[BrowsableStorage, str]:
    """Storage and name of the experiment at `STORAGE/EXPERIMENT`; a `UserError` names those there are."""
    above, slash, name = uri.rstrip("/").rpartition("/")
    root = (above or "/") if slash else "."
    if not name or root in ("s3:", "s3:/"):
        raise UserError(f"{uri}: is a storage; give STORAGE/EXPERIMENT")
    storage = open_storage(root)
    if storage.get(experiment_key(name)) is None:
        within = open_storage(uri)
        found = [folder for folder in within.folders("") if within.get(experiment_key(folder)) is not None]
        if found:
            raise UserError(
                f"{uri}: is a storage; give one of its experiments: {uri.rstrip('/')}/{found[0]}{_others(found)}"
            )
    return storage, name


def _others(found: list[str]) -> str:
    return f" (or {', '.join(found[1:8])}{', …' if len(found) > 8 else ''})" if found[1:] else ""


@contextlib.contextmanager
def _replacing(path: Path, binary: bool) -> Iterator[IO[Any]]:
    """A new file that takes the place of `path` when it is complete; a pipe or a device is written to."""
    is_file = path.is_file() or not path.exists()
    target = path.with_name(f".{path.name}.{os.getpid()}.tmp") if is_file else path
    try:
        try:
            with target.open("wb") if binary else target.open("w", encoding="utf-8", newline="") as file:
                yield file
            if is_file:
                target.replace(path)
        finally:
            if is_file:
                target.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"--output {path}: cannot be written: {error.strerror or error}") from error


def write_csv(columns: tuple[Column, ...], rows: Iterator[list[Value]], file: IO[str]) -> None:
    """Comma-separated values with a header; nothing where there is no value."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([column.name for column in columns])
    for row in rows:
        writer.writerow([str(value).lower() if isinstance(value, bool) else value for value in row])


def write_json(columns: tuple[Column, ...], rows: Iterator[list[Value]], file: IO[str]) -> None:
    """An array of objects, one a line."""
    names = [column.name for column in columns]
    separator = "["
    for row in rows:
        file.write(separator + "\n" + json.dumps(dict(zip(names, row, strict=True)), allow_nan=False))
        separator = ","
    file.write("\n]\n" if separator == "," else "[]\n")


def write_parquet(columns: tuple[Column, ...], rows: Iterator[list[Value]], file: IO[bytes]) -> None:
    """Parquet, in groups of rows."""
    from pyarrow.parquet import ParquetWriter

    with ParquetWriter(file, arrow_schema(columns)) as writer:
        while group := list(itertools.islice(rows, ROW_GROUP)):
            writer.write_table(arrow_table(columns, iter(group)))


WRITERS: dict[str, Callable[[tuple[Column, ...], Iterator[list[Value]], Any], None]] = {
    "csv": write_csv,
    "json": write_json,
    "parquet": write_parquet,
}
