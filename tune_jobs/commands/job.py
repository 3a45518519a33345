"""`resnet-dist job status | logs | stop`."""

import argparse
import shlex
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime

from rich.markup import escape
from rich.table import Table

from cluster.ray_cluster.jobs import Jobs, NoAnswerError
from resnet_dist.errors import UserError
from tune_jobs.commands.options import Parser, add_json
from tune_jobs.commands.output import program
from tune_jobs.commands.terminal import make_console

STOPPING = 60.0
"""Seconds that `job stop` waits for the job's end."""

ADDRESS_HELP = (
    "the cluster's job server, http://<head>:8265 (default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, the cluster of "
    "`cluster up`, or port 8265 of this machine)"
)


def add_arguments(parser: Parser) -> None:
    """The options of `job …`."""
    parser.description = "Submitted jobs."
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=Parser)
    asked = actions.add_parser(
        "status", help="print a job's state, or all jobs", description="Print jobs' states.", examples=["job status"]
    )
    asked.add_argument("job", nargs="?", metavar="ID", help="one job (default: all)")
    add_json(asked)
    read = actions.add_parser(
        "logs",
        help="print what a job has printed",
        description="Print what a job has printed.",
        examples=["job logs -f ID"],
    )
    read.add_argument("job", metavar="ID", help="the job")
    read.add_argument("-f", "--follow", action="store_true", help="go on until it is over; exit code 1 if it fails")
    end = actions.add_parser(
        "stop", help="end a job", description="End a job. The same submission goes on later.", examples=["job stop ID"]
    )
    end.add_argument("job", metavar="ID", help="the job")
    for action, run in ((asked, status), (read, logs), (end, stop)):
        action.add_argument("--address", metavar="URL", help=ADDRESS_HELP)
        action.set_defaults(run=run)


def follow(jobs: Jobs, job_id: str) -> int:
    """Print what a job prints until it is over. Returns the exit code; a `UserError` if the job fails."""

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        state = jobs.follow(job_id, write, _notice)
    except NoAnswerError as error:
        raise UserError(f"{error}. Job {job_id} goes on if its cluster does: {_look_again(job_id)}") from error
    except KeyboardInterrupt:
        _notice(f"job {job_id} goes on; `{program()} job stop {shlex.quote(job_id)}` ends it")
        return 130
    if state.status == "SUCCEEDED":
        return 0
    raise UserError(f"job {job_id} is {state.status}: {state.message[:300]}")


def _notice(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201


def _look_again(job_id: str) -> str:
    named = shlex.quote(job_id)
    return f"look again with `{program()} job status {named}` or `{program()} job logs -f {named}`"


def logs(args: argparse.Namespace) -> int:
    """Print what a job has printed, and with -f go on until it is over."""
    jobs = Jobs(args.address)
    if args.follow:
        return follow(jobs, args.job)
    sys.stdout.write(jobs.logs(args.job))
    return 0


def status(args: argparse.Namespace) -> int:
    """Print a job's state, or those of all jobs."""
    jobs = Jobs(args.address)
    found = jobs.all() if args.job is None else [jobs.state(args.job)]
    console = make_console(quiet=args.json)
    console.answers([asdict(job) for job in found])
    table = Table("job", "status", "started", "minutes", "command", box=None, pad_edge=False)
    for job in found:
        started = f"{datetime.fromtimestamp(job.started, UTC):%Y-%m-%d %H:%M:%S}" if job.started else ""
        minutes = f"{((job.ended or time.time()) - job.started) / 60:.1f}" if job.started else ""
        table.add_row(job.job_id, job.status, started, minutes, escape(job.entrypoint))
    console.print(table if found else "no jobs yet")
    if args.job and found[0].status == "FAILED":
        console.say(found[0].message)
    return 0


def stop(args: argparse.Namespace) -> int:
    """Stop a job. What it has finished stays, and the same submission goes on."""
    jobs = Jobs(args.address)
    tries = 0

    def ask() -> bool:
        nonlocal tries
        tries += 1
        return jobs.stop(args.job)

    try:
        if not jobs.patiently(ask, _notice) and tries == 1:
            raise UserError(f"job {args.job} is over already: {jobs.state(args.job).status}")
        deadline = time.monotonic() + STOPPING
        while not (state := jobs.patiently(lambda: jobs.state(args.job), _notice)).is_over:
            if time.monotonic() > deadline:
                raise UserError(f"job {args.job} still runs after {STOPPING:.0f} s; {_look_again(args.job)}")
            time.sleep(0.5)
    except NoAnswerError as error:
        raise UserError(f"{error}. Whether job {args.job} has stopped is not known: {_look_again(args.job)}") from error
    make_console().print(f"job {args.job}: {state.status}")
    return 0
