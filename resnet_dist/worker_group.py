"""A group of Ray Train workers that does one piece of work after another: to start one takes longer than a short run.

The workers ask a mailbox for what is next. It outlives them: a group that Ray Train has started again, because a
process or a node died, is given the same work once more, until there is an answer.
"""

import asyncio
import os
import threading
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from resnet_dist.errors import DivergedError, StorageError, UserError, WaitingError

if TYPE_CHECKING:  # torch takes seconds and memory, and the mailbox needs none
    from resnet_dist.workers import Workers

FAILURES = 3
"""Times that a group is started again after one of its processes or nodes died."""

Say = Callable[[dict[str, Any]], None]
Do = Callable[[Any, "Workers", Say], Any]
"""What each worker does with a piece of work: it may say lines meanwhile. The first worker's answer is the group's; a
`UserError` is an answer, too."""


class Mailbox:
    """The work at hand, and what is said of it: a Ray actor beside the driver."""

    def __init__(self) -> None:
        self._turn = 0
        self._work: Any = None
        self._asked = self._closed = False
        self._said: list[tuple[str, Any]] = []
        self._changed = asyncio.Condition()

    async def give(self, work: Any) -> None:
        """Replace the work at hand."""
        async with self._changed:
            self._turn += 1
            self._work, self._asked, self._said = work, True, []
            self._changed.notify_all()

    async def close(self) -> None:
        """Let workers that ask for more go home."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    async def take(self, done: int) -> tuple[int, Any] | None:
        """Number and content of work without an answer, later than number `done`, as soon as there is some."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or (self._asked and self._turn > done))
            return None if self._closed else (self._turn, self._work)

    async def say(self, turn: int, kind: str, what: Any) -> None:
        """A `line` on work of this number, or its `answer`; nothing more is heard of work that has one."""
        async with self._changed:
            if self._asked and turn == self._turn:
                self._said.append((kind, what))
                self._asked = kind != "answer"
                self._changed.notify_all()

    async def hear(self) -> list[tuple[str, Any]]:
        """What has been said since the last call, as soon as there is something."""
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._said))
            said, self._said = self._said, []
            return said


class WorkerGroup:
    """Workers of a Ray cluster that is connected already. They live until `close`, or as long as this process."""

    def __init__(self, do: Do, workers: int, ray_storage: dict[str, Any], use_gpu: bool) -> None:
        """Start the workers, each with a GPU if `use_gpu`, without waiting for them.

        `ray_storage` says where Ray keeps its own state of the group, as arguments of Ray's `RunConfig` say it: a
        directory that all nodes share, or S3.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._mailbox: Any = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
        self._trainer = _trainer(self._mailbox, do, workers, ray_storage, use_gpu)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._fit, name="worker group", daemon=True)
        self._thread.start()

    def _fit(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as error:  # raised where somebody waits for the workers
            self._error = error

    @property
    def is_alive(self) -> bool:
        """Whether it takes more work."""
        return self._thread.is_alive()

    def do(self, work: Any, on_line: Say) -> Any:
        """Give the workers something to do, wait for the answer, and hand on what they say meanwhile.

        Raises what is the user's to put right, or Ray's `TrainingFailedError` if workers died too often.
        """
        import ray

        ray.get(self._mailbox.give.remote(work))
        while True:
            heard = self._mailbox.hear.remote()
            while not ray.wait([heard], timeout=1)[0]:
                if not self.is_alive:
                    raise _cause(self._error)
            for kind, what in ray.get(heard):
                if kind == "line":
                    on_line(what)
                elif isinstance(what, UserError):
                    raise what
                else:
                    return what

    def close(self) -> None:
        """Let the workers go, and wait until their places are free."""
        self._mailbox.close.remote()
        self._thread.join()


def _trainer(mailbox: Any, do: Do, workers: int, ray_storage: dict[str, Any], use_gpu: bool) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from resnet_dist.process_group import ProcessGroupConfig

    # A group whose nodes are still being started by an autoscaler takes longer than Ray's minute.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1800")
    resources = {"CPU": 1, **({"GPU": 1} if use_gpu else {})}
    trainer: Any = TorchTrainer(
        _serve,
        train_loop_config={"mailbox": mailbox, "do": do},
        torch_config=ProcessGroupConfig(),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name=f"train-{uuid.uuid4().hex[:12]}",  # Train would go on with an older one of the same name
            failure_config=FailureConfig(max_failures=FAILURES),
            **ray_storage,
        ),
    )
    made = trainer._create_default_callbacks
    trainer._create_default_callbacks = lambda: [one for one in made() if not _is_superfluous(type(one).__name__)]
    return trainer


def _is_superfluous(callback: str) -> bool:
    """Whether Ray Train need not do this: each starts a process at every start of a group, with all of Ray Train in it.

    One deals out Ray's data sets, of which runs have none. One gives places back when the group's driver is gone, which
    it asks the dashboard about: it waits for ever where there is no dashboard, as in a Ray of our own.
    """
    from ray._private.services import get_webui_url_from_internal_kv

    if callback == "PlacementGroupCleanerCallback":
        return not get_webui_url_from_internal_kv()
    return callback == "DatasetsCallback"


def _cause(error: Any) -> BaseException:
    """What the user can put right among what workers, or what starts them, failed with; else the error itself."""
    for failure in [*getattr(error, "worker_failures", {}).values(), getattr(error, "controller_failure", None)]:
        cause = getattr(failure, "_base_exc", failure)  # Ray's wrapper has no public name for what is in it
        if isinstance(cause, UserError):
            return cause
    return error if isinstance(error, BaseException) else RuntimeError("the workers ended without an answer")


def _serve(loop_config: dict[str, Any]) -> None:
    """What each worker runs, from its start to its end."""
    import ray

    mailbox, do, workers = loop_config["mailbox"], loop_config["do"], this_worker()
    done = 0
    while (given := ray.get(mailbox.take.remote(done))) is not None:
        done, work = given
        _do_one(mailbox, done, do, work, workers)


def this_worker() -> "Workers":
    """This process among those of its group, on the device that Ray has given it."""
    import torch.distributed as dist

    from resnet_dist.gpus import assigned_device
    from resnet_dist.workers import Workers, take_turns

    workers = Workers(dist.get_rank(), dist.get_world_size(), assigned_device())
    if workers.device.type == "cpu":
        take_turns()
    return workers


def _do_one(mailbox: Any, turn: int, do: Do, work: Any, workers: "Workers") -> None:
    import ray

    try:
        answer = do(work, workers, lambda line: mailbox.say.remote(turn, "line", line))
    except (DivergedError, WaitingError) as error:  # it is over on every worker
        answer = error
    except UserError as error:
        if not isinstance(error, StorageError):  # which may be back: Ray is to try again
            ray.get(mailbox.say.remote(turn, "answer", error))
        raise  # the other workers may be waiting for this one, and are started anew
    if workers.is_first:
        ray.get(mailbox.say.remote(turn, "answer", answer))
