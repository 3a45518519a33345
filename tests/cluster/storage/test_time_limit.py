"""Calls that end in time."""

import threading

import pytest

from cluster.storage.time_limit import UnansweredError, bounded


def test_what_a_call_returns_and_raises_comes_through() -> None:
    assert bounded(lambda _: threading.current_thread().daemon, 60)
    with pytest.raises(ZeroDivisionError):
        bounded(lambda _: 1 / 0, 60)


def test_one_of_which_nothing_comes_is_given_up_and_one_that_gets_on_is_not() -> None:
    waiting, released = threading.Event(), threading.Event()

    def step_by_step(progress: object) -> int:
        assert callable(progress)
        for _ in range(20):
            waiting.wait(0.1)
            progress("a step")
        return 20

    assert bounded(step_by_step, 1.5) == 20
    with pytest.raises(UnansweredError):
        bounded(lambda _: released.wait(60), 0.01)
    released.set()
