"""`resnet-dist storage flush`, and the same at the start of every launch: writes that wait on this host's disk."""

import argparse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import Console

from cluster.storage.opening import open_storage
from resnet_dist.errors import StorageError, UserError
from resnet_dist.plurals import counted
from resnet_dist.storage.interface import Storage
from resnet_dist.storage.spool import SpoolInUseError, spooled_trials
from resnet_dist.storage.spooled import flush
from tune_jobs.commands.options import STORAGE_HELP, add_json
from tune_jobs.commands.output import print_json
from tune_jobs.commands.terminal import make_console

SIDE_BY_SIDE = 10
"""Trials whose writes are made at once; those of one trial are made in order."""


@dataclass(frozen=True)
class Flushed:
    """What became of the waiting writes of one storage."""

    storage: str
    trials: int
    """Trials of which writes waited."""
    made: int
    """Writes that are in storage now."""
    dropped: int
    """Writes older than what another launch had put into storage."""
    in_use: int
    """Trials that a process of this host is running, which sees to them itself."""
    failed: str = ""
    """Why the rest still waits."""

    def line(self) -> str:
        """The same in words."""
        said = [f"{counted(self.made, 'write')} of {counted(self.trials, 'trial')} that waited have been made"]
        if self.dropped:
            said.append(
                f"dropped, since another launch has gone on with their trials: {counted(self.dropped, 'write')}"
            )
        if self.in_use:
            said.append(f"being run at this moment: {counted(self.in_use, 'trial')}")
        if self.failed:
            said.append(f"the rest waits: {self.failed}")
        return f"{self.storage}: {'; '.join(said)}"


def flush_storage(storage: Storage) -> Flushed:
    """Make the waiting writes of every trial of a storage, several trials side by side, until storage fails."""
    failures: list[str] = []

    def one(trial: tuple[str, str, str]) -> tuple[int, int] | None:
        """Writes that were made, and dropped; None if the trial is in use."""
        if failures:
            return 0, 0
        try:
            return flush(storage, *trial[1:])
        except SpoolInUseError:
            return None
        except StorageError as error:
            failures.append(str(error))
            return 0, 0

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        outcomes = list(pool.map(one, spooled_trials(storage.place)))
    flushed = [outcome for outcome in outcomes if outcome is not None]
    return Flushed(
        storage.uri,
        trials=sum(any(outcome) for outcome in flushed),
        made=sum(made for made, _ in flushed),
        dropped=sum(dropped for _, dropped in flushed),
        in_use=len(outcomes) - len(flushed),
        failed=failures[0] if failures else "",
    )


def flush_before_launch(storage: Storage, console: Console) -> None:
    """Make what waits of earlier runs, and say so. Raises a `StorageError` if storage cannot be written."""
    flushed = flush_storage(storage)
    if flushed.trials:
        console.print(flushed.line(), markup=False, soft_wrap=True)
    if flushed.failed:
        raise StorageError(flushed.failed)


def add_flush(actions: Any) -> None:
    """Add `flush` to the actions of `storage`."""
    parser = actions.add_parser(
        "flush",
        help="make the writes that wait on this host's disk",
        description="Make the writes that wait on this host's disk because storage could not be written when a run "
        "made them. Every launch does so, too. Exit code 1 if some still wait.",
    )
    parser.add_argument(
        "storage", nargs="?", metavar="STORAGE", help=STORAGE_HELP + " (default: all of which writes wait)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the trials of which writes wait; read no storage, make none"
    )
    add_json(parser)
    parser.set_defaults(run=flush_command)


def flush_command(args: argparse.Namespace) -> int:
    """Make what waits for one storage, or for all. 0 if nothing waits any more, else 1."""
    if args.dry_run:
        return _dry_run(args)
    if args.storage:
        done = [flush_storage(open_storage(args.storage))]
    else:
        done = [_flush_all(uri) for uri in dict.fromkeys(uri for uri, _, _ in spooled_trials())]
    if args.json:
        print_json([asdict(flushed) for flushed in done])
    else:
        console = make_console()
        for flushed in done:
            console.print(flushed.line(), markup=False, soft_wrap=True)
        if not done:
            console.print("Nothing waits on this host.")
    return 1 if any(flushed.failed for flushed in done) else 0


def _flush_all(uri: str) -> Flushed:
    """Make what waits for a storage, and say so if some of it waits for a server other than the one of today."""
    try:
        storage = open_storage(uri)
    except UserError as error:
        return Flushed(uri, trials=0, made=0, dropped=0, in_use=0, failed=str(error))
    flushed = flush_storage(storage)
    elsewhere = sum(trial[0] == uri for trial in spooled_trials()) - len(list(spooled_trials(storage.place)))
    if elsewhere:
        others = counted(elsewhere, "trial")
        said = f"writes of {others} are for another server; set AWS_ENDPOINT_URL to it and run this again"
        return replace(flushed, failed=flushed.failed or said)
    return flushed


def _dry_run(args: argparse.Namespace) -> int:
    """Name the trials of which writes wait."""
    place = open_storage(args.storage).place if args.storage else None
    waiting = [f"{uri}/{experiment}/{trial_id}" for uri, experiment, trial_id in spooled_trials(place)]
    if args.json:
        print_json(waiting)
        return 0
    console = make_console()
    for trial in waiting:
        console.print(trial, markup=False, soft_wrap=True)
    console.print(
        f"Writes of {counted(len(waiting), 'trial')} wait on this host; none was made." if waiting else "Nothing waits."
    )
    return 0
