"""`resnet-dist train`: one run, in this process or on Ray Train workers."""

import argparse
import contextlib
import functools
import json
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cluster.storage.opening import open_storage
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import ConfigurationError, StorageError, UserError
from resnet_dist.launch import WORKER_FAILURES, Job, run_in_process, run_on_workers
from resnet_dist.logs import structured
from resnet_dist.plurals import counted
from resnet_dist.storage.interface import Storage, TrialKeys, experiment_key
from tune_jobs.commands.flush import flush_before_launch
from tune_jobs.commands.options import SHORTHANDS, Parser, add_json, add_settings, add_storage, read_config
from tune_jobs.commands.output import print_json, program
from tune_jobs.commands.terminal import make_console
from tune_jobs.grid.custom_code import bind_config, code_of
from tune_jobs.grid.failures import failure_of
from tune_jobs.results.experiment_record import read_record, record_single_run

LOGGER = logging.getLogger(__name__)


def add_arguments(parser: Parser) -> None:
    """The options of `train`."""
    parser.description = "Train one network, or go on with a run that was interrupted."
    add_storage(parser)
    parser.add_argument("--name", default="train", help="experiment under which the run is stored (default: train)")
    parser.add_argument(
        "--config", metavar="FILE", help="TOML or JSON file of settings; options given here override it"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be trained, and from where; train and write nothing"
    )
    add_json(parser, "print the result record as JSON, and nothing else")
    add_settings(parser, SHORTHANDS)
    parser.set_defaults(run=train_command)


def train_command(args: argparse.Namespace) -> int:
    """Train one network and print its errors."""
    config = read_config(args.config) if args.config else TrainingConfig()
    config = bind_config(config.override(args.settings))
    if not args.name or "/" in args.name or args.name.startswith("."):
        raise UserError(f"--name: {args.name!r} is not allowed; give a name without '/' that does not begin with '.'")
    from cluster.storage.lease import lease
    from resnet_dist.data.dataset import load_dataset
    from resnet_dist.data.staged import bring
    from resnet_dist.records.recorder import Recorder
    from resnet_dist.workers import choose_device

    if config.run.workers == 1:  # several run where the cluster has what they need, and not here
        choose_device(config.run.device)
    storage = open_storage(args.storage)
    console = make_console(quiet=args.json)
    if args.dry_run:
        return _dry_run(args, config, storage, console)
    storage.check_writable()
    flush_before_launch(storage, console)
    dataset = load_dataset(bring(config.data, storage))
    config = config.with_fingerprint(dataset.fingerprint)  # limits are checked, too
    name = f"{config.network.depth}-layers/{config.trial_id()}"
    job = Job(config, args.name, name, functools.partial(open_storage, storage.uri), code_of(config))
    recorder = Recorder(storage, args.name, name, config)
    if (finished := recorder.result()) is not None:
        record_single_run(storage, args.name, config, name)
        console.print(f"Trial {config.trial_id()} is finished already; nothing to do.")
        result = finished
    else:
        console.print(f"Trial {config.trial_id()}: {_describe(config)}", soft_wrap=True)
        _note_on_schedule(config, console)
        _note_on_other_lengths(storage, args.name, config, console)

        def on_wait(text: str) -> None:
            console.print(escape(text), soft_wrap=True)

        # What does not fit is refused before anything is written. One launch at a time acts on a trial.
        with placed(config, storage) as use_gpu, lease(storage, args.name, on_wait, trial=config.trial_id()):
            record_single_run(storage, args.name, config, name)
            result = recorder.result() or run_job(job, storage, console, use_gpu)
    if args.json:
        print_json(result)
        return 0
    console.print(
        f"\nTest error after epoch {result['epochs']}: [bold]{100 * result['top1_error']:.2f} %[/] (top-5: "
        f"{100 * result['top5_error']:.2f} %), {result['images_per_second']:.0f} images/s on "
        f"{counted(result['workers'], 'worker')}"
    )
    if config.data.caveat:
        console.print(config.data.caveat)
    console.print(f"Results:     {storage.uri}/{job.keys.prefix}", soft_wrap=True)
    console.print(f"TensorBoard: {program()} tensorboard {storage.uri}/{args.name}", soft_wrap=True)
    return 0


def _dry_run(args: argparse.Namespace, config: TrainingConfig, storage: Storage, console: Console) -> int:
    """Say what would be trained, and from where. Images are decoded into the local cache if they are not there."""
    from resnet_dist.data.dataset import load_dataset
    from resnet_dist.data.staged import bring
    from resnet_dist.records.checkpoints import Checkpoints
    from resnet_dist.records.recorder import Recorder

    config = config.with_fingerprint(load_dataset(bring(config.data, storage)).fingerprint)
    keys = TrialKeys(args.name, config.trial_id())
    steps = Checkpoints(storage, keys.checkpoints, config.identity()).complete()
    state, then = "missing", "would be trained from the beginning"
    if Recorder(storage, args.name, "", config).result() is not None:
        state, then = "finished", "is finished already; nothing would be done"
    elif steps:
        state, then = "unfinished", f"would go on from its checkpoint after step {steps[0]:,}"
    console.print(f"Trial {config.trial_id()}: {_describe(config)}", soft_wrap=True)
    _note_on_schedule(config, console)
    _note_on_other_lengths(storage, args.name, config, console)
    console.print(f"It {then}. Results would lie in {storage.uri}/{keys.prefix} Nothing was written.", soft_wrap=True)
    if args.json:
        print_json({"trial": config.trial_id(), "state": state, "config": config.to_dict()})
    return 0


def _describe(config: TrainingConfig) -> str:
    run, data = config.run, config.data
    limit = f" (the first {counted(data.train_limit, 'image')})" if data.train_limit else ""
    return (
        f"{config.network.depth} layers on {data.source}{limit}, {counted(run.epochs, 'epoch')}, {run.precision}, "
        f"seed {run.seed}, {counted(run.workers, 'worker')}"
    )


def _note_on_schedule(config: TrainingConfig, console: Console) -> None:
    """Say so if a run is too short for its learning rate ever to drop: `--epochs` alone does not scale milestones."""
    epochs, schedule = config.run.epochs, config.schedule
    scaled = TrainingConfig().shortened(epochs).schedule.milestones
    if schedule.kind == "step" and schedule.milestones and epochs <= schedule.milestones[0] and scaled:
        console.print(
            f"Note: within {epochs} epochs the learning rate does not drop (schedule.milestones "
            f"{','.join(map(str, schedule.milestones))}); the study's, scaled: --schedule.milestones "
            f"{','.join(map(str, scaled))}",
            soft_wrap=True,
        )


def _note_on_other_lengths(storage: Storage, name: str, config: TrainingConfig, console: Console) -> None:
    """Say so if the same run is there over other epochs: whoever gives more of them may expect it to go on."""
    if storage.get(experiment_key(name)) is None:
        return
    for trial_id, trial in read_record(storage, name)["trials"].items():
        with contextlib.suppress(ConfigurationError):  # of another version
            other = TrainingConfig.from_dict(trial["config"])
            if other.run.epochs == config.run.epochs or _without_length(other) != _without_length(config):
                continue
            console.print(
                f"Note: {trial_id} is this run over {counted(other.run.epochs, 'epoch')}. How long it is decides what "
                "it is, so this is another one, from the beginning: a run that has ended leaves nothing to go on from. "
                "Give as many epochs as may be wanted at first.",
                soft_wrap=True,
            )


def _without_length(config: TrainingConfig) -> dict[str, Any]:
    return replace(
        config, run=replace(config.run, epochs=1), schedule=replace(config.schedule, milestones=())
    ).identity()


@contextlib.contextmanager
def placed(config: TrainingConfig, storage: Storage) -> Iterator[bool]:
    """Connect to the cluster that several workers run on, for the duration of the block; one needs none.

    Yields whether the workers are to use GPUs. Raises a `UserError` if there are fewer places than workers, or a node
    that cannot do its part.
    """
    run = config.run
    if run.workers == 1:
        yield False
        return
    from cluster.ray_cluster.connection import connected
    from cluster.ray_cluster.preflight import check_cluster

    with connected() as resources:
        check_cluster(storage, [config], resources)
        yield resources.uses_gpu(run.device)


def run_job(job: Job, storage: Storage, console: Console, use_gpu: bool) -> dict[str, Any]:
    """Train in this process, or on as many Ray Train workers as the configuration says, and show the progress.

    Called in a `placed` block.
    """
    with _Display(console, job.config) as display:
        if job.config.run.workers == 1:
            with _memory_named():
                return run_in_process(job, on_epoch=display.epoch, on_step=display.step)
        from cluster.ray_cluster.connection import ray_storage

        console.print(f"starting {job.config.run.workers} workers")
        with _Follower(storage, job, display), _one_line():
            return run_on_workers(job, ray_storage(storage.uri, job.experiment), use_gpu)


@contextlib.contextmanager
def _memory_named() -> Iterator[None]:
    """Turn a lack of memory, of the machine or of its GPU, into a `UserError` with advice."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch's errors of either are RuntimeErrors
        kind, reason = failure_of(error, 1)
        if kind != "out_of_memory":
            raise
        raise UserError(reason) from error


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Turn what workers failed with into a `UserError`, unless it is a bug."""
    from ray.train import TrainingFailedError

    try:
        yield
    except TrainingFailedError as error:
        kind, reason = failure_of(error, 1 + WORKER_FAILURES)
        if kind == "error":
            raise
        raise UserError(f"{reason}; the same command goes on from the last checkpoint") from error


class _Display:
    """A progress bar on a terminal, and a line an epoch everywhere."""

    def __init__(self, console: Console, config: TrainingConfig) -> None:
        self.console = console
        self.epochs = config.run.epochs
        self.bar = Progress(
            TextColumn("epoch"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal or console.quiet,
        )
        self.task = self.bar.add_task("training", total=self.epochs, detail="")
        self.shown = 0.0

    def __enter__(self) -> "_Display":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def step(self, step: int, loss: Any) -> None:
        """Show the newest loss, at most twice a second: reading it waits for the device."""
        if not self.bar.disable and time.monotonic() - self.shown > 0.5:
            self.shown = time.monotonic()
            self.bar.update(self.task, detail=f"step {step}, loss {loss.sum().item():.3f}")

    def epoch(self, line: dict[str, Any]) -> None:
        """Print an epoch's line."""
        self.bar.update(self.task, completed=line["epoch"])
        if structured():  # the log has it already
            return
        self.console.print(
            f"epoch {line['epoch']:>3}/{self.epochs}  step {line['step']:>6}  lr {line['learning_rate']:<6g} "
            f"train loss {line['train_loss']:.4f}  test error {100 * line['top1_error']:6.2f} % "
            f"(top-5 {100 * line['top5_error']:.2f} %)  {line['images_per_second']:.0f} images/s",
            soft_wrap=True,
        )


class _Follower:
    """Shows the epochs of a run on other processes as its metrics lines reach storage.

    While storage cannot be read it shows nothing: the run goes on, and says itself at its end what is missing.
    """

    def __init__(self, storage: Storage, job: Job, display: _Display) -> None:
        self.storage = storage
        self.job = job
        self.display = display
        self.shown = 0
        self.failed = False
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "_Follower":
        with contextlib.suppress(StorageError):
            self.shown = len(self._lines())
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(5)
        if not self.thread.is_alive():  # or storage hangs
            self.show()

    def _follow(self) -> None:
        while not self.stop.wait(1.0):
            self.show()

    def show(self) -> None:
        """Show what has come to storage since the last time."""
        try:
            for line in self._lines()[self.shown :]:
                self.display.epoch(line)
                self.shown += 1
        except StorageError:
            pass  # the workers say so
        except Exception as error:
            if not self.failed:
                LOGGER.warning("the run's epochs cannot be shown: %r", error)
            self.failed = True

    def _lines(self) -> list[dict[str, Any]]:
        data = self.storage.get(self.job.keys.metrics) or b""
        return [json.loads(line) for line in data.decode().splitlines()]
