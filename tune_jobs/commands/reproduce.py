"""`resnet-dist reproduce`: what to run to get a trial again, and, on request, running it and comparing."""

import argparse
import contextlib
import functools
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.storage.opening import open_storage
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import UserError
from resnet_dist.installed_packages import version
from resnet_dist.launch import Job
from resnet_dist.plurals import counted
from resnet_dist.storage.interface import TrialKeys
from tune_jobs.actions.training_job import placed, run_job
from tune_jobs.commands.display import RunDisplay
from tune_jobs.commands.options import Parser, add_json, add_trial
from tune_jobs.commands.output import program
from tune_jobs.commands.terminal import Terminal, make_console
from tune_jobs.grid.custom_code import bind_config
from tune_jobs.grid.initial_state import put_initial_state
from tune_jobs.results.bitwise_comparison import Comparison, compare
from tune_jobs.results.recorded_trial import RecordedTrial, find_trial

CAUSES = (
    *("commit", "dirty", "patch_sha256", "python", "torch", "torchvision", "numpy", "cuda", "cudnn", "ray"),
    *("host", "device", "workers", "threads", "cpu_capability", "deterministic_algorithms", "cudnn_deterministic"),
    *("cudnn_benchmark", "float32_matmul_precision", "data_fingerprint"),
)
"""Fields of `provenance.json` on which the bits of a result can depend."""

PACKAGES = ("torch", "torchvision", "numpy", "ray")
"""Those among them that pip installs."""


@dataclass(frozen=True)
class Instructions:
    """What to run, in order, to get a trial again."""

    commands: tuple[str, ...]
    notes: tuple[str, ...]
    """What no command can bring back."""


def add_arguments(parser: Parser) -> None:
    """The options of `reproduce`."""
    parser.examples = ("reproduce train/ID --storage results --run",)
    parser.description = (
        "Print what to run to get a trial again: commit, patch, versions, command. With --run, train it "
        "here and compare metrics and weights bit for bit; the exit code is 1 if they differ."
    )
    add_trial(parser)
    parser.add_argument("--run", action="store_true", dest="run_again", help="train the trial here, and compare")
    parser.add_argument(
        "--into",
        metavar="DIR",
        help="with --run, where the new run's records go (default: a temporary directory); without it, where to put "
        "the trial's config.json and source.patch",
    )
    add_json(parser)
    parser.set_defaults(run=reproduce_command)


def reproduce_command(args: argparse.Namespace) -> int:
    """Print how to get a trial again; with `--run`, do it and compare. 0 unless the two differ, then 1."""
    storage = open_storage(args.storage)
    trial = find_trial(storage, args.trial)
    into = open_storage(args.into) if args.into else None
    if into is not None and into.uri == storage.uri:
        raise UserError(f"--into {args.into}: is the storage of the trial itself; give another directory")
    console = make_console(quiet=args.json)
    instructions = instruct(trial, args.into)
    if args.into and not args.run_again:
        _fetch(trial, args.into)
    _print_instructions(console, trial, instructions)
    answer: dict[str, Any] = {
        "trial": trial.trial_id,
        "experiment": trial.experiment,
        "finished": trial.result is not None,
        "commit": trial.provenance.get("commit"),
        "dirty": trial.provenance.get("dirty"),
        "commands": instructions.commands,
        "notes": instructions.notes,
    }
    if not args.run_again:
        console.answers(answer)
        return 0
    if trial.result is None:
        raise UserError(f"{trial.trial_id} of {trial.experiment} is not finished, so there is nothing to compare with")
    with _place(args.into) as uri:
        again = _train_again(trial, uri, console)
    comparison = compare(trial, again)
    causes = _differing_provenance(trial, again)
    _print_comparison(console, comparison, causes)
    console.answers(answer | {"comparison": comparison.to_dict(), "provenance_differs": causes})
    return 0 if comparison.identical else 1


def instruct(trial: RecordedTrial, into: str | None) -> Instructions:
    """The commands, and what they cannot bring back.

    Files of a trial in an object store are first fetched into the directory `into`.
    """
    provenance, commands, notes = trial.provenance, [], []
    folder = f"{trial.storage.uri}/{TrialKeys(trial.experiment, trial.trial_id).prefix}"
    if into or folder.startswith("s3://"):
        target = into or f"reproduce-{trial.trial_id}"
        where = shlex.join([f"{trial.experiment}/{trial.trial_id}", "--storage", trial.storage.uri, "--into", target])
        commands.append(f"{program()} reproduce {where}")
        folder = f"{Path(target).absolute()}/"
    if commit := provenance.get("commit"):
        commands.append(f"git checkout {commit}")
        if trial.patch is not None:
            commands.append(f"git apply {shlex.quote(folder + 'source.patch')}")
    else:
        notes.append("The commit of the source code is not known.")
    if provenance.get("dirty") and trial.patch is None:
        notes.append("The source code had uncommitted changes, of which no patch was kept.")
    notes += [f"Changed but not kept in the patch: {name}" for name in provenance.get("patch_left_out", [])]
    commands += _installations(provenance)
    # Commits whose configuration has no threads took those of the process.
    threads = provenance.get("threads", trial.config.run.threads)
    variable = f"OMP_NUM_THREADS={threads} " if threads != trial.config.run.threads else ""
    train = ["resnet-dist", "train", "--storage", "reproduced", "--config", folder + "config.json"]
    if (workers := provenance.get("workers", trial.config.run.workers)) != trial.config.run.workers:
        train += ["--workers", str(workers)]
    commands.append(variable + shlex.join(train))
    if len(attempts := provenance.get("attempts", [])) > 1:
        changed = {
            name for one in attempts for name in one if name != "started" and one[name] != attempts[-1].get(name)
        }
        if changed:
            notes.append(f"It was interrupted, and went on with other: {', '.join(sorted(changed))}.")
    if trial.config.trial_id() != trial.trial_id:
        notes.append(
            f"The installed code gives this configuration the id {trial.config.trial_id()}: "
            "it may compute other numbers, or data of other content."
        )
    return Instructions(tuple(commands), tuple(notes))


def _installations(provenance: dict[str, Any]) -> list[str]:
    """The pip command for packages whose recorded version is not the installed one."""
    wanted = []
    recorded = provenance.get("code", {}).get("packages", {}) | {name: provenance.get(name) for name in PACKAGES}
    for name, then in recorded.items():
        # 2.14.1+cu130 and 2.14.1 are one release; where the index keeps which build depends on the machine.
        release = str(then).partition("+")[0]
        if then is not None and release != (version(name) or "").partition("+")[0]:
            wanted.append(f"{name}=={release}")
    return [shlex.join(["pip", "install", *wanted])] if wanted else []


def _fetch(trial: RecordedTrial, into: str) -> None:
    """Put the trial's configuration and patch where the commands look for them."""
    target = open_storage(into)
    keys = TrialKeys(trial.experiment, trial.trial_id)
    for key in (keys.config, keys.source_patch):
        data = trial.storage.get(key)
        if data is not None:
            target.put(key.removeprefix(keys.prefix), data)


@contextlib.contextmanager
def _place(into: str | None) -> Iterator[str]:
    if into is not None:
        yield into
        return
    with tempfile.TemporaryDirectory(prefix="resnet-dist-reproduce-") as directory:
        yield directory


def _train_again(trial: RecordedTrial, uri: str, console: Terminal) -> RecordedTrial:
    """Train with the trial's settings, workers and threads; its records are read before their place may go."""
    workers = trial.provenance.get("workers", trial.config.run.workers)
    threads = trial.provenance.get("threads", trial.config.run.threads)
    code = trial.provenance.get("code", {}).get("modules", {})
    config = bind_config(trial.config.override({"run.workers": workers, "run.threads": threads}), code)
    storage = open_storage(uri)
    storage.check_writable()
    job = Job(config, trial.experiment, trial.name, functools.partial(open_storage, storage.uri), code)
    put_initial_state(config, trial.storage, storage)
    with placed(config, storage, console.say) as use_gpu, RunDisplay(console, config.run.epochs) as display:
        run_job(job, storage, use_gpu, display.say, display.epoch, display.step)
    return find_trial(storage, f"{trial.experiment}/{config.trial_id()}")


def _differing_provenance(trial: RecordedTrial, again: RecordedTrial) -> dict[str, Any]:
    """{field: [recorded, now]} where the two differ."""
    old, new = trial.provenance, again.provenance
    return {name: [old[name], new.get(name)] for name in CAUSES if name in old and old[name] != new.get(name)}


def _print_instructions(console: Terminal, trial: RecordedTrial, instructions: Instructions) -> None:
    provenance, config = trial.provenance, trial.config
    state = f"test error {100 * trial.result['top1_error']:.2f} %" if trial.result else "not finished"
    console.say(f"Trial {trial.trial_id} of {trial.experiment}: {trial.name}, {state}")
    console.say(_describe_origin(provenance, config))
    console.print("\nTo get it again, in a checkout of the source code:")
    for command in instructions.commands:
        console.say(f"  {command}")
    for note in instructions.notes:
        console.say(f"Note: {note}")


def _describe_origin(provenance: dict[str, Any], config: TrainingConfig) -> str:
    workers = provenance.get("workers", config.run.workers)
    return (
        f"Ran on {provenance.get('device', 'an unknown device')} of {provenance.get('host', 'an unknown host')}, "
        f"{counted(workers, 'worker')}, {_threads(provenance)}, "
        f"torch {provenance.get('torch', 'unknown')}, from {provenance.get('started', '?')} "
        f"to {provenance.get('finished', '?')}"
    )


def _threads(provenance: dict[str, Any]) -> str:
    return counted(provenance["threads"], "thread") if "threads" in provenance else "unknown threads"


def _print_comparison(console: Terminal, comparison: Comparison, causes: dict[str, Any]) -> None:
    console.print("")
    for line in comparison.lines():
        console.say(line)
    if causes and not comparison.identical:
        console.print("What differs, and may be the reason:")
    elif causes:
        console.print("Although these differ:")
    for name, (old, new) in causes.items():
        console.say(f"  {name}: {old} then, {new} now")
    if not comparison.identical and not causes:
        console.print("Nothing recorded of code, libraries or machine differs: this should not happen; report it.")
