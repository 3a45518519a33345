"""`resnet-dist submit` and `resnet-dist job status | logs | stop`."""

import argparse
import json
import shlex
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster.ray_cluster.jobs import Jobs, JobState
from cluster.ray_cluster.packing import Package, pack
from cluster.ray_cluster.preflight import CLIENT_VARIABLE, versions_here
from resnet_dist.errors import UserError
from tune_jobs.commands.options import normalise
from tune_jobs.commands.output import print_json, program
from tune_jobs.commands.terminal import make_console

STOPPING = 60.0
"""Seconds that `job stop` waits for the job's end."""

_SECRET_WORDS = ("SECRET", "TOKEN", "PASSWORD", "ACCESS_KEY", "CREDENTIAL")


def submit(args: argparse.Namespace) -> int:
    """Upload the working directory and run a command of this program as a job."""
    arguments = args.arguments[1:] if args.arguments[:1] == ["--"] else args.arguments
    _check(arguments, args.parser)
    variables = dict(map(_variable, args.env))
    console = make_console(quiet=args.json)
    entrypoint = ["python", "-m", "tune_jobs", *arguments]
    if args.pack:
        directory = _new_directory(Path(args.pack).absolute())
        package = pack(Path(args.working_dir), directory)
        _describe(package, console)
        command = shlex.join(["ray", "job", "submit", "--working-dir", str(directory), "--", *entrypoint])
        console.print(command, markup=False, soft_wrap=True)
        if args.json:
            print_json({"directory": str(directory), "files": package.files, "command": command})
        return 0
    if args.dry_run:
        with tempfile.TemporaryDirectory(prefix="resnet-dist-job-") as scratch:
            package = pack(Path(args.working_dir), Path(scratch))
        _describe(package, console, "Would upload")
        console.print(f"and run {shlex.join(entrypoint)}\nNothing was uploaded or submitted.", soft_wrap=True)
        if args.json:
            print_json({"entrypoint": shlex.join(entrypoint), "files": package.files, "bytes": package.bytes})
        return 0
    jobs = Jobs(args.address)
    with tempfile.TemporaryDirectory(prefix="resnet-dist-job-") as scratch:
        _describe(pack(Path(args.working_dir), Path(scratch)), console)
        variables[CLIENT_VARIABLE] = json.dumps(versions_here())
        job_id = jobs.submit(shlex.join(entrypoint), scratch, variables, args.id)
    if args.json:
        print_json({"job": job_id, "address": jobs.address})
    console.print(f"Job {job_id}; follow it with: {program()} job logs -f {job_id}", soft_wrap=True)
    if args.no_wait or args.json:
        return 0
    return _follow(jobs, job_id)


def _new_directory(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise UserError(f"--pack: {path} is not empty; give a new directory")
    except OSError as error:
        raise UserError(f"--pack: {path} cannot be made: {error.strerror}; give another directory") from error
    return path


def _check(arguments: list[str], parser: argparse.ArgumentParser) -> None:
    """Refuse here what the job would refuse after the upload, and paths that mean something else there."""
    if not arguments:
        raise UserError("there is nothing to run; write it after --, as in: submit -- grid run demo --storage s3://…")
    parsed = parser.parse_args(normalise(arguments))
    if parsed.command in ("submit", "job", "cluster", "tensorboard"):
        raise UserError(f"{parsed.command} is for this machine, not for a job; submit grid, train or reproduce")
    storage = getattr(parsed, "storage", "")
    if storage and not storage.startswith(("s3://", "/")):
        raise UserError(
            f"--storage {storage}: is relative to a job's upload, which goes when it ends; give s3://bucket/prefix, or "
            "the absolute path of a directory that all nodes share"
        )


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UserError(f"--env {text}: must be NAME=VALUE")
    if any(word in name.upper() for word in _SECRET_WORDS):
        raise UserError(
            f"--env {name}: would stand readable in the job's record; set it in the environment of the cluster's nodes"
        )
    return name, value


def _describe(package: Package, console: Console, verb: str = "Uploading") -> None:
    said = f"{verb} {package.files} files, {package.bytes / 2**20:.1f} MiB"
    if package.commit:
        said += f"; commit {package.commit[:12]}" + (", with changes" if package.dirty else "")
    console.print(said, soft_wrap=True)
    for name in package.left_out:
        console.print(f"  left out: {escape(name)}", soft_wrap=True)


def _follow(jobs: Jobs, job_id: str) -> int:
    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        state = jobs.follow(job_id, write)
    except KeyboardInterrupt:
        print(  # noqa: T201
            f"job {job_id} goes on; `{program()} job stop {job_id}` ends it", file=sys.stderr
        )
        return 130
    if state.status == "SUCCEEDED":
        return 0
    raise UserError(f"job {job_id} is {state.status}: {state.message[:300]}")


def logs(args: argparse.Namespace) -> int:
    """Print what a job has printed, and with -f go on until it is over."""
    jobs = Jobs(args.address)
    if args.follow:
        return _follow(jobs, args.job)
    sys.stdout.write(jobs.logs(args.job))
    return 0


def status(args: argparse.Namespace) -> int:
    """Print a job's state, or those of all jobs."""
    jobs = Jobs(args.address)
    found = [jobs.state(args.job)] if args.job else jobs.all()
    if args.json:
        print_json([asdict(job) for job in found])
        return 0
    table = Table("job", "status", "started", "minutes", "command", box=None, pad_edge=False)
    for job in found:
        table.add_row(job.job_id, job.status, _time(job.started), _minutes(job), escape(job.entrypoint))
    console = make_console()
    console.print(table if found else "no jobs yet")
    if args.job and found[0].status == "FAILED":
        console.print(found[0].message, markup=False, soft_wrap=True)
    return 0


def stop(args: argparse.Namespace) -> int:
    """Stop a job. What it has finished stays, and the same submission goes on."""
    jobs = Jobs(args.address)
    if not jobs.stop(args.job):
        raise UserError(f"job {args.job} is over already: {jobs.state(args.job).status}")
    deadline = time.monotonic() + STOPPING
    while not (state := jobs.state(args.job)).is_over:
        if time.monotonic() > deadline:
            raise UserError(f"job {args.job} still runs after {STOPPING:.0f} s; look again with job status {args.job}")
        time.sleep(0.5)
    make_console().print(f"job {args.job}: {state.status}")
    return 0


def _time(seconds: float | None) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}" if seconds else ""


def _minutes(job: JobState) -> str:
    return f"{((job.ended or time.time()) - job.started) / 60:.1f}" if job.started else ""
