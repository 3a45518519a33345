"""One launch of an experiment acts at a time: the lease in storage. Clocks are the tests' own, so nothing waits."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.storage.lease import (
    GIVE_UP,
    LARGEST_SKEW,
    RENEWALS,
    Lease,
    LeaseLostError,
    duration_from_environment,
    is_held,
    lease,
)
from cluster.storage.local import LocalStorage
from cluster.storage.opening import open_storage
from resnet_dist.errors import StorageError, UserError
from resnet_dist.storage.interface import Storage
from tests.unreliable_storage import UnreliableStorage

DURATION = 300.0


class Clock:
    """Time that passes when someone sleeps; `at_each_sleep` is what others do meanwhile."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.at_each_sleep: Callable[[], None] = lambda: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.at_each_sleep()


class Launches:
    """Launches of one experiment on different machines that share a clock's rate and nothing else."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.clock = Clock()
        self.told: list[str] = []

    def new(self, trial: str = "") -> Lease:
        launch = Lease(self.storage, "grid", DURATION, self.clock, self.clock.sleep, trial)
        elsewhere = {"machine": "another", "pid": 1, "started": 1}
        launch.holder = replace(launch.holder, process=elsewhere, who=f"process of {launch.holder.token}")
        return launch

    def take(self) -> Lease:
        launch = self.new()
        launch.take(self.told.append)
        return launch

    def objects(self) -> list[str]:
        return [item.key for item in self.storage.list("grid/")]


@pytest.fixture(params=["directory", pytest.param("s3", marks=pytest.mark.integration)])
def launches(request: pytest.FixtureRequest, tmp_path: Path) -> Launches:
    uri = str(tmp_path / "results")
    if request.param == "s3":
        uri = f"s3://{request.getfixturevalue('bucket')}/results"
    return Launches(open_storage(uri))


def test_a_living_holder_is_named_and_keeps_the_lease(launches: Launches) -> None:
    holder = launches.take()
    launches.clock.at_each_sleep = holder.renew
    with pytest.raises(UserError) as refused:
        launches.take()
    assert holder.holder.who in str(refused.value) and holder.holder.since in str(refused.value)
    assert len(launches.told) == 1 and "watching for up to 300 s" in launches.told[0]
    assert launches.clock.now - 1000 <= DURATION / RENEWALS, "it is refused at the first sign of life"
    holder.renew()
    holder.check()


def test_a_released_lease_is_had_at_once_and_leaves_one_object(launches: Launches) -> None:
    for _ in range(3):
        launches.take().release()
    assert launches.clock.now == 1000 and not launches.told
    assert launches.objects() == ["grid/.lease/00000003.json"]


def test_a_lease_that_is_released_while_it_is_watched_is_had_at_once(launches: Launches) -> None:
    holder = launches.take()
    launches.clock.at_each_sleep = holder.release
    successor = launches.take()
    assert successor.generation == 2
    assert launches.clock.now - 1000 <= DURATION / RENEWALS


def test_the_end_of_a_launch_does_not_wait_for_a_storage_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.storage.lease.RELEASE_PATIENCE", 0.05)
    storage = UnreliableStorage(tmp_path)
    launch = Launches(storage).take()
    storage.gate.clear()
    launch.release()
    assert storage.under_way and not storage.done, "it has not waited for the write"
    storage.gate.set()


def test_a_dead_holders_lease_is_taken_over_after_its_duration_and_not_before(launches: Launches) -> None:
    dead = launches.take()
    dead.renew()
    successor = launches.take()
    assert launches.clock.now - 1000 >= DURATION
    assert successor.generation == dead.generation + 1


def test_a_lease_that_is_old_by_its_own_word_is_taken_at_once(launches: Launches) -> None:
    dead = launches.take()
    dead.holder = replace(dead.holder, renewed=time.time() - DURATION - LARGEST_SKEW - 1)
    launches.storage.put("grid/.lease/00000001.json", dead.holder.to_json())
    launches.take()
    assert launches.clock.now == 1000


@pytest.mark.parametrize("skew", [-LARGEST_SKEW, LARGEST_SKEW])
def test_a_living_holder_whose_clock_is_wrong_keeps_the_lease(launches: Launches, skew: float) -> None:
    holder = launches.take()

    def renew() -> None:
        holder.renew()
        wrong = replace(holder.holder, renewed=time.time() + skew)
        launches.storage.put("grid/.lease/00000001.json", wrong.to_json())

    renew()
    launches.clock.at_each_sleep = renew
    with pytest.raises(UserError, match="another launch is at work"):
        launches.take()


def test_a_run_outlives_an_outage_and_stops_for_who_has_taken_its_trial_over(launches: Launches) -> None:
    run = launches.new("0123456789abcdef")
    run.take(launches.told.append)
    launches.clock.now += 10 * DURATION  # no renewal came through
    run.renew()
    run.check()
    successor = launches.new("0123456789abcdef")
    successor.take(launches.told.append)
    with contextlib.suppress(StorageError):
        run.renew()
    with pytest.raises(LeaseLostError, match=f"grid, trial 0123456789abcdef: .*{successor.holder.token}"):
        run.check()


def test_leases_of_trials_and_of_their_experiment_are_each_for_themselves(launches: Launches) -> None:
    held = [launches.new(trial) for trial in ("0123456789abcdef", "1123456789abcdef", "")]
    for launch in held:
        launch.take(launches.told.append)
    assert launches.objects() == [
        "grid/.lease/00000001.json",
        "grid/.lease/0123456789abcdef/00000001.json",
        "grid/.lease/1123456789abcdef/00000001.json",
    ]
    assert not launches.told


def test_a_holder_that_cannot_renew_gives_up_before_anyone_may_take_over(launches: Launches) -> None:
    holder = launches.take()
    launches.clock.now += GIVE_UP * DURATION + 1
    holder.renew()
    with pytest.raises(LeaseLostError, match="could not be renewed for 226 s"):
        holder.check()
    assert json.loads(launches.storage.get("grid/.lease/00000001.json") or b"")["renewals"] == 0


def test_a_holder_sees_that_another_has_taken_over(launches: Launches) -> None:
    stopped = launches.take()
    successor = launches.take()
    stopped._renewed = launches.clock.now  # as if its clock had stood still with it
    stopped.renew()
    with pytest.raises(LeaseLostError, match=f"taken over: {successor.holder.who}"):
        stopped.check()
    successor.renew()
    successor.check()


class TakenOverDuringARenewal(LocalStorage):
    """A directory in which the holder's renewal lands just before a successor's object does."""

    holder: Lease | None = None

    def create(self, key: str, data: bytes) -> bool:
        holder, self.holder = self.holder, None
        if holder:
            holder._renewed = holder._clock()  # the renewal had begun in time
            holder.renew()
        return super().create(key, data)


def test_who_takes_over_during_a_renewal_acts_only_after_the_holder_must_have_noticed(tmp_path: Path) -> None:
    storage = TakenOverDuringARenewal(tmp_path)
    launches = Launches(storage)
    holder = launches.take()
    storage.holder = holder
    successor = launches.take()
    assert launches.clock.now - holder._renewed >= DURATION > GIVE_UP * DURATION
    successor.check()
    holder.renew()
    with pytest.raises(LeaseLostError):
        holder.check()


def test_of_many_launches_at_once_one_gets_the_lease(launches: Launches) -> None:
    ready = threading.Barrier(6)
    winners: list[Lease] = []
    refusals: list[UserError] = []

    def wait_for_a_sign_of_life(seconds: float) -> None:
        for winner in winners:
            winner.renew()

    def compete() -> None:
        launch = launches.new()
        launch._sleep = wait_for_a_sign_of_life
        ready.wait()
        try:
            launch.take(lambda _: None)
            winners.append(launch)
        except UserError as error:
            refusals.append(error)

    threads = [threading.Thread(target=compete) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1 and len(refusals) == 5


def test_a_killed_process_of_this_machine_is_known_to_be_dead_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, time; from cluster.storage.lease import lease; from cluster.storage.opening import open_storage\n"
        "with lease(open_storage(sys.argv[1]), 'grid'): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        process.kill()
    told: list[str] = []
    with lease(open_storage(str(tmp_path)), "grid", told.append) as held:
        assert held.generation == 2 and not told


def test_a_living_process_of_this_machine_is_refused_to_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, time; from cluster.storage.lease import lease; from cluster.storage.opening import open_storage\n"
        "with lease(open_storage(sys.argv[1]), 'grid'): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    told: list[str] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout and process.stdout.readline() == "held\n"
        refused = pytest.raises(UserError, match=f"another launch is at work in .*: process {process.pid} on")
        with refused, lease(open_storage(str(tmp_path)), "grid", told.append):
            pass
        process.stdin.close()
    assert not told
    with lease(open_storage(str(tmp_path)), "grid", told.append):
        assert not told


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_launch_releases_its_lease(tmp_path: Path, stop: signal.Signals) -> None:
    storage = open_storage(str(tmp_path))
    with pytest.raises(KeyboardInterrupt), lease(storage, "grid"):
        os.kill(os.getpid(), stop)
        while True:
            time.sleep(1)
    assert json.loads(storage.get("grid/.lease/00000001.json") or b"")["released"]


def test_a_launch_that_fails_while_it_takes_the_lease_releases_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = LocalStorage(tmp_path)
    with lease(storage, "grid"):
        pass

    def refuse(key: str) -> None:
        raise StorageError(f"cannot delete {key}")

    monkeypatch.setattr(storage, "delete", refuse)
    with pytest.raises(StorageError, match="cannot delete"), lease(storage, "grid"):
        raise AssertionError("the launch acts")
    assert json.loads(storage.get("grid/.lease/00000002.json") or b"")["released"]


def test_a_launch_that_is_refused_writes_nothing(launches: Launches) -> None:
    holder = launches.take()
    launches.clock.at_each_sleep = holder.renew
    second = launches.new()
    with pytest.raises(UserError):
        second.take(launches.told.append)
    before = launches.storage.get("grid/.lease/00000001.json")
    second.release()
    assert launches.storage.get("grid/.lease/00000001.json") == before
    assert launches.objects() == ["grid/.lease/00000001.json"]


def test_a_launch_that_loses_its_lease_is_interrupted_and_says_to_whom(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    with (
        pytest.raises(LeaseLostError, match="taken over: a launch that left no readable name"),
        lease(storage, "grid", duration=20.0),
    ):
        storage.create("grid/.lease/00000002.json", b"?")
        while True:
            time.sleep(1)


def test_a_lease_that_cannot_be_read_is_watched_like_any_other(launches: Launches) -> None:
    launches.storage.put("grid/.lease/00000004.json", b"no JSON")
    assert launches.take().generation == 5
    assert launches.clock.now - 1000 >= DURATION


@pytest.mark.parametrize(
    ("seconds", "released", "held"), [(0, False, True), (GIVE_UP * DURATION + 1, False, False), (0, True, False)]
)
def test_who_only_watches_sees_whether_a_launch_holds_the_lease(
    launches: Launches, seconds: float, released: bool, held: bool
) -> None:
    assert not is_held(launches.storage, "grid")
    holder = launches.take().holder
    said = replace(holder, renewed=time.time() - seconds, released=released)
    launches.storage.put("grid/.lease/00000001.json", said.to_json())
    assert is_held(launches.storage, "grid") is held


class SlowWrites(LocalStorage):
    """A directory to which each write takes some of the clock's seconds."""

    clock: Clock
    seconds = 0.0

    def put(self, key: str, data: bytes) -> None:
        super().put(key, data)
        self.clock.now += self.seconds

    def create(self, key: str, data: bytes) -> bool:
        created = super().create(key, data)
        self.clock.now += self.seconds
        return created


@pytest.mark.parametrize("renewed", [False, True])
def test_a_lease_is_as_old_as_the_start_of_the_write_that_took_or_renewed_it(tmp_path: Path, renewed: bool) -> None:
    """Whoever watches may have seen it from then on."""
    storage = SlowWrites(tmp_path)
    launches = Launches(storage)
    storage.clock, storage.seconds = launches.clock, 100.0
    start = launches.clock.now
    holder = launches.take()
    if renewed:
        start = launches.clock.now
        holder.renew()
    storage.seconds = 0.0
    launches.clock.now = start + GIVE_UP * DURATION + 1
    holder.renew()
    with pytest.raises(LeaseLostError, match="could not be renewed for 226 s"):
        holder.check()


def test_a_renewal_that_comes_through_too_late_is_none(tmp_path: Path) -> None:
    storage = SlowWrites(tmp_path)
    launches = Launches(storage)
    storage.clock = launches.clock
    holder = launches.take()
    storage.seconds = GIVE_UP * DURATION + 1
    holder.renew()
    with pytest.raises(LeaseLostError, match="could not be renewed for 226 s"):
        holder.check()


def test_a_holder_is_watched_for_as_long_as_it_has_asked_for(launches: Launches) -> None:
    dead = launches.new()
    dead.holder = replace(dead.holder, duration=3 * DURATION)
    dead.take(launches.told.append)
    launches.take()
    assert launches.clock.now - 1000 >= 3 * DURATION


def test_a_process_that_has_the_number_of_a_dead_holder_is_not_the_holder(launches: Launches) -> None:
    dead = launches.new()
    own = Lease(launches.storage, "grid", DURATION).holder.process
    dead.holder = replace(dead.holder, process=own | {"pid": os.getppid(), "started": "another"})
    dead.take(launches.told.append)
    assert launches.take().generation == 2
    assert launches.clock.now == 1000 and not launches.told


def test_an_outage_shorter_than_the_lease_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launches = Launches(open_storage(str(tmp_path)))
    holder = launches.take()
    with monkeypatch.context() as outage:
        outage.setattr(holder.storage, "put", _fail)
        launches.clock.now += 0.5 * DURATION
        with pytest.raises(StorageError):
            holder.renew()
    holder.renew()
    holder.check()


def _fail(key: str, data: bytes) -> None:
    raise StorageError("the server cannot be reached")


def test_a_duration_that_is_no_number_of_seconds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("soon", "0", "-5", "nan", "1e9"):
        monkeypatch.setenv("RESNET_DIST_LEASE_SECONDS", text)
        with pytest.raises(UserError, match="RESNET_DIST_LEASE_SECONDS"):
            duration_from_environment()
