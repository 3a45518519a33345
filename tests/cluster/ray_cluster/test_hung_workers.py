"""Workers that are watched: one that hangs is ended once, what happened is one line, and a slow one is left alone."""

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import ray

from cluster.ray_cluster import hung_workers
from cluster.ray_cluster.hung_workers import PAUSES, Watch, seconds_from_environment
from resnet_dist.errors import UserError
from resnet_dist.heartbeat import Sign

SECONDS = 30.0
HERE = "ab" * 28
"""A node's id."""


class Group:
    """A trial's workers, a clock, and what is said and ended."""

    def __init__(self, size: int = 2) -> None:
        self.now = 0.0
        self.said: list[str] = []
        self.ended: list[int] = []
        self.is_there = True
        self.watch = Watch(SECONDS, self.said.append, self.end, lambda: self.now)
        self.signs = [
            Sign("abc", "20-layers/abc", rank, size, 100 + rank, "host", "node", f"first-{rank}")
            for rank in range(size)
        ]

    def end(self, sign: Sign) -> bool:
        self.ended.append(sign.rank)
        return self.is_there

    def look(self, seconds: float = 2.0, **changes: Any) -> None:
        """Let time go by, and every worker that is not stopped give a sign."""
        stopped = changes.pop("stopped", ())
        self.now += seconds
        for rank, sign in enumerate(self.signs):
            if rank not in stopped:
                self.signs[rank] = replace(sign, beat=sign.beat + 1, **changes)
        self.watch.look(self.signs)

    def run(self, *steps: int, first: int = 1) -> None:
        for step in steps:
            self.look(first_step=first, step=step)

    def start_again(self, first: int) -> None:
        """As Ray does: all processes are new."""
        before = self.signs
        again = [
            replace(sign, attempt=f"{sign.attempt}'", process=sign.process + 50, beat=0, step=0, first_step=0, ended="")
            for sign in before
        ]
        for replaced in range(len(before)):  # the last one is there first
            self.signs = [*before[: -replaced - 1], *again[-replaced - 1 :]]
            self.now += 2.0
            self.watch.look(self.signs)
        assert not any("goes on" in line for line in self.said)
        self.run(first, first=first)


def test_a_worker_that_is_stopped_is_ended_once_and_the_trial_goes_on() -> None:
    group = Group()
    group.run(1, 2, 3)
    while group.now < 6 + SECONDS:
        group.look(stopped=[1])
        assert not group.ended
    for _ in range(3):
        group.look(stopped=[1])
    assert group.ended == [1]
    assert group.said == [
        "20-layers/abc: worker 2 of 2 (process 101 on host) has given no sign of life for 30 s and is ended; the trial "
        "starts again from its last checkpoint"
    ]
    group.signs[0] = replace(group.signs[0], ended="RuntimeError: Connection closed by peer")
    group.look(stopped=[0, 1])
    group.start_again(3)
    assert group.said[1:] == ["20-layers/abc: goes on from step 2"]


def test_workers_that_wait_for_one_another_for_ever_are_all_ended() -> None:
    group = Group()
    group.run(1, 2)
    while group.now <= 4 + SECONDS:
        group.look()
    group.look()
    assert group.ended == [0, 1]
    assert all("has made no step for 30 s and is ended" in line for line in group.said)


@pytest.mark.parametrize(("size", "survivor_fails"), [(1, False), (2, True), (2, False)])
def test_a_worker_that_dies_is_one_line_when_the_trial_goes_on(size: int, survivor_fails: bool) -> None:
    group = Group(size)
    group.run(1, 2, 3)
    if survivor_fails:
        group.signs[0] = replace(group.signs[0], ended="RuntimeError: Connection closed by peer")
        group.look(stopped=[0, 1])
    group.start_again(41)
    group.run(42, 43, first=41)
    dead = [f"worker {rank} of {size} (process {99 + rank} on host) died" for rank in range(1, size + 1)]
    said = "; ".join(dead[1:] if survivor_fails else dead)  # a survivor may be ended before it can say how
    assert group.said == [f"20-layers/abc: {said}; the trial goes on from step 40"] and not group.ended


def test_one_that_has_died_and_is_started_again_late_is_not_said_to_hang() -> None:
    group = Group(1)
    group.is_there = False
    group.run(1, 2, 3)
    for _ in range(30):
        group.look(stopped=[0])
    assert group.ended and not group.said
    group.start_again(3)
    assert group.said == ["20-layers/abc: worker 1 of 1 (process 100 on host) died; the trial goes on from step 2"]


def test_workers_whose_fellow_has_died_are_left_to_ray() -> None:
    group = Group()
    group.run(1, 2, 3)
    group.signs[0] = replace(group.signs[0], ended="RuntimeError: Connection closed by peer")
    for _ in range(100):
        group.look(stopped=[0, 1])
    assert not group.ended and not group.said


def test_a_trial_without_a_checkpoint_begins_again() -> None:
    group = Group(1)
    group.run(1)
    group.start_again(1)
    assert group.said == ["20-layers/abc: worker 1 of 1 (process 100 on host) died; the trial begins again"]


def test_a_worker_that_fails_is_said_to_with_its_reason() -> None:
    group = Group(1)
    group.run(1, 2)
    group.signs[0] = replace(group.signs[0], ended="StorageError: the bucket does not answer")
    group.look(stopped=[0])
    group.start_again(2)
    assert group.said == [
        "20-layers/abc: worker 1 of 1 (process 100 on host) failed: StorageError: the bucket does not answer; "
        "the trial goes on from step 1"
    ]


def test_evaluations_that_take_long_and_preparations_before_the_first_step_are_waited_for() -> None:
    group = Group()
    for _ in range(100):
        group.look()  # decoding images, say
    group.run(1, 2)
    group.look(0.9 * SECONDS, step=2)
    group.run(3)
    group.run(4)
    while group.now < 200 + SECONDS * 0.8 * PAUSES:
        group.look(step=4)
    assert not group.ended
    group.run(5)
    assert not group.said


def test_a_worker_that_is_stopped_before_its_first_step_is_ended() -> None:
    group = Group()
    group.look()
    while group.now < SECONDS:
        group.look(stopped=[1])
    assert not group.ended
    for _ in range(3):
        group.look(stopped=[1])
    assert group.ended == [1]


def test_a_trial_that_was_ended_has_twice_as_long_the_next_time() -> None:
    group = Group(1)  # whose first evaluation takes longer than that
    for attempt, limit in enumerate((SECONDS, 2 * SECONDS, 4 * SECONDS)):
        group.run(1) if not attempt else group.start_again(1)
        group.said.clear()
        group.run(2)
        begun = group.now
        while group.now < begun + limit:
            group.look()
            assert len(group.ended) == attempt
        group.look()
        assert len(group.ended) == attempt + 1
        assert f"has made no step for {limit:.0f} s" in group.said[-1]
        group.said.clear()


def test_who_has_ended_is_not_waited_for() -> None:
    group = Group(1)
    group.run(1, 2)
    group.signs[0] = replace(group.signs[0], ended="DivergedError: a loss is not finite")
    for _ in range(100):
        group.look(stopped=[0])
    assert not group.ended and not group.said


@pytest.mark.parametrize("text", ["0", "-3", "soon", "nan"])
def test_a_time_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(hung_workers.VARIABLE, text)
    with pytest.raises(UserError, match="must be seconds from 1"):
        seconds_from_environment()
    monkeypatch.setenv(hung_workers.VARIABLE, "")
    assert seconds_from_environment() == hung_workers.DEFAULT_SECONDS


def test_a_worker_is_ended_where_it_runs_and_one_whose_node_is_gone_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    class Asked:
        """Stands in the place of a task on a node."""

        def __init__(self, function: Callable[[int], bool]) -> None:
            self.function = function

        def options(self, scheduling_strategy: Any) -> "Asked":
            self.node = scheduling_strategy.node_id
            return self

        def remote(self, process: int) -> Callable[[], bool]:
            def run() -> bool:
                if self.node != HERE:
                    raise ray.exceptions.TaskUnschedulableError("the node is gone")
                return self.function(process)

            return run

    monkeypatch.setattr(ray, "remote", lambda **_: Asked)
    monkeypatch.setattr(ray, "get", lambda asked, timeout: asked())
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    try:
        sign = Sign("abc", "20-layers/abc", 0, 1, worker.pid, "host", HERE, "first")
        assert not hung_workers.end_process(replace(sign, node="cd" * 28))
        assert worker.poll() is None
        assert hung_workers.end_process(sign)
        assert worker.wait(60) == -signal.SIGKILL
        assert not hung_workers.end_process(sign)
    finally:
        worker.kill()
        worker.wait(60)
