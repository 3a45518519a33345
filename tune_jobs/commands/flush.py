"""`resnet-dist storage flush`: the writes that wait on this host's disk, made or listed."""

import argparse
from dataclasses import asdict, replace
from typing import Any

from cluster.storage.opening import open_storage
from resnet_dist.errors import UserError
from resnet_dist.plurals import counted
from resnet_dist.storage.spool import spooled_trials
from tune_jobs.actions.flush import Flushed, flush_storage
from tune_jobs.commands.options import STORAGE_HELP, add_json
from tune_jobs.commands.terminal import make_console


def add_flush(actions: Any) -> None:
    """Add `flush` to the actions of `storage`."""
    parser = actions.add_parser(
        "flush",
        help="make the writes that wait on this host's disk",
        description="Make the writes that wait on this host's disk because storage could not be written when a run "
        "made them. Every launch does so, too. Exit code 1 if some still wait.",
        examples=["storage flush"],
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
    console = make_console(quiet=args.json)
    console.answers([asdict(flushed) for flushed in done])
    for flushed in done:
        console.say(flushed.line())
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
    console = make_console(quiet=args.json)
    console.answers(waiting)
    for trial in waiting:
        console.say(trial)
    console.print(
        f"Writes of {counted(len(waiting), 'trial')} wait on this host; none was made." if waiting else "Nothing waits."
    )
    return 0
