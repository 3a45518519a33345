"""`resnet-dist storage …`: what a storage can do."""

import argparse

from rich.markup import escape
from rich.table import Table

from cluster.storage.check import StorageCheck, check_storage
from tune_jobs.commands.flush import add_flush
from tune_jobs.commands.options import STORAGE_HELP, Parser, add_json
from tune_jobs.commands.terminal import Terminal, make_console

STYLES = {"ok": "green", "note": "yellow", "failed": "red"}


def add_arguments(parser: Parser) -> None:
    """The options of `storage …`."""
    parser.description = "What lies under all runs: storage."
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=Parser)
    action = actions.add_parser(
        "check",
        help="try and measure what runs need, and say what is missing",
        description="Write, read, list, create and delete small objects; measure latency and throughput; say in plain "
        "words what is missing and what follows. Exit code 1 if runs cannot use the storage. A server that does not "
        "answer is given up after 15 seconds.",
        examples=["storage check s3://bucket/prefix"],
    )
    action.add_argument("storage", metavar="STORAGE", help=STORAGE_HELP)
    add_json(action)
    action.set_defaults(run=check)
    add_flush(actions)


def check(args: argparse.Namespace) -> int:
    """Try and measure everything that runs need of a storage. Returns 1 if something is missing."""
    console = make_console(quiet=args.json)
    with console.status("writing, reading and deleting small objects"):
        result = check_storage(args.storage)
    if not console.answers(result.to_dict()):
        _print(result, console)
    return 1 if result.failed else 0


def _print(result: StorageCheck, console: Terminal) -> None:
    console.say(f"{result.uri}: {result.access}")
    table = Table(box=None, show_header=False, pad_edge=False)
    for _ in range(3):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, finding in result.findings.items():
        state = f"[{STYLES[finding.state]}]{finding.state}[/]"
        milliseconds = "" if finding.seconds is None else f"{1000 * finding.seconds:.1f} ms"
        table.add_row(f"  {name}", state, milliseconds, escape(finding.text))
    console.print(table)
    if result.not_tried:
        console.say(f"  not tried: {', '.join(result.not_tried)}")
    if result.failed:
        console.say(f"Not fit for runs as it is: {', '.join(result.failed)} failed.")
    else:
        console.print("Fit for runs and grids.")
