"""A lease in storage on an experiment, or on one trial: of several launches of one grid, or of one run, one acts.

`<experiment>/.lease/<generation>.json` names the holder, `<experiment>/.lease/<trial>/<generation>.json` that of a
trial. Whoever holds the lease has created the object of the highest generation, which storage lets one writer do, and
is the only one who writes to it afterwards: renewals every fortieth of the lease's duration, and a last one that says
that it is released. So no two writers ever race for one object, and since generations only grow, none comes back.

No clock of another machine is trusted. A launch that finds a lease watches it: if the object changes, the holder lives
and the launch is refused; if it stays as it is for the whole duration on the launch's own clock, the launch takes
over by creating the next generation. (Of a process of its own machine it knows whether it lives.) A holder gives up
when three quarters of the duration, on its own clock, have gone by since the start of its last renewal, and when it
sees a higher generation. (A renewal that was under way while the lease was taken over is seen by the one who took it,
who then waits for another duration before acting.)

A patient holder, as one run is, works on while it cannot renew: what it writes waits on its disk, and it stops once it
reaches storage and sees that another has taken over.
"""

import contextlib
import json
import logging
import os
import platform
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster.processes import start_time
from cluster.signals import interrupted_by_sigterm
from resnet_dist.environment import seconds_of
from resnet_dist.errors import StorageError, UserError
from resnet_dist.storage.interface import Storage

LOGGER = logging.getLogger(__name__)

DURATION_VARIABLE = "RESNET_DIST_LEASE_SECONDS"
DEFAULT_DURATION = 600.0
"""Seconds without a renewal after which a lease can be taken over. A holder lives with an outage of storage of three
quarters of it."""
RENEWALS = 40
"""Renewals in a lease's duration."""
GIVE_UP = 0.75
"""Part of the duration without a renewal after which the holder stops."""
RELEASE_PATIENCE = 5.0
"""Seconds for which the end of a launch waits until storage has taken note of it."""
LARGEST_SKEW = 600.0
"""Seconds by which clocks of two machines may differ. A lease whose last renewal is older than its duration and this,
by its own word, need not be watched."""


@dataclass(frozen=True)
class Holder:
    """What a lease's object says."""

    token: str
    """Random: no two launches share it."""
    who: str
    """For people: job, host, process."""
    since: str
    """When the lease was taken, by the holder's clock, in UTC."""
    renewed: float
    """Seconds since 1970 at the last renewal, by the holder's clock."""
    duration: float
    """Seconds that the holder asks others to wait."""
    process: dict[str, Any]
    """By which a launch on the same machine can tell that the holder has died: see `_this_process`."""
    renewals: int = 0
    released: bool = False

    def to_json(self) -> bytes:
        """The object's content."""
        return (json.dumps(asdict(self), indent=1) + "\n").encode()


class LeaseLostError(UserError):
    """The lease could not be kept: another launch has it, or storage could not be reached for too long."""


@contextlib.contextmanager
def lease(
    storage: Storage,
    experiment: str,
    on_wait: Callable[[str], None] | None = None,
    duration: float | None = None,
    trial: str = "",
) -> Iterator["Lease"]:
    """Hold the lease of an experiment for the duration of the block, from which SIGTERM gets out like Ctrl-C.

    With `trial`, an id, it is that trial's alone, and held with patience.

    `on_wait` is told, once, if a lease of an earlier launch has to be watched first. Raises a `UserError` that names
    the holder if there is one that lives. If the lease is lost, the block is interrupted like by Ctrl-C, and a
    `LeaseLostError` leaves it.
    """
    held = Lease(storage, experiment, duration or duration_from_environment(), trial=trial)
    with interrupted_by_sigterm():
        try:
            held.take(on_wait or (lambda _: None))
            held.renew_in_background()
            yield held
        except KeyboardInterrupt:
            held.check()
            raise
        finally:
            held.release()
    held.check()


def is_held(storage: Storage, experiment: str) -> bool:
    """Whether a launch holds the lease of an experiment, as far as one look tells: for those who only watch.

    A holder whose last renewal is old by this machine's clock, or whose process is known to be gone, does not.
    """
    _, data = Lease(storage, experiment, DEFAULT_DURATION)._latest()
    found = _parse(data)
    if found is None or found.released or _is_alive(found.process) is False:
        return False
    return time.time() - found.renewed < GIVE_UP * found.duration


class Lease:
    """One launch's claim on an experiment."""

    def __init__(
        self,
        storage: Storage,
        experiment: str,
        duration: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        trial: str = "",
    ) -> None:
        self.storage = storage
        self.subject = f"{experiment}, trial {trial}" if trial else experiment
        self.prefix = f"{experiment}/.lease/{trial}/" if trial else f"{experiment}/.lease/"
        self.patient = bool(trial)
        now = datetime.now(UTC)
        self.holder = Holder(
            secrets.token_hex(8), describe_process(), now.isoformat(timespec="seconds"), 0.0, duration, _this_process()
        )
        self.generation = 0
        """Of the lease's object, once this launch has made it; 0 before."""
        self.lost = ""
        """Why the lease is lost; empty while it is held."""
        self._clock, self._sleep = clock, sleep
        self._renewed = 0.0  # start of the last renewal that came through, by the clock
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def take(self, on_wait: Callable[[str], None]) -> None:
        """Take the lease, after an expired one if need be. Raises a `UserError` if another launch has it."""
        while True:
            latest, data = self._latest()
            if latest and not self._is_free(latest, data, on_wait):
                raise self._refusal(latest)
            self.holder = replace(self.holder, renewed=time.time())
            started = self._clock()
            if self.storage.create(self._key(latest + 1), self.holder.to_json()):
                self.generation = latest + 1
                break
        self._renewed = started
        if latest and (now := self.storage.get(self._key(latest))) != data and not _is_released(now):
            # Its holder was alive after all, and may act until it sees that it has lost the lease or gives up.
            self._wait_out(self.holder.duration)
        for generation in self._generations():
            if generation < self.generation:
                self.storage.delete(self._key(generation))

    def renew_in_background(self) -> None:
        """Renew the lease from a thread until it is released. When it is lost, the main thread is interrupted."""
        self._threads = [threading.Thread(target=run, daemon=True, name="lease") for run in (self._keep, self._watch)]
        for thread in self._threads:
            thread.start()

    def renew(self) -> None:
        """Renew the lease once. Sets `lost` if it cannot be kept; raises a `StorageError` if that is not known."""
        started = self._clock()
        if self._is_late(started):
            return
        self.holder = replace(self.holder, renewed=time.time(), renewals=self.holder.renewals + 1)
        self.storage.put(self._key(self.generation), self.holder.to_json())
        latest = max(self._generations(), default=self.generation)
        if latest > self.generation:
            self.lost = f"another launch has taken over: {self._words(self._read(latest))}"
        elif not self._is_late(self._clock()):
            self._renewed = started

    def release(self) -> None:
        """Let the next launch have the lease at once, if this one has it.

        A failure to say so is no error: the lease expires. Nor is it waited for long where storage hangs: what arrives
        late does no harm.
        """
        self._stop.set()
        for thread in self._threads:
            thread.join(1.0)
        if self.generation and not self.lost:
            last = threading.Thread(target=self._say_released, daemon=True, name="lease")
            last.start()
            last.join(RELEASE_PATIENCE)

    def check(self) -> None:
        """Raise a `LeaseLostError` if the lease is lost."""
        if self.lost:
            raise LeaseLostError(f"{self.subject}: this launch has stopped: {self.lost}")

    def _say_released(self) -> None:
        with contextlib.suppress(Exception):  # the lease expires by itself
            last = replace(self.holder, renewed=time.time(), released=True)
            self.storage.put(self._key(self.generation), last.to_json())

    def _keep(self) -> None:
        while not self._stop.wait(self.holder.duration / RENEWALS) and not self.lost:
            try:
                self.renew()
            except Exception as error:  # it may pass; if it does not, time runs out
                if not isinstance(error, StorageError):
                    LOGGER.warning("%s: the lease cannot be renewed, trying again: %r", self.subject, error)

    def _watch(self) -> None:
        # In a thread of its own: a renewal may hang for longer than there is time.
        while not self._stop.wait(self.holder.duration / RENEWALS / 2):
            if self._is_late(self._clock()):
                os.kill(os.getpid(), signal.SIGTERM)  # SIGINT is ignored in what scripts start in the background
                return

    def _is_late(self, now: float) -> bool:
        if not self.lost and not self.patient and now - self._renewed > GIVE_UP * self.holder.duration:
            self.lost = (
                f"its lease could not be renewed for {now - self._renewed:.0f} s, after which another launch may take "
                "over; the same command goes on where this one stopped"
            )
        return bool(self.lost)

    def _is_free(self, generation: int, data: bytes | None, on_wait: Callable[[str], None]) -> bool:
        """Whether the lease of this generation is nobody's any more; watches it if that takes time to tell."""
        found = _parse(data)
        if found is not None:
            alive = _is_alive(found.process)
            if found.released or alive is False:
                return True
            if time.time() - found.renewed > found.duration + LARGEST_SKEW:
                return True
            if alive and found.process["pid"] != os.getpid():
                return False
        duration = max(found.duration, self.holder.duration) if found else self.holder.duration
        on_wait(
            f"{self.subject} may be in another launch's hands ({self._words(found)}); "
            f"watching for up to {duration:.0f} s whether it lives"
        )
        end = self._clock() + duration
        while (left := end - self._clock()) > 0:
            self._sleep(min(left, duration / RENEWALS))
            latest, now = self._latest()
            if latest != generation or now != data:
                return _is_released(now)
        return True

    def _refusal(self, generation: int) -> UserError:
        holder = self._words(self._read(generation))
        return UserError(
            f"{self.subject}: another launch is at work in {self.storage.uri}: {holder}; wait for its end, or stop "
            "it and start this one again"
        )

    def _wait_out(self, seconds: float) -> None:
        end = self._clock() + seconds
        while (left := end - self._clock()) > 0:
            self._sleep(min(left, self.holder.duration / RENEWALS))
            self.renew()
            self.check()

    def _latest(self) -> tuple[int, bytes | None]:
        """The highest generation, 0 if there is none, and its content."""
        latest = max(self._generations(), default=0)
        return latest, self.storage.get(self._key(latest)) if latest else None

    def _generations(self) -> list[int]:
        names = (item.key.removeprefix(self.prefix).removesuffix(".json") for item in self.storage.list(self.prefix))
        return [int(name) for name in names if name.isdigit()]

    def _read(self, generation: int) -> Holder | None:
        return _parse(self.storage.get(self._key(generation)))

    def _key(self, generation: int) -> str:
        return f"{self.prefix}{generation:08d}.json"

    @staticmethod
    def _words(holder: Holder | None) -> str:
        return f"{holder.who}, since {holder.since}" if holder else "a launch that left no readable name"


def duration_from_environment() -> float:
    """Seconds that a lease lasts: `RESNET_DIST_LEASE_SECONDS`, or 600."""
    return seconds_of(DURATION_VARIABLE, DEFAULT_DURATION, least=1, most=86_400)


def describe_process() -> str:
    """This launch in words: the job that it is, if it is one, its host and its process."""
    place = f"process {os.getpid()} on {platform.node()}"
    try:  # what Ray tells the entrypoint of a job
        job = json.loads(os.environ["RAY_JOB_CONFIG_JSON_ENV_VAR"])["metadata"]["job_submission_id"]
    except (KeyError, ValueError, TypeError):
        return place
    return f"job {job}, {place}"


def _this_process() -> dict[str, Any]:
    """Which process this is, in such a way that the same machine can tell later that it is no more."""
    return {"machine": _machine(), "pid": os.getpid(), "started": start_time(os.getpid())}


def _is_alive(process: dict[str, Any]) -> bool | None:
    """Whether a process runs, if it is or was one of this machine since its start; None where that cannot be told."""
    machine = _machine()
    if not machine or process.get("machine") != machine or not isinstance(process.get("pid"), int):
        return None
    return start_time(process["pid"]) == process.get("started")


def _machine() -> str:
    """This start of this machine, and the process numbers' namespace; empty where that cannot be told."""
    if not sys.platform.startswith("linux"):
        return ""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _is_released(data: bytes | None) -> bool:
    holder = _parse(data)
    return holder is not None and holder.released


def _parse(data: bytes | None) -> Holder | None:
    try:
        return Holder(**json.loads(data or b""))
    except (ValueError, TypeError):
        return None
