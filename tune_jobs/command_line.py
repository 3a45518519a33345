"""The command line: `resnet-dist train`, `grid …`, `reproduce`, `tensorboard`, `storage …`."""

import argparse
import atexit
import contextlib
import errno
import logging
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from resnet_dist import logs
from resnet_dist.errors import UserError
from tune_jobs.commands.cluster_options import add_cluster_commands
from tune_jobs.commands.options import SHORTHANDS, Parser, add_settings, normalise, positive
from tune_jobs.commands.output import print_json

LOGGER = logging.getLogger(__name__)

STORAGE_HELP = "where results live: a directory, or s3://bucket/prefix"
EXPERIMENT_HELP = "a registered experiment, or the path of a TOML file"


def make_parser() -> Parser:
    """The parser of the whole command line."""
    parser = Parser(
        prog="resnet-dist",
        description="Trains deep residual networks, one run or a whole study, on this machine or a Ray cluster.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)

    train = commands.add_parser(
        "train", help="train one network", description="Train one network, or go on with a run that was interrupted."
    )
    train.add_argument("--storage", required=True, metavar="DIR|s3://…", help=STORAGE_HELP)
    train.add_argument("--name", default="train", help="experiment under which the run is stored (default: train)")
    train.add_argument("--config", metavar="FILE", help="TOML or JSON file of settings; options given here override it")
    train.add_argument(
        "--dry-run", action="store_true", help="print what would be trained, and from where; train and write nothing"
    )
    train.add_argument("--json", action="store_true", help="print the result record as JSON, and nothing else")
    add_settings(train, SHORTHANDS)
    train.set_defaults(run=_train)

    grid = commands.add_parser("grid", help="plan, run and report many runs", description="Many runs: an experiment.")
    actions = grid.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=Parser)
    for action, text in (
        ("plan", "print the trials, their steps and the time to expect; nothing is run"),
        ("run", "run what is missing, go on with what is half done, then report"),
        ("status", "print each trial's state, read from storage"),
        ("report", "print the tables and write the report: Markdown, one HTML file, CSV and figures"),
    ):
        command = actions.add_parser(action, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.add_argument("experiment", metavar="EXPERIMENT|FILE.toml", help=EXPERIMENT_HELP)
        command.add_argument("--storage", required=True, metavar="DIR|s3://…", help=STORAGE_HELP)
        command.add_argument("--json", action="store_true", help="print JSON, and nothing else")
        if action in ("plan", "run"):
            command.add_argument(
                "--seeds",
                type=positive,
                default=None,
                metavar="K",
                help="repeat each cell with seeds 0 to K-1 (default: the experiment's own, 1 unless it says otherwise)",
            )
            command.add_argument(
                "--epochs",
                type=positive,
                default=None,
                metavar="E",
                help="shorten or lengthen every run; milestones are scaled with it",
            )
        if action == "plan":
            command.add_argument(
                "--no-measure", action="store_true", help="do not measure step times to estimate hours"
            )
        if action == "report":
            command.add_argument(
                "--smallest-difference",
                type=_percent_points,
                default=0.005,
                metavar="POINTS",
                help="smallest difference of two errors that matters, in %% points (default: 0.5): a row reproduces a "
                "number within it, and the report says how many seeds it takes to tell it",
            )
            command.add_argument(
                "--into",
                metavar="DIR|s3://…",
                help="write the report there and not beside the results, to publish it: records are then named, not "
                "linked",
            )
            command.add_argument(
                "--best-epoch",
                action="store_true",
                help="also show each row's best epoch, which is optimistic: it is chosen on the test set",
            )
            command.add_argument(
                "--preface",
                default="",
                metavar="TEXT",
                help="a paragraph of yours that the report begins with, such as what it can and cannot show",
            )
        if action == "run":
            command.add_argument(
                "--retry-failed", action="store_true", help="also run again trials that diverged or that asha stopped"
            )
            command.add_argument(
                "--dry-run", action="store_true", help="print which trials would start; run and write nothing"
            )
            command.add_argument(
                "--scheduler",
                choices=("fifo", "asha"),
                default="fifo",
                help="fifo: every trial to its end (default). asha: search, stopping early the trials that look bad; "
                "its results stay out of the tables until a launch with fifo has brought every trial to its end",
            )
        if action in ("plan", "run"):
            add_settings(command, {name: s for name, s in SHORTHANDS.items() if name not in ("run.seed", "run.epochs")})
        command.set_defaults(run=_grid)

    again = commands.add_parser(
        "reproduce",
        help="print what to run to get a trial again, or run it and compare",
        description="Print what to run to get a trial again: commit, patch, versions, command. With --run, train it "
        "here and compare metrics and weights bit for bit; the exit code is 1 if they differ.",
    )
    again.add_argument("trial", metavar="TRIAL", help="EXPERIMENT/ID, or the beginning of a trial's id")
    again.add_argument("--storage", required=True, metavar="DIR|s3://…", help=STORAGE_HELP)
    again.add_argument("--run", action="store_true", dest="run_again", help="train the trial here, and compare")
    again.add_argument(
        "--into",
        metavar="DIR",
        help="with --run, where the new run's records go (default: a temporary directory); without it, where to put "
        "the trial's config.json and source.patch",
    )
    again.add_argument("--json", action="store_true", help="print JSON, and nothing else")
    again.set_defaults(run=_reproduce)

    table = commands.add_parser(
        "results",
        help="write one table of an experiment's results for other tools",
        description="Write one table of what storage holds of an experiment: a row a trial or a row an epoch, every "
        "setting that varies a column. Errors are fractions.",
    )
    table.add_argument("experiment", metavar="STORAGE/EXPERIMENT", help="a storage and, below it, an experiment's name")
    table.add_argument("--format", choices=("csv", "json", "parquet"), default="csv", help="form (default: csv)")
    table.add_argument("--rows", choices=("trials", "epochs"), default="trials", help="a row is one (default: trials)")
    table.add_argument("--output", metavar="FILE", help="file to write (default: standard output)")
    table.set_defaults(run=_results)

    archive = commands.add_parser(
        "export",
        help="put everything of a finished trial into one archive",
        description="Write one ZIP archive with a finished trial's weights, metrics, settings, provenance, patch and "
        "TensorBoard event files, and a README that says how to use them. The same trial gives the same bytes.",
    )
    archive.add_argument("trial", metavar="TRIAL", help="EXPERIMENT/ID, or the beginning of a trial's id")
    archive.add_argument("--storage", required=True, metavar="DIR|s3://…", help=STORAGE_HELP)
    archive.add_argument("--output", metavar="FILE", help="file to write (default: ID.zip in this directory)")
    archive.add_argument("--json", action="store_true", help="print JSON, and nothing else")
    archive.set_defaults(run=_export)

    evaluation = commands.add_parser(
        "evaluate",
        help="top-1 and top-5 error of a model that a trial left",
        description="Print top-1 and top-5 error of a model on a test set. Images are standardised as in its training.",
    )
    evaluation.add_argument("weights", metavar="WEIGHTS", help="a trial's model.pt, or an archive made by export")
    evaluation.add_argument(
        "--data.source",
        "--data",
        dest="source",
        metavar="SOURCE",
        help="as for train (default: what the model was trained with)",
    )
    evaluation.add_argument(
        "--data.test_limit",
        dest="test_limit",
        type=positive,
        metavar="N",
        help="use only the first N test images (default: as in training, or all of another source)",
    )
    evaluation.add_argument(
        "--run-code",
        action="store_true",
        help="run the code of the trial's author that an archive holds, if the network is made by it",
    )
    evaluation.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: auto)")
    evaluation.add_argument("--json", action="store_true", help="print JSON, and nothing else")
    evaluation.set_defaults(run=_evaluate)

    add_cluster_commands(commands)

    board = commands.add_parser(
        "tensorboard", help="open TensorBoard on results", description="Serve TensorBoard on results, while they grow."
    )
    board.add_argument("storage", metavar="STORAGE", help=STORAGE_HELP + ", or one experiment in it")
    board.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    board.add_argument("--port", type=int, default=None, help="port to listen on (default: 6006, or the next free one)")
    board.add_argument(
        "--direct",
        action="store_true",
        help="let TensorBoard read S3 itself, without a local copy: slower, and with many more requests",
    )
    board.add_argument(
        "--mirror-to",
        metavar="DIR",
        help="serve nothing, but keep DIR a copy of the event files in S3, for a TensorBoard that may not read them",
    )
    board.set_defaults(run=_tensorboard)

    storage = commands.add_parser(
        "storage", help="check a storage, make writes that wait", description="What lies under all runs: storage."
    )
    actions = storage.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=Parser)
    check = actions.add_parser(
        "check",
        help="try and measure what runs need, and say what is missing",
        description="Write, read, list, create and delete small objects; measure latency and throughput; say in plain "
        "words what is missing and what follows. Exit code 1 if runs cannot use the storage. A server that does not "
        "answer is given up after 15 seconds.",
    )
    check.add_argument("storage", metavar="STORAGE", help=STORAGE_HELP)
    check.add_argument("--json", action="store_true", help="print JSON, and nothing else")
    check.set_defaults(run=_storage)
    flush = actions.add_parser(
        "flush",
        help="make the writes that wait on this host's disk",
        description="Make the writes that wait on this host's disk because storage could not be written when a run "
        "made them. Every launch does so, too. Exit code 1 if some still wait.",
    )
    flush.add_argument(
        "storage", nargs="?", metavar="STORAGE", help=STORAGE_HELP + " (default: all of which writes wait)"
    )
    flush.add_argument(
        "--dry-run", action="store_true", help="print the trials of which writes wait; read no storage, make none"
    )
    flush.add_argument("--json", action="store_true", help="print JSON, and nothing else")
    flush.set_defaults(run=_storage)
    parser.set_defaults(parser=parser)  # `submit` checks with it what a job is to run
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit code: 0, 1 for an error, 2 for a wrong command line, 130 for Ctrl-C."""
    args = make_parser().parse_args(normalise(list(sys.argv[1:] if arguments is None else arguments)))
    try:
        logs.configure()
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except UserError as error:
        _say_error(str(error), args)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)  # noqa: T201
        return 130
    except BrokenPipeError:  # the reader of our output has gone: `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f"{error.filename}: " if error.filename else "standard output or a temporary file: "
        args.json = False  # the output may be what is full
        _say_error(f"{where}{error.strerror}; make room, then run the same command again", args)
        return 1


def entry_point() -> NoReturn:
    """Run a command and end the process with its exit code.

    It ends when all that is registered with `atexit` has run, and not after Python has taken itself apart: a thread of
    Arrow's that still waits for a storage would then ask for Python's lock, and die with a stack trace of Ray's.
    """
    code: object = 1  # of an error that nobody foresaw, after its traceback

    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)

    atexit.register(leave)
    try:
        code = main()
    except SystemExit as ended:  # a wrong command line, `--help`
        code = ended.code
        raise
    sys.exit(code)


def _say_error(message: str, args: argparse.Namespace) -> None:
    line = " ".join(message.split())
    if os.environ.get(logs.VARIABLE) == "json":
        LOGGER.error(line)
    else:
        print(f"error: {line}", file=sys.stderr)  # noqa: T201
    if getattr(args, "json", False):
        print_json({"error": line})


def _percent_points(text: str) -> float:
    """Percentage points on the command line, a fraction inside."""
    try:
        points = float(text)
    except ValueError:
        points = math.nan
    if not 0 < points <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of % points above 0 and up to 100")
    return points / 100


def _train(args: argparse.Namespace) -> int:
    from tune_jobs.commands.train import train_command

    return train_command(args)


def _reproduce(args: argparse.Namespace) -> int:
    from tune_jobs.commands.reproduce import reproduce_command

    return reproduce_command(args)


def _grid(args: argparse.Namespace) -> int:
    from tune_jobs.commands import grid as grid_command
    from tune_jobs.commands import plan as plan_command

    return {
        "plan": plan_command.plan,
        "run": grid_command.run,
        "status": grid_command.status,
        "report": grid_command.report,
    }[args.action](args)


def _results(args: argparse.Namespace) -> int:
    from tune_jobs.commands.results import results_command

    return results_command(args)


def _export(args: argparse.Namespace) -> int:
    from tune_jobs.commands.export import export_command

    return export_command(args)


def _evaluate(args: argparse.Namespace) -> int:
    from tune_jobs.commands.evaluate import evaluate_command

    return evaluate_command(args)


def _tensorboard(args: argparse.Namespace) -> int:
    if args.mirror_to:
        from cluster.tensorboard.event_copy import mirror

        if args.direct or args.port is not None:
            raise UserError("--mirror-to: serves nothing; leave --port and --direct out")
        return mirror(args.storage, Path(args.mirror_to))
    from cluster.tensorboard.serve import serve

    return serve(args.storage, host=args.host, port=args.port, direct=args.direct)


def _storage(args: argparse.Namespace) -> int:
    from tune_jobs.commands import flush as flush_command
    from tune_jobs.commands import storage as storage_command

    return {"check": storage_command.check, "flush": flush_command.flush_command}[args.action](args)
