"""`resnet-dist submit`: a command of this program as a job on a Ray cluster."""

import argparse
import json
import os
import shlex
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.ray_cluster.jobs import Jobs, require_job_id
from cluster.ray_cluster.preflight import CLIENT_VARIABLE, versions_here
from cluster.ray_cluster.upload import Package, pack
from resnet_dist import custom_code
from resnet_dist.configuration.code import is_custom
from resnet_dist.errors import UserError
from resnet_dist.plurals import counted
from tune_jobs.commands.job import ADDRESS_HELP, follow
from tune_jobs.commands.options import Parser, add_json, normalise, read_config
from tune_jobs.commands.output import program
from tune_jobs.commands.terminal import Terminal, make_console
from tune_jobs.grid.experiment import load_experiment

_MOST_NAMED = 12
"""Files and folders of an upload that are named."""

_SECRET_WORDS = ("SECRET", "TOKEN", "PASSWORD", "ACCESS_KEY", "CREDENTIAL")


def add_arguments(parser: Parser) -> None:
    """The options of `submit`."""
    parser.usage = "resnet-dist submit [OPTIONS] -- COMMAND …"
    parser.examples = ("submit -- grid run study --storage s3://bucket/results --seeds 5",)
    parser.description = (
        "Upload the working directory, with the commit and the patch that it is, and run a command of this "
        "program there as a job; then follow it. The same submission again goes on where the last one stopped."
    )
    parser.add_argument("--address", metavar="URL", help=ADDRESS_HELP)
    parser.add_argument("--working-dir", default=".", metavar="DIR", help="the code to run (default: this directory)")
    parser.add_argument("--id", metavar="ID", help="name of the job (default: Ray chooses one)")
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="a variable for the job; no keys (repeatable)"
    )
    parser.add_argument("--no-wait", action="store_true", help="print the job's id, and do not follow it")
    parser.add_argument(
        "--pack", metavar="DIR", help="submit nothing: put the upload into DIR and print the equal `ray job submit`"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be uploaded and run; ask and send nothing"
    )
    add_json(parser, "print JSON, and nothing else; implies --no-wait")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="COMMAND", help="grid run …, train …")
    parser.set_defaults(run=submit)


def submit(args: argparse.Namespace) -> int:
    """Upload the working directory and run a command of this program as a job."""
    arguments = args.arguments[1:] if args.arguments[:1] == ["--"] else args.arguments
    job = _check(arguments, args.parser)
    if args.id:
        require_job_id(args.id)
    variables = dict(map(_variable, args.env))
    console = make_console(quiet=args.json)
    entrypoint = ["python", "-m", "tune_jobs", *arguments]
    if args.pack:
        directory = _new_directory(Path(args.pack).absolute())
        package = _pack(args, job, directory)
        _describe(package, console)
        command = shlex.join(["ray", "job", "submit", "--working-dir", str(directory), "--", *entrypoint])
        console.say(command)
        console.answers(_counted(package) | {"directory": str(directory), "command": command})
        return 0
    if args.dry_run:
        with tempfile.TemporaryDirectory(prefix="resnet-dist-job-") as scratch:
            package = _pack(args, job, Path(scratch))
        _describe(package, console, "Would upload")
        console.say(f"and run {shlex.join(entrypoint)}\nNothing was uploaded or submitted.")
        console.answers(_counted(package) | {"entrypoint": shlex.join(entrypoint)})
        return 0
    jobs = Jobs(args.address)
    with tempfile.TemporaryDirectory(prefix="resnet-dist-job-") as scratch:
        _describe(_pack(args, job, Path(scratch)), console)
        variables[CLIENT_VARIABLE] = json.dumps(versions_here())
        job_id = jobs.submit(shlex.join(entrypoint), scratch, variables, args.id)
    console.answers({"job": job_id, "address": jobs.address})
    console.say(f"Job {job_id}; follow it with: {program()} job logs -f {shlex.quote(job_id)}")
    if args.no_wait or args.json:
        return 0
    return follow(jobs, job_id)


def _counted(package: Package) -> dict[str, Any]:
    return {"files": len(package.names), "bytes": package.bytes, "left_out": package.left_out}


def _new_directory(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise UserError(f"--pack: {path} is not empty; give a new directory")
    except OSError as error:
        raise UserError(f"--pack: {path} cannot be made: {error.strerror}; give another directory") from error
    return path


def _pack(args: argparse.Namespace, job: argparse.Namespace, into: Path) -> Package:
    """The upload; a `UserError` if it lacks a file or a module that the job's command names."""
    working_dir = Path(args.working_dir)
    package = pack(working_dir, into)
    files = [name for name in (getattr(job, "experiment", ""), getattr(job, "config", "")) if name]
    files = [name for name in files if name == getattr(job, "config", "") or name.endswith(".toml")]
    for name in files:
        if Path(name).is_absolute() and not Path(name).is_relative_to(working_dir.absolute()):
            continue  # a directory that all nodes share, perhaps
        if os.path.normpath(name) not in package.names:
            raise UserError(
                f"{name}: is not in the upload of {working_dir.absolute()}; give a path below "
                "--working-dir, relative to it"
            )
    folders = [working_dir / Path(name).parent for name in files] + [working_dir]
    for setting, value in sorted(_code_of(job, working_dir)):
        _require_code(package, working_dir, folders, setting, value)
    return package


def _require_code(package: Package, working_dir: Path, folders: Sequence[Path], setting: str, value: str) -> None:
    """Raise a `UserError` unless the upload has the module that a setting names and those beside it that it imports."""

    def has(file: str) -> bool:
        inside = (os.path.normpath(os.path.relpath(folder / file, working_dir)) for folder in folders)
        return any(name in package.names for name in inside)

    path, where = value.partition(":")[0].replace(".", "/"), f"the upload of {working_dir.absolute()}"
    if not has(f"{path}.py") and not has(f"{path}/__init__.py"):
        raise UserError(f"{setting}: {value!r}: {path}.py is not in {where}; put it there{_why(package)}")
    for file in custom_code.collect({setting: value}, folders):
        if not has(file):
            raise UserError(f"{setting}: {value!r} needs {file}, which is not in {where}; put it there{_why(package)}")


def _why(package: Package) -> str:
    return f" (left out: {'; '.join(package.left_out)[:300]})" if package.left_out else ""


def _code_of(job: argparse.Namespace, working_dir: Path) -> set[tuple[str, str]]:
    """What of the job's settings names code of the user's own: in the command, and in the file that it is given."""
    settings = getattr(job, "settings", {})
    named = {(name, value) for name, value in settings.items() if is_custom(value)}
    experiment, config = getattr(job, "experiment", ""), getattr(job, "config", "")
    if config:
        named |= custom_code.named(read_config(str(working_dir / config)).override(settings)).items()
    if experiment.endswith(".toml"):
        for table in load_experiment(str(working_dir / experiment), settings, None).tables:
            for cell in table.cells:
                named |= custom_code.named(cell.config).items()
    return named


def _check(arguments: list[str], parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The job's command, parsed; what the job would refuse after the upload, or take for something else, is refused."""
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
    return parsed


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UserError(f"--env {text}: must be NAME=VALUE")
    if any(word in name.upper() for word in _SECRET_WORDS):
        raise UserError(
            f"--env {name}: would stand readable in the job's record; set it in the environment of the cluster's nodes"
        )
    return name, value


def _describe(package: Package, console: Terminal, verb: str = "Uploading") -> None:
    said = f"{verb} {counted(len(package.names), 'file')}{' and this program' if package.added else ''}"
    said += f", {package.bytes / 2**20:.1f} MiB"
    if package.commit:
        said += f"; commit {package.commit[:12]}" + (", with changes" if package.dirty else "")
    console.say(said)
    tops = Counter(name.partition("/")[0] + "/" * ("/" in name) for name in package.names)
    shown = [top + (f" ({counted(number, 'file')})" if top.endswith("/") else "") for top, number in tops.items()]
    more = " …" if shown[_MOST_NAMED:] else ""
    console.say(f"  {', '.join(shown[:_MOST_NAMED])}{more}")
    for name in package.left_out:
        console.say(f"  left out: {name}")
