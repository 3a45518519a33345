"""Options of the commands that deal with clusters: `submit`, `job …`, `cluster …`, `data …`."""

import argparse
import importlib
from collections.abc import Callable
from typing import Any

from tune_jobs.commands.options import Parser, positive

ADDRESS_HELP = (
    "the cluster's job server, http://<head>:8265 (default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, the cluster of "
    "`cluster up`, or port 8265 of this machine)"
)


def add_cluster_commands(commands: Any) -> None:
    """Add the commands to the command line's subparsers."""
    _add_submit(commands)
    _add_job(commands)
    _add_cluster(commands)
    _add_data(commands)


def _add_submit(commands: Any) -> None:
    submit = commands.add_parser(
        "submit",
        help="run a command of this program as a job on a Ray cluster",
        usage="resnet-dist submit [OPTIONS] -- COMMAND …",
        description="Upload the working directory, with the commit and the patch that it is, and run a command of this "
        "program there as a job; then follow it. The same submission again goes on where the last one stopped.",
    )
    submit.add_argument("--address", metavar="URL", help=ADDRESS_HELP)
    submit.add_argument("--working-dir", default=".", metavar="DIR", help="the code to run (default: this directory)")
    submit.add_argument("--id", metavar="ID", help="name of the job (default: Ray chooses one)")
    submit.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="a variable for the job; no keys (repeatable)"
    )
    submit.add_argument("--no-wait", action="store_true", help="print the job's id, and do not follow it")
    submit.add_argument(
        "--pack", metavar="DIR", help="submit nothing: put the upload into DIR and print the equal `ray job submit`"
    )
    submit.add_argument(
        "--dry-run", action="store_true", help="print what would be uploaded and run; ask and send nothing"
    )
    submit.add_argument("--json", action="store_true", help="print JSON, and nothing else; implies --no-wait")
    submit.add_argument("arguments", nargs=argparse.REMAINDER, metavar="COMMAND", help="grid run …, train …")
    submit.set_defaults(run=_later("job", "submit"))


def _add_job(commands: Any) -> None:
    job = commands.add_parser("job", help="status, logs and end of submitted jobs", description="Submitted jobs.")
    actions = job.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=Parser)
    status = actions.add_parser("status", help="print a job's state, or all jobs", description="Print jobs' states.")
    status.add_argument("job", nargs="?", metavar="ID", help="one job (default: all)")
    status.add_argument("--json", action="store_true", help="print JSON, and nothing else")
    logs = actions.add_parser("logs", help="print what a job has printed", description="Print what a job has printed.")
    logs.add_argument("job", metavar="ID", help="the job")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until it is over; exit code 1 if it fails")
    stop = actions.add_parser("stop", help="end a job", description="End a job. The same submission goes on later.")
    stop.add_argument("job", metavar="ID", help="the job")
    for name, command in (("status", status), ("logs", logs), ("stop", stop)):
        command.add_argument("--address", metavar="URL", help=ADDRESS_HELP)
        command.set_defaults(run=_later("job", name))


def _add_cluster(commands: Any) -> None:
    cluster = commands.add_parser(
        "cluster", help="a Ray cluster on this machine, for trying out", description="A Ray cluster on this machine."
    )
    actions = cluster.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=Parser)
    up = actions.add_parser("up", help="start it", description="Start a Ray cluster of several nodes on this machine.")
    up.add_argument("--nodes", type=positive, default=3, metavar="N", help="nodes, the head among them (default: 3)")
    up.add_argument("--cpus", type=positive, default=2, metavar="N", help="CPUs that each node offers (default: 2)")
    down = actions.add_parser("down", help="end it", description="End exactly what `cluster up` started.")
    for name, command in (("up", up), ("down", down)):
        command.add_argument("--json", action="store_true", help="print JSON, and nothing else")
        command.set_defaults(run=_later("cluster", name))


def _add_data(commands: Any) -> None:
    data = commands.add_parser("data", help="put data where a cluster's nodes find it", description="Data sets.")
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=Parser)
    stage = actions.add_parser(
        "stage",
        help="put a decoded data set into storage",
        description="Decode a data set here and put it into storage, once. Runs with the same --storage and the same "
        "--data.source then need neither the files nor the internet: each node fetches it once.",
    )
    stage.add_argument("source", metavar="SOURCE", help="cifar10, cifar100 or folder:PATH, as in --data.source")
    stage.add_argument("storage", metavar="DIR|s3://…", help="where the results of the runs go")
    stage.add_argument(
        "--dry-run", action="store_true", help="decode the data set and say what would be stored; store nothing"
    )
    stage.add_argument("--json", action="store_true", help="print JSON, and nothing else")
    stage.set_defaults(run=_later("data", "stage_command"))


def _later(module: str, function: str) -> Callable[[argparse.Namespace], int]:
    """A function of a module that is imported when it is called: other commands do not pay for it."""

    def run(args: argparse.Namespace) -> int:
        code: int = getattr(importlib.import_module(f"tune_jobs.commands.{module}"), function)(args)
        return code

    return run
