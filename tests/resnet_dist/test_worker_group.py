"""Ray Train workers that do one piece of work after another."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
import ray.train
from ray._private.state import actors
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

from cluster.ray_cluster.connection import connected
from resnet_dist import worker_group
from resnet_dist.errors import DataError, DivergedError, StorageError, UserError
from resnet_dist.gpus import DeviceError
from resnet_dist.process_group import ProcessGroupConfig
from resnet_dist.worker_group import Mailbox, WorkerGroup, _cause, _do_one
from resnet_dist.workers import Workers, alone


def test_work_is_given_again_until_there_is_an_answer_and_no_word_on_older_work_counts() -> None:
    async def exchange() -> None:
        mailbox = Mailbox()
        await mailbox.give("first")
        assert await mailbox.take(0) == (1, "first")
        assert await mailbox.take(0) == (1, "first")  # to a group that has been started again
        await mailbox.say(1, "line", {"epoch": 1})
        await mailbox.say(1, "answer", 5)
        await mailbox.say(1, "line", {"epoch": 2})  # of a worker that did not hear that it is over
        assert await mailbox.hear() == [("line", {"epoch": 1}), ("answer", 5)]
        waiting = asyncio.create_task(mailbox.take(0))  # of one started again after the answer
        await asyncio.sleep(0)
        assert not waiting.done()
        await mailbox.give("second")
        assert await waiting == (2, "second")
        await mailbox.say(1, "answer", 6)
        later = asyncio.create_task(mailbox.hear())
        await asyncio.sleep(0)
        assert not later.done()
        await mailbox.say(2, "answer", 7)
        assert await later == [("answer", 7)]
        await mailbox.close()
        assert await mailbox.take(2) is None

    asyncio.run(exchange())


@pytest.mark.parametrize(
    "error",
    [
        ray.train.WorkerGroupError(
            "rank 1", {1: UserExceptionWithTraceback(DataError("there is no file"), "Traceback")}
        ),
        ray.train.ControllerError(DeviceError("there is no file")),
    ],
)
def test_what_a_user_can_put_right_on_a_worker_is_named(error: Exception) -> None:
    cause = _cause(error)
    assert isinstance(cause, UserError)
    assert str(cause) == "there is no file"


def test_a_bug_on_a_worker_stays_what_it_is() -> None:
    error = ray.train.WorkerGroupError("rank 1", {1: ZeroDivisionError()})
    assert _cause(error) is error


@pytest.mark.parametrize(("use_gpu", "resources"), [(True, {"CPU": 1, "GPU": 1}), (False, {"CPU": 1})])
def test_workers_ask_for_a_gpu_each_if_the_run_is_to_have_some_and_their_devices_choose_the_backend(
    use_gpu: bool, resources: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(ray.train.torch.TorchTrainer, "__init__", lambda self, *_, **settings: asked.update(settings))
    worker_group._trainer(None, pids, 2, {"storage_path": "/nowhere"}, use_gpu)
    scaling = asked["scaling_config"]
    assert (scaling.num_workers, scaling.use_gpu, scaling.resources_per_worker) == (2, use_gpu, resources)
    assert isinstance(asked["torch_config"], ProcessGroupConfig) and asked["torch_config"].backend is None


class Said:
    """Stands for a mailbox: what is said is kept."""

    def __init__(self) -> None:
        self.words: list[tuple[int, str, Any]] = []
        self.say = self

    def remote(self, *word: Any) -> None:
        self.words.append(word)


@pytest.mark.parametrize(
    ("error", "is_answer", "goes_on"),
    [
        (DivergedError("a loss is not finite"), True, True),
        (DataError("there is no file"), True, False),  # on this worker alone, perhaps
        (StorageError("the bucket does not answer"), False, False),  # it may when Ray tries again
        (ZeroDivisionError(), False, False),
    ],
)
def test_what_ends_the_work_what_ends_the_group_and_what_both(
    error: Exception, is_answer: bool, goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "get", lambda reference: reference)
    mailbox = Said()
    if goes_on:
        _do_one(mailbox, 3, fail, None, alone("cpu"))
    else:
        with pytest.raises(type(error)):
            _do_one(mailbox, 3, fail, None, alone("cpu"))
    assert mailbox.words == ([(3, "answer", error)] if is_answer else [])


def pids(work: Any, workers: Workers, say: Any) -> list[int]:
    import torch

    found = torch.zeros(workers.size, dtype=torch.int64)
    found[workers.rank] = os.getpid()
    if workers.is_first:
        say({"epoch": 1})
        say({"epoch": 2})
    if work == "diverge":
        raise DivergedError("a loss is not finite")
    if work == "fail" and not workers.is_first:
        raise DataError("there is no file")
    if work == "bug":
        raise ZeroDivisionError
    return [int(pid) for pid in workers.sum(found)]


@pytest.mark.integration
@pytest.mark.filterwarnings("default")  # Ray warns of itself
def test_one_group_does_one_piece_of_work_after_another_and_says_when_it_has_died_too_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_group, "FAILURES", 1)
    with connected():
        _require_one_after_another({"storage_path": str(tmp_path)})


def _require_one_after_another(state: dict[str, Any]) -> None:
    group = WorkerGroup(pids, 2, state, use_gpu=False)
    lines: list[dict[str, Any]] = []
    first = group.do("", lines.append)
    assert lines == [{"epoch": 1}, {"epoch": 2}]
    assert len({*first, os.getpid()}) == 3
    assert group.do("", lines.append) == first, "it was started anew"
    with pytest.raises(DivergedError, match="a loss is not finite"):
        group.do("diverge", lines.append)
    assert group.do("", lines.append) == first

    # What one alone cannot do ends the work at once, and the others, who would wait for it.
    with pytest.raises(DataError, match=r"^there is no file$"):
        group.do("fail", lines.append)
    last = group.do("", lines.append)
    assert not {*last} & {*first}

    with pytest.raises(ray.train.TrainingFailedError, match="ZeroDivisionError"):
        group.do("bug", lines.append)
    assert not group.is_alive
    started = {actor["ActorClassName"] for actor in actors().values()}
    assert "TrainController" in started, "what Ray Train starts is listed"
    assert not started & {"DatasetManager", "PlacementGroupCleaner", "PreemptionWatcher"}, "they have nothing to do"
