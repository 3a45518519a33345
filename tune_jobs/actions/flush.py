"""Writes that wait on this host's disk, made: before each launch, and by `resnet-dist storage flush`."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from resnet_dist.errors import StorageError
from resnet_dist.plurals import counted
from resnet_dist.storage.interface import Storage
from resnet_dist.storage.sending import flush
from resnet_dist.storage.spool import SpoolInUseError, spooled_trials
from tune_jobs.actions.callbacks import Say

SIDE_BY_SIDE = 10
"""Trials whose writes are made at once; those of one trial are made in order."""


@dataclass(frozen=True)
class Flushed:
    """What became of the waiting writes of one storage."""

    storage: str
    trials: int
    """Trials of which writes waited."""
    made: int
    """Writes that are in storage now."""
    dropped: int
    """Writes older than what another launch had put into storage."""
    in_use: int
    """Trials that a process of this host is running, which sees to them itself."""
    failed: str = ""
    """Why the rest still waits."""

    def line(self) -> str:
        """The same in words."""
        said = [f"{counted(self.made, 'write')} of {counted(self.trials, 'trial')} that waited have been made"]
        if self.dropped:
            said.append(
                f"dropped, since another launch has gone on with their trials: {counted(self.dropped, 'write')}"
            )
        if self.in_use:
            said.append(f"being run at this moment: {counted(self.in_use, 'trial')}")
        if self.failed:
            said.append(f"the rest waits: {self.failed}")
        return f"{self.storage}: {'; '.join(said)}"


def flush_storage(storage: Storage) -> Flushed:
    """Make the waiting writes of every trial of a storage, several trials side by side, until storage fails."""
    failures: list[str] = []

    def one(trial: tuple[str, str, str]) -> tuple[int, int] | None:
        """Writes that were made, and dropped; None if the trial is in use."""
        if failures:
            return 0, 0
        try:
            return flush(storage, *trial[1:])
        except SpoolInUseError:
            return None
        except StorageError as error:
            failures.append(str(error))
            return 0, 0

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        outcomes = list(pool.map(one, spooled_trials(storage.place)))
    flushed = [outcome for outcome in outcomes if outcome is not None]
    return Flushed(
        storage.uri,
        trials=sum(any(outcome) for outcome in flushed),
        made=sum(made for made, _ in flushed),
        dropped=sum(dropped for _, dropped in flushed),
        in_use=len(outcomes) - len(flushed),
        failed=failures[0] if failures else "",
    )


def flush_before_launch(storage: Storage, say: Say) -> None:
    """Make what waits of earlier runs, and say so. Raises a `StorageError` if storage cannot be written."""
    flushed = flush_storage(storage)
    if flushed.trials:
        say(flushed.line())
    if flushed.failed:
        raise StorageError(flushed.failed)
