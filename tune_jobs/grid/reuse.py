"""Finished trials of other experiments in the same storage: the same trial is not trained twice."""

from collections.abc import Iterable

from cluster.storage.keys import BrowsableStorage
from resnet_dist.records import trial_record
from resnet_dist.storage.interface import TrialKeys, experiment_key


def finished_elsewhere(storage: BrowsableStorage, experiment: str, ids: Iterable[str]) -> dict[str, str]:
    """Which of these trials another experiment has finished: its name by the trial's id."""
    wanted, found = set(ids), dict[str, str]()
    if not wanted:
        return found
    for other in storage.folders(""):
        if other == experiment or other.startswith(".") or storage.get(experiment_key(other)) is None:
            continue
        for trial_id in wanted.intersection(storage.folders(f"{other}/trials/")) - found.keys():
            data = storage.get(TrialKeys(other, trial_id).result)
            try:
                result = trial_record.parse_result(data, trial_id) if data else {}
            except (ValueError, KeyError, TypeError):
                continue
            # One that is complete is read from its result alone; a search's was chosen by its errors.
            if trial_record.is_complete(result) and not trial_record.diverged(result) and "scheduler" not in result:
                found[trial_id] = other
    return found


def take_over(storage: BrowsableStorage, experiment: str, trial_id: str, other: str) -> None:
    """Copy a finished trial from another experiment, its result last."""
    there, here = TrialKeys(other, trial_id), TrialKeys(experiment, trial_id)
    data = storage.get(there.result)
    assert data is not None
    name = trial_record.parse_result(data, trial_id)["name"]
    if not storage.list(here.event_file(name, "")):  # or these curves are another trial's
        for item in storage.list(there.event_file(name, "")):
            _copy(storage, item.key, f"{experiment}/{item.key.removeprefix(f'{other}/')}")
    for item in storage.list(there.prefix):
        if item.key != there.result and not item.key.startswith(there.checkpoints):
            _copy(storage, item.key, here.prefix + item.key.removeprefix(there.prefix))
    storage.delete(here.failure)
    storage.put(here.result, data)


def _copy(storage: BrowsableStorage, source: str, target: str) -> None:
    if (data := storage.get(source)) is not None:
        storage.put(target, data)
