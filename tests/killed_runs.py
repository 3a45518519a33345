"""Runs in processes of their own that kill themselves with SIGKILL at a chosen moment, and what they left behind."""

import itertools
import json
import os
import signal
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Literal

import torch

from cluster.storage.local import LocalStorage
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.data.dataset import Dataset
from resnet_dist.records import checkpoints
from resnet_dist.records.recorder import Recorder
from resnet_dist.storage.interface import Storage, TrialKeys
from resnet_dist.storage.sending import SpooledStorage
from tests.small_runs import small_dataset
from tests.worker_processes import context

EXPERIMENT, NAME = "killed", "trial"

Event = Literal["step", "evaluation", "before write", "half written", "after write"]


@dataclass(frozen=True)
class Moment:
    """When a process kills itself: at the `count`-th such event of its life, counted from 1."""

    event: Event
    count: int
    rank: int = 0
    """Which worker. Only the first one writes; deletions count as writes."""
    key: str = ""
    """How the key of a write ends that counts; all do by default."""


class _Countdown:
    def __init__(self, moment: Moment) -> None:
        self.moment = moment
        self.left = moment.count

    def pass_by(self, event: Event, key: str = "", leave: Callable[[], object] = lambda: None) -> None:
        if event == self.moment.event and key.endswith(self.moment.key):
            self.left -= 1
            if not self.left:
                leave()
                os.kill(os.getpid(), signal.SIGKILL)


class _DeadlyStorage(LocalStorage):
    """A directory whose user may die before, after or in the middle of a write, its file there but not in place."""

    def __init__(self, root: Path, countdown: _Countdown, remote: bool) -> None:
        super().__init__(root)
        self.countdown = countdown
        self.is_remote = remote

    def put(self, key: str, data: bytes) -> None:
        self.countdown.pass_by("before write", key)
        super().put(key, data)
        self.countdown.pass_by("after write", key)

    def grow(self, key: str, data: bytes) -> None:
        self.countdown.pass_by("before write", key)
        path = self.root / key
        if path.exists() and data.startswith(here := path.read_bytes()):
            torn = here + data[len(here) : (len(here) + len(data)) // 2]
            self.countdown.pass_by("half written", key, lambda: path.write_bytes(torn))
        super().grow(key, data)
        self.countdown.pass_by("after write", key)

    def delete(self, key: str) -> None:
        self.countdown.pass_by("before write", key)
        super().delete(key)
        self.countdown.pass_by("after write", key)

    def _write(self, key: str, data: bytes, publish: Callable[[Path, Path], Any]) -> Any:
        def publish_or_die(temporary: Path, target: Path) -> Any:
            self.countdown.pass_by("half written", key)
            return publish(temporary, target)

        return super()._write(key, data, publish_or_die)


def attempt(
    config: TrainingConfig,
    root: Path,
    workers: int = 1,
    moment: Moment | None = None,
    dataset: Dataset | None = None,
    remote: bool = False,
) -> bool:
    """Run or go on with a run of `config` on gloo workers, its records below `root`.

    `remote` storage is written in the background, through the spool that `RESNET_DIST_SPOOL` names.

    True if it came to its end. When one worker dies the others are killed, as by a cluster that loses a node.
    """
    with tempfile.TemporaryDirectory() as meeting:
        data = dataset or (None if config.data.is_streamed else small_dataset())
        arguments = (config, data, root, Path(meeting) / "store", workers, moment, remote)
        processes = [context.Process(target=_worker, args=(rank, *arguments), daemon=True) for rank in range(workers)]
        for process in processes:
            process.start()
        running = list(processes)
        try:
            while running:
                assert wait([process.sentinel for process in running], timeout=900), "the workers hang"
                for process in [process for process in running if not process.is_alive()]:
                    running.remove(process)
                    if process.exitcode:
                        # Where one has killed itself, the other may have failed for want of it.
                        dead = {process.exitcode for process in processes if not process.is_alive()}
                        assert moment is not None and -signal.SIGKILL in dead, f"a worker failed: {dead}"
                        return False
        finally:
            for process in processes:
                process.kill()
                process.join()
    return True


def _worker(
    rank: int,
    config: TrainingConfig,
    dataset: Dataset | None,
    root: Path,
    store: Path,
    size: int,
    moment: Moment | None,
    remote: bool,
) -> None:
    import torch.distributed as dist

    from cluster.storage import opening  # noqa: F401 - shards are opened by it
    from resnet_dist.data.dataset import open_dataset
    from resnet_dist.training.evaluation import ImageSet
    from resnet_dist.training.loop import train
    from resnet_dist.workers import alone, current

    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(minutes=15)
        )
    countdown = _Countdown(moment if moment and moment.rank == rank else Moment("step", 0))
    evaluate = ImageSet._logits

    def evaluate_or_die(self: ImageSet, *arguments: Any) -> torch.Tensor:
        logits = evaluate(self, *arguments)
        countdown.pass_by("evaluation")  # the network is in evaluation mode and nothing is recorded
        return logits

    ImageSet._logits = evaluate_or_die  # type: ignore[method-assign, assignment]
    device = "cuda" if config.run.device == "cuda" else "cpu"
    workers = current(device) if size > 1 else alone(device)
    with ExitStack() as stack:
        recorder = None
        if rank == 0:
            storage = SpooledStorage(_DeadlyStorage(root, countdown, remote), EXPERIMENT, config.trial_id())
            recorder = Recorder(stack.enter_context(storage), EXPERIMENT, NAME, config)
        train(
            config,
            dataset or open_dataset(config.data),
            workers,
            recorder,
            on_step=lambda step, loss: countdown.pass_by("step"),
        )
    if size > 1:
        dist.destroy_process_group()


@dataclass(frozen=True)
class Outcome:
    """What a finished run left in storage, times and timings aside."""

    weights: dict[str, torch.Tensor]
    lines: list[dict[str, Any]]
    """Of `metrics.jsonl`, in the order in which they stand there."""
    events: list[tuple[str, str, int, float | bytes]]
    """Every point in every event file: folder, tag, step, value; sorted."""

    def same_bits(self, other: "Outcome") -> bool:
        """Whether nothing differs."""
        equal = self.weights.keys() == other.weights.keys() and all(
            torch.equal(value, other.weights[name]) for name, value in self.weights.items()
        )
        return equal and self.lines == other.lines and self.events == other.events


def epochs_kept(experiment: Path) -> dict[Path, list[str]]:
    """Of each trial that is to go on from a checkpoint: its metrics, and the lines of those epochs, times and all.

    Who trains an epoch again writes other times.
    """
    kept = {}
    for file in experiment.glob("trials/*/metrics.jsonl"):
        steps = [int(path.parent.name) for path in file.parent.glob("checkpoints/*/manifest.json")]
        if steps and not file.with_name("result.json").exists():
            lines = file.read_text().split("\n")[:-1]  # one that is being written, or was torn by a kill, is none
            if of_checkpoint := [line for line in lines if json.loads(line)["step"] <= max(steps)]:
                kept[file] = of_checkpoint
    return kept


def require_kept(kept: dict[Path, list[str]]) -> None:
    """Hold trials to what `epochs_kept` has seen of them."""
    for file, lines in kept.items():
        assert file.read_text().splitlines()[: len(lines)] == lines, f"{file}: an epoch was trained again"


TIMINGS = ("seconds", "images_per_second")


def outcome(storage: Storage, config: TrainingConfig, experiment: str = EXPERIMENT) -> Outcome:
    """Read what a finished run left."""
    keys = TrialKeys(experiment, config.trial_id())
    model, metrics = storage.get(keys.model), storage.get(keys.metrics)
    assert storage.get(keys.result) and model and metrics, "the run is not finished"
    lines = [json.loads(line) for line in metrics.splitlines()]
    assert all(line[timing] > 0 for line in lines for timing in TIMINGS)
    lines = [{name: value for name, value in line.items() if name not in TIMINGS} for line in lines]
    return Outcome(checkpoints.decode(model)["network"], lines, points(storage, experiment))


def points(storage: Storage, experiment: str) -> list[tuple[str, str, int, float | bytes]]:
    """Every value in every event file below `tb/`, read by TensorBoard's own loader; none may stand there twice.

    It is a scalar's number, and the whole content of anything else.
    """
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found: list[tuple[str, str, int, float | bytes]] = []
    for item in storage.list(f"{experiment}/tb/"):
        assert "tfevents" in item.key, f"{item.key} is no event file"
        for event in EventFileLoader(f"{storage.uri}/{item.key}").Load():
            for value in event.summary.value:
                scalar = value.metadata.plugin_data.plugin_name == "scalars"
                content = value.tensor.float_val[0] if scalar else value.SerializeToString()
                found.append((item.key.rpartition("/")[0], value.tag, event.step, content))
    found.sort(key=lambda point: point[:3])
    for point, following in itertools.pairwise(found):
        assert point[:3] != following[:3], f"{point[:3]} is there twice"
    return [point for point in found if point[1] != "train/images_per_second"]
