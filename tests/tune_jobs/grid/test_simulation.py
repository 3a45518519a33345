"""How long a grid occupies a cluster, in cases that can be reckoned by hand."""

import pytest

from tune_jobs.grid.run import RETRIES
from tune_jobs.grid.simulation import Times, Work, simulate

NOTHING = Times()


def test_each_trial_begins_as_soon_as_there_is_room() -> None:
    # 4 and 3, then 2 after the 3, and 1 after the 4: both places end at 5.
    found = simulate([Work(4), Work(3), Work(2), Work(1)], 2, NOTHING)
    assert found.seconds == 5 and found.busy == 10 and found.launches == 1


def test_what_is_not_training_counts_once_for_ray_once_for_a_process_and_once_for_a_trial() -> None:
    times = Times(ray=100, process=10, trial=1)
    found = simulate([Work(5)] * 4, 2, times)
    assert found.seconds == 100 + 10 + 2 * (1 + 5) and found.busy == 2 * 10 + 4 * 6


def test_groups_of_workers_run_by_themselves_and_take_as_many_places() -> None:
    times = Times(process=1, group=20, group_trial=2)
    found = simulate([Work(10, workers=2)] * 2 + [Work(5)] * 3, 3, times)
    assert found.seconds == (1 + 5) + (20 + 2 * 12) and found.busy == 3 * 6 + 2 * (20 + 24)


def test_a_launcher_that_is_busy_with_one_trial_keeps_the_others_waiting() -> None:
    found = simulate([Work(1, launcher_seconds=2)] * 10, 10, NOTHING)
    assert found.seconds == 10 * 2 + 1


def test_a_lost_machine_costs_what_came_after_the_last_checkpoint_and_what_starts_again() -> None:
    times = Times(process=10, replacement=100)
    whole = simulate([Work(36_000, checkpoint_seconds=60)] * 20, 10, times)
    lost = simulate([Work(36_000, checkpoint_seconds=60)] * 20, 10, times, preemptions_an_hour=0.05)
    assert whole.preemptions == 0 and lost == simulate(
        [Work(36_000, checkpoint_seconds=60)] * 20, 10, times, preemptions_an_hour=0.05
    ), "the same draws each time"
    assert 3 <= lost.preemptions <= 25, "ten are to be expected of 200 hours"
    assert 0 < lost.lost <= 60 * lost.preemptions
    # What was trained, beyond what was done twice, is the same; each lost place starts a process, if it is used again.
    started = lost.busy - whole.busy - lost.lost
    assert -1e-6 <= started <= 10 * lost.preemptions
    assert lost.seconds > whole.seconds


class Drawn:
    """What is drawn of preemptions: given seconds, and then none; keeps the rates that were asked for."""

    def __init__(self, *seconds: float) -> None:
        self.seconds = list(seconds)
        self.rates: list[float] = []

    def expovariate(self, rate: float) -> float:
        self.rates.append(rate)
        return self.seconds.pop(0) if self.seconds else float("inf")


def test_a_group_loses_any_of_its_machines_and_each_worker_what_came_after_the_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 10 to start, 5 beyond, 70 of training, of which 60 are kept; 50 later 10 + 5 + the other 40.
    drawn = Drawn(85)
    monkeypatch.setattr("tune_jobs.grid.simulation.random.Random", lambda _: drawn)
    times = Times(group=10, group_trial=5, replacement=50)
    found = simulate([Work(100, workers=2, checkpoint_seconds=30)], 2, times, preemptions_an_hour=0.5)
    assert drawn.rates == [2 * 0.5 / 3600] * 2
    assert (found.seconds, found.busy) == (85 + 50 + 55, 2 * (85 + 55))
    assert (found.preemptions, found.lost, found.launches) == (1, 2 * 10, 1)


@pytest.mark.parametrize(("losses", "launches"), [(RETRIES, 1), (RETRIES + 1, 2)])
def test_a_trial_waits_for_the_next_launch_once_it_was_started_again_as_often_as_it_may(
    losses: int, launches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune_jobs.grid.simulation.random.Random", lambda _: Drawn(*[1.0] * losses))
    assert simulate([Work(100)], 1, NOTHING, preemptions_an_hour=1).launches == launches


def test_without_checkpoints_all_is_lost_and_who_loses_a_machine_too_often_waits_for_the_next_launch() -> None:
    found = simulate([Work(7200)] * 4, 4, Times(ray=10), preemptions_an_hour=1)
    assert found.launches > 1 and found.preemptions >= 3
    assert found.busy == pytest.approx(4 * 7200 + found.lost)
