"""Trials in storage that are not part of an experiment as it is asked for now, and why; how they are removed."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from resnet_dist.configuration.identity import NOT_IDENTITY
from resnet_dist.plurals import counted
from resnet_dist.records import trial_record
from resnet_dist.storage.interface import Storage, TrialKeys

_THREADS = 16

Left = tuple[tuple[str, str], ...]
"""Settings, as section and name, that are left out of a comparison."""


@dataclass(frozen=True)
class OtherTrial:
    """A trial that nobody asks for now."""

    trial_id: str
    name: str
    """As it was launched; its id where no record tells."""
    why: str
    finished: bool
    keys: tuple[str, ...]
    """All that storage has of it, its result first."""
    size: int
    """Bytes."""


def describe(
    storage: Storage, experiment: str, ids: Iterable[str], asked: Mapping[str, Mapping[str, Any]]
) -> list[OtherTrial]:
    """What storage has of these trials. `asked` has `name` and `config` of those that are asked for, by id."""
    reasons = [(left, said, {_settings(trial["config"], left) for trial in asked.values()}) for left, said in _REASONS]
    names = {str(trial["name"]) for trial in asked.values()}

    def read(trial_id: str) -> OtherTrial:
        keys = TrialKeys(experiment, trial_id)
        objects = storage.list(keys.prefix)
        name, config = _told(storage.get(keys.config))
        events = storage.list(keys.event_file(name, "")) if name and name not in names else []
        found = sorted([*objects, *events], key=lambda item: item.key != keys.result)
        finished = any(item.key == keys.result for item in objects)
        size = sum(item.size for item in found)
        return OtherTrial(
            trial_id, name or trial_id, _why(config, reasons), finished, tuple(item.key for item in found), size
        )

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(read, ids))


def summary(others: Iterable[OtherTrial]) -> str:
    """How many there are, by reason: `3 finished of an earlier text of your code, 1 unfinished of other settings`."""
    counts = Counter((other.finished, other.why) for other in others)
    return ", ".join(
        f"{n} {'' if done else 'un'}finished {why}" for (done, why), n in sorted(counts.items(), reverse=True)
    )


def remove(storage: Storage, others: Iterable[OtherTrial]) -> None:
    """Remove all that storage has of them, results first, so that none looks finished that is not."""
    for other in others:
        for key in other.keys:
            storage.delete(key)


def note(others: list[OtherTrial], command: str) -> str:
    """A line on them for whoever launches or asks."""
    return f"{counted(len(others), 'trial')} in storage are no part of this: {summary(others)}; {command} lists them"


def _told(data: bytes | None) -> tuple[str, dict[str, Any]]:
    try:
        told = trial_record.parse(data or b"")
        return str(told["name"]), {section: dict(values) for section, values in told["config"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", {}


def _settings(config: Mapping[str, Any], left: Left) -> str:
    """What the configuration says that can change a result, but for what is left out, to be compared."""
    left_out = {*(tuple(name.split(".")) for name in NOT_IDENTITY), *left}
    kept = {
        section: {name: value for name, value in values.items() if (section, name) not in left_out}
        for section, values in config.items()
    }
    return json.dumps(kept, sort_keys=True)


_REASONS = (
    ((("code", "fingerprint"),), "of an earlier text of your code"),
    ((("run", "seed"),), "with other seeds"),
    ((("run", "seed"), ("code", "fingerprint")), "of an earlier text of your code"),
    ((("data", "fingerprint"), ("run", "seed"), ("code", "fingerprint")), "of other images"),
    (
        (("run", "epochs"), ("schedule", "milestones"), ("run", "seed"), ("code", "fingerprint")),
        "over other epochs",
    ),
)
"""In what alone a trial differs from one that is asked for, and what is said of it."""


def _why(config: Mapping[str, Any], reasons: Iterable[tuple[Left, str, set[str]]]) -> str:
    if not config:
        return "without a record of its settings"
    return next((said for left, said, known in reasons if _settings(config, left) in known), "of other settings")
