"""One run: what `resnet-dist train` and `resnet_dist.train` do."""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cluster.storage.keys import BrowsableStorage
from cluster.storage.opening import Place, open_storage
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import ConfigurationError, UserError
from resnet_dist.launch import Job
from resnet_dist.plurals import counted
from resnet_dist.storage.interface import Storage, TrialKeys, experiment_key
from tune_jobs.actions.callbacks import OnEpoch, OnStep, Say
from tune_jobs.actions.flush import flush_before_launch
from tune_jobs.actions.notebook import training_display
from tune_jobs.actions.training_job import placed, run_job
from tune_jobs.grid.custom_code import bind_config, code_of
from tune_jobs.grid.initial_state import bind_initial_state, put_initial_state, require_fit
from tune_jobs.grid.observer import nothing
from tune_jobs.results.experiment_record import read_record, record_single_run
from tune_jobs.results.html_table import html_table

if TYPE_CHECKING:
    from resnet_dist.records.model_file import Model


@dataclass(frozen=True, repr=False)
class TrainingRun:
    """A run that has ended. Errors are fractions."""

    trial_id: str
    """Hash of what determines the run's numbers."""
    storage: str
    """Where its records lie: a directory or `s3://…`."""
    experiment: str
    """The experiment in it."""
    config: TrainingConfig
    """What was trained."""
    result: dict[str, Any]
    """The numbers of `result.json`."""

    @property
    def top1_error(self) -> float:
        """Test error after the last epoch."""
        return float(self.result["top1_error"])

    @property
    def place(self) -> str:
        """The folder of its records."""
        return f"{self.storage}/{TrialKeys(self.experiment, self.trial_id).prefix}"

    def model(self) -> "Model":
        """The trained network, on the CPU."""
        from tune_jobs.actions.model import load_model

        return load_model(f"{self.experiment}/{self.trial_id}", self.storage)

    def to_dict(self) -> dict[str, Any]:
        """The numbers of the result, as `train --json` prints them."""
        return dict(self.result)

    def __repr__(self) -> str:
        return f"<run {self.trial_id}: test error {100 * self.top1_error:.2f} %>"

    def _repr_html_(self) -> str:
        shown = [("top-1 error, %", f"{100 * self.top1_error:.2f}")]
        shown += [("top-5 error, %", f"{100 * self.result['top5_error']:.2f}")]
        shown += [("training loss", f"{self.result['train_loss']:.4f}"), ("epochs", str(self.result["epochs"]))]
        shown += [("images/s", f"{self.result['images_per_second']:,.0f}"), ("records", self.place)]
        return html_table(("", f"trial {self.trial_id}"), shown)


def train(
    config: TrainingConfig,
    storage: Place,
    name: str = "train",
    *,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
    say: Say | None = None,
) -> TrainingRun:
    """Train one network, or go on with a run that was interrupted; one that is finished is not trained again.

    config: what to train; `TrainingConfig()` is the study's 20-layer recipe, and
        `TrainingConfig().override({"network.depth": 56, "run.epochs": 20})` departs from it.
    storage: a directory or `s3://bucket/prefix`, in which the run's records go to `<name>/trials/<trial id>/`.
    on_epoch: called with each epoch's line of metrics; on_step: with a step's number and loss, where one worker
        trains in this process; say: with lines of text for people. With none of them a notebook shows a progress bar.

    Raises a `UserError` of one line for whatever its caller can put right.
    """
    if not isinstance(config, TrainingConfig):
        raise ConfigurationError(
            f"config: a value of type {type(config).__name__} is not allowed; TrainingConfig().override({{…}}) "
            "makes one"
        )
    display = training_display(config.run.epochs) if on_epoch is None and on_step is None and say is None else None
    say = say or nothing
    with display or contextlib.nullcontext():
        opened = open_storage(storage)
        config = _prepared(config, opened, name, say)
        trial_name = f"{config.network.depth}-layers/{config.trial_id()}"
        job = Job(config, name, trial_name, functools.partial(open_storage, opened.uri), code_of(config))
        result = _run(job, opened, say, on_epoch or (display.epoch if display else nothing), on_step)
    return TrainingRun(config.trial_id(), opened.uri, name, config, result)


def check(config: TrainingConfig, name: str) -> TrainingConfig:
    """The configuration bound to code of the user's own, if it names any. Raises a `UserError`."""
    config = bind_config(config)
    if not name or "/" in name or name.startswith("."):
        raise UserError(f"name: {name!r} is not allowed; give a name without '/' that does not begin with '.'")
    from resnet_dist.workers import choose_device

    if config.run.workers == 1:  # several run where the cluster has what they need, and not here
        choose_device(config.run.device)
    return config


def with_data(config: TrainingConfig, storage: BrowsableStorage) -> TrainingConfig:
    """The configuration bound to its data, which is decoded into the cache if it is not there, and to its weights."""
    from resnet_dist.data.dataset import open_dataset
    from resnet_dist.data.staged import bring

    config = bind_initial_state(config, storage)
    dataset = open_dataset(bring(config.data, storage))  # limits are checked, too
    require_fit(config, storage, len(dataset.classes))
    return config.with_fingerprint(dataset.fingerprint)


def _prepared(config: TrainingConfig, storage: BrowsableStorage, name: str, say: Say) -> TrainingConfig:
    """The configuration of a run that can begin: its storage can be written, and its data is there."""
    config = check(config, name)
    storage.check_writable()
    flush_before_launch(storage, say)
    return with_data(config, storage)


def _run(job: Job, storage: Any, say: Say, on_epoch: OnEpoch, on_step: OnStep | None) -> dict[str, Any]:
    from cluster.storage.lease import lease
    from resnet_dist.records.recorder import Recorder

    config = job.config
    recorder = Recorder(storage, job.experiment, job.name, config)
    if (finished := recorder.result()) is not None:
        record_single_run(storage, job.experiment, config, job.name)
        say(f"Trial {config.trial_id()} is finished already; nothing to do.")
        return finished
    for line in described(config, storage, job.experiment):
        say(line)
    # What does not fit is refused before anything is written. One launch at a time acts on a trial.
    with placed(config, storage, say) as use_gpu, lease(storage, job.experiment, say, trial=config.trial_id()):
        put_initial_state(config, storage, storage)
        record_single_run(storage, job.experiment, config, job.name)
        return recorder.result() or run_job(job, storage, use_gpu, say, on_epoch, on_step)


def described(config: TrainingConfig, storage: Storage, name: str) -> Iterator[str]:
    """What a run is, and what its caller may not expect of it, in lines."""
    run, data = config.run, config.data
    limit = f" (the first {counted(data.train_limit, 'image')})" if data.train_limit else ""
    yield (
        f"Trial {config.trial_id()}: {config.network.depth} layers on {data.source}{limit}, "
        f"{counted(run.epochs, 'epoch')}, {run.precision}, seed {run.seed}, {counted(run.workers, 'worker')}"
    )
    yield from _note_on_schedule(config)
    yield from _note_on_other_lengths(storage, name, config)


def _note_on_schedule(config: TrainingConfig) -> Iterator[str]:
    """Say so if a run is too short for its learning rate ever to drop: `--epochs` alone does not scale milestones."""
    epochs, schedule = config.run.epochs, config.schedule
    scaled = TrainingConfig().shortened(epochs).schedule.milestones
    if schedule.kind == "step" and schedule.milestones and epochs <= schedule.milestones[0] and scaled:
        yield (
            f"Note: within {epochs} epochs the learning rate does not drop (schedule.milestones "
            f"{','.join(map(str, schedule.milestones))}); the study's, scaled: schedule.milestones "
            f"{','.join(map(str, scaled))}"
        )


def _note_on_other_lengths(storage: Storage, name: str, config: TrainingConfig) -> Iterator[str]:
    """Say so if the same run is there over other epochs: whoever gives more of them may expect it to go on."""
    if storage.get(experiment_key(name)) is None:
        return
    for trial_id, trial in read_record(storage, name)["trials"].items():
        with contextlib.suppress(ConfigurationError):  # of another version
            other = TrainingConfig.from_dict(trial["config"])
            if other.run.epochs == config.run.epochs or _without_length(other) != _without_length(config):
                continue
            yield (
                f"Note: {trial_id} is this run over {counted(other.run.epochs, 'epoch')}. How long it is decides what "
                "it is, so this is another one, from the beginning: a run that has ended leaves nothing to go on from. "
                "Give as many epochs as may be wanted at first."
            )


def _without_length(config: TrainingConfig) -> dict[str, Any]:
    return replace(
        config, run=replace(config.run, epochs=1), schedule=replace(config.schedule, milestones=())
    ).identity()
