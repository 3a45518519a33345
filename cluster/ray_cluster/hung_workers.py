"""Watches the workers of a launch: one that no longer answers, or makes no step, is ended, and what happened is said.

Ray starts a trial again whose process dies. It does not see that one has been stopped, nor that a collective never
returns: then all of a trial's workers wait, for ever. Here a worker is held to be hung when nothing has come of it for
the time below, by this process's clock; its process is killed, and so writes nothing when it wakes up.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

from resnet_dist.environment import seconds_of
from resnet_dist.heartbeat import Sign, forget, signs
from resnet_dist.threads import repeated

VARIABLE = "RESNET_DIST_HANG_SECONDS"
DEFAULT_SECONDS = 300.0
"""Seconds without a step, or a sign of life, after which a worker is ended."""
PAUSES = 10.0
"""The same, if it is longer, in times the longest pause between two steps so far, as an evaluation is."""
INTERVAL = 1.0
"""Seconds between two looks."""
KILL_SECONDS = 120.0
"""How long a node may take to end a process."""


@contextlib.contextmanager
def watched(experiment: str, trials: Collection[str], say: Callable[[str], None]) -> Iterator[None]:
    """Watch the workers of some trials on the connected cluster during the block; `say` is told, a line a time."""
    watch = Watch(seconds_from_environment(), say, end_process)
    forget(experiment, trials)
    # The end is not waited for: a look may wait for a node.
    with repeated(
        lambda: watch.look(signs(experiment, trials)),
        INTERVAL,
        "watch",
        "the workers cannot be watched",
        first_after=INTERVAL,
        patience=5.0,
    ):
        yield


class Watch:
    """What is known of the workers so far."""

    def __init__(
        self,
        seconds: float,
        say: Callable[[str], None],
        end: Callable[[Sign], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds, self.say, self.end, self.clock = seconds, say, end, clock
        self._newest: dict[tuple[str, int], Sign] = {}
        self._beaten: dict[tuple[str, int], float] = {}  # when its count of signs was seen to change
        self._stepped: dict[str, float] = {}  # when a step of the trial was seen
        self._longest: dict[str, float] = {}
        """Seconds between two steps of a trial, as seen here, at most."""
        self._patience: dict[str, float] = {}
        """Seconds that a trial has which was ended once: it may have been at work on something long."""
        self._ended: set[str] = set()  # attempts that were ended here
        self._lost: dict[str, tuple[str, set[str]]] = {}
        """By trial, until it goes on: what happened, and the attempts whose workers are to be replaced, all of them."""

    def look(self, found: Any) -> None:
        """Take note of signs, end what is hung, and say what happened."""
        now = self.clock()
        trials: dict[str, list[Sign]] = {}
        for sign in found:
            trials.setdefault(sign.trial, []).append(sign)
        for trial, of_trial in trials.items():
            self._lose(trial, of_trial)
            self._note(trial, of_trial, now)
            self._go_on(trial, of_trial)
            self._end_hung(trial, of_trial, now)

    def _lose(self, trial: str, found: list[Sign]) -> None:
        """See whether workers have been replaced, and what had happened to them."""
        known = [old for (of, _), old in self._newest.items() if of == trial]
        attempts = {old.rank: old.attempt for old in known}
        if trial in self._lost or all(attempts.get(sign.rank, sign.attempt) == sign.attempt for sign in found):
            return
        dead = [old for old in known if not old.ended] or known
        said = "; ".join(f"{old.worker} {f'failed: {old.ended}' if old.ended else 'died'}" for old in dead[:2])
        said_already = any(old.attempt in self._ended for old in known)
        self._lost[trial] = ("" if said_already else said), set(attempts.values())

    def _note(self, trial: str, found: list[Sign], now: float) -> None:
        for sign in found:
            key = trial, sign.rank
            old = self._newest.get(key)
            if old is None or (old.attempt, old.beat) != (sign.attempt, sign.beat):
                self._beaten[key] = now
            if old is None or old.attempt != sign.attempt:
                self._stepped.pop(trial, None)
            elif old.step != sign.step:
                if trial in self._stepped:
                    pause = now - self._stepped[trial]
                    self._longest[trial] = max(self._longest.get(trial, 0.0), pause)
                self._stepped[trial] = now
            self._newest[key] = sign

    def _go_on(self, trial: str, found: list[Sign]) -> None:
        if trial not in self._lost:
            return
        said, replaced = self._lost[trial]
        first = next((sign for sign in found if sign.first_step and not sign.ended), None)
        if first is not None and replaced.isdisjoint(sign.attempt for sign in found):
            del self._lost[trial]
            where = f"goes on from step {first.first_step - 1}" if first.first_step > 1 else "begins again"
            self.say(f"{first.name}: {f'{said}; the trial ' if said else ''}{where}")

    def _end_hung(self, trial: str, found: list[Sign], now: float) -> None:
        limit = max(self._patience.get(trial, self.seconds), PAUSES * self._longest.get(trial, 0.0))
        if any(sign.ended for sign in found):
            return  # Ray knows, and starts the others again
        known = [sign for sign in found if sign.attempt not in self._ended]
        silent = [sign for sign in known if now - self._beaten[trial, sign.rank] > limit]
        begun = [sign for sign in known if sign.first_step]  # before that images may be decoded
        stands_still = bool(begun) and trial in self._stepped and now - self._stepped[trial] > limit
        for sign in silent or (begun if stands_still else ()):
            if self.end(sign):
                self._ended.add(sign.attempt)
                self._patience[trial] = 2 * limit
                what = "has given no sign of life" if silent else "has made no step"
                then = "is ended; the trial starts again from its last checkpoint"
                self.say(f"{sign.name}: {sign.worker} {what} for {limit:.0f} s and {then}")
            self._beaten[trial, sign.rank] = now  # not asked again for as long
            self._stepped[trial] = now  # the others have as long to notice it


def end_process(sign: Sign) -> bool:
    """Kill a worker's process, by a task on its node. Whether there was one; Ray knows of those that have died."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(sign.node, soft=False)
    asked = ray.remote(num_cpus=0, max_retries=0)(_kill).options(scheduling_strategy=there).remote(sign.process)
    try:
        return bool(ray.get(asked, timeout=KILL_SECONDS))
    except (ray.exceptions.RayError, TimeoutError):  # the node is gone, too
        return False


def _kill(process: int) -> bool:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def seconds_from_environment() -> float:
    """`RESNET_DIST_HANG_SECONDS`, or 300."""
    return seconds_of(VARIABLE, DEFAULT_SECONDS, least=1, most=1_000_000)
