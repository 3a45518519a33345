"""What the finished trials of one table have in common, and what they mix that should have been one."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from resnet_dist.plurals import counted
from tune_jobs.results.trials import TrialResults

LIBRARIES = ("python", "torch", "torchvision", "numpy", "ray", "cuda", "cudnn")
_MOST_NAMED = 3


def aspects(trial: TrialResults) -> dict[str, tuple[str, ...]]:
    """What the numbers of a trial may depend on beside its settings, by aspect.

    A trial that was interrupted has a value for each attempt; equal ones are given once. Worker counts are not among
    them: by law 1 they change no result.
    """
    provenance = trial.provenance
    attempts: Sequence[Mapping[str, object]] = provenance.get("attempts") or [{}]

    def of_attempts(key: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_word(one.get(key, provenance.get(key))) for one in attempts))

    return {
        "commits": tuple(dict.fromkeys(_known(commit)[:12] for commit in of_attempts("commit"))),
        "precisions": (str(trial.config["run"]["precision"]),),
        "data fingerprints": (_known(_word(provenance.get("data_fingerprint")))[:16],),
        "processors": of_attempts("device"),
        **{f"{library} versions": (_word(provenance.get(library)),) for library in LIBRARIES if library != "torch"},
        "torch versions": of_attempts("torch"),
    }


def _word(value: object) -> str:
    return "none" if value is None else str(value)


def _number(word: str) -> int:
    return int(word) if word.isdecimal() else 0


def _known(word: str) -> str:
    return "unknown" if word == "none" else word


def warnings(rows: Sequence[tuple[str, Sequence[TrialResults]]]) -> list[str]:
    """What makes the rows of a table, each with its trials, less comparable than they look."""
    done = _finished(rows)
    said = []
    for aspect, groups in _groups(done).items():
        if len(groups) > 1:
            said.append(f"The rows mix {aspect}: {'; '.join(_described(groups))}.")
    changed = {where: trial for where, trial in done.items() if trial.provenance.get("dirty")}
    if changed:
        patches = {str(trial.provenance.get("patch_sha256"))[:8] for trial in changed.values()}
        differing = f", {len(patches)} different patches" if len(patches) > 1 else ""
        said.append(
            f"{len(changed)} of {len(done)} finished trials ran with uncommitted changes{differing} "
            f"(see source.patch): {_named(list(changed))}."
        )
    if left_out := [where for where, trial in done.items() if trial.provenance.get("patch_left_out")]:
        said.append(
            f"The patch of {counted(len(left_out), 'trial')} is not complete (see provenance.json): {_named(left_out)}."
        )
    return said


def common(rows: Sequence[tuple[str, Sequence[TrialResults]]]) -> str:
    """One line of what all finished trials of a table share: commit, data, precision, versions; empty without any."""
    done = _finished(rows)
    if not done:
        return ""
    shared = {aspect: next(iter(groups)) for aspect, groups in _groups(done).items() if len(groups) == 1}
    workers = " or ".join(sorted({_word(trial.provenance.get("workers")) for trial in done.values()}, key=_number))
    said = [
        f"commit {shared['commits']}" if "commits" in shared else "",
        f"data {shared['data fingerprints']}" if "data fingerprints" in shared else "",
        shared.get("precisions", ""),
        f"{workers} worker{'s' if workers != '1' else ''} a trial" if "none" not in workers else "",
        *(
            f"{library} {version}"
            for library in LIBRARIES
            if (version := shared.get(f"{library} versions", "none")) != "none"
        ),
        processor if (processor := shared.get("processors", "none")) != "none" else "",
    ]
    return f"Common to all finished trials ({len(done)}): {', '.join(filter(None, said))}."


def _finished(rows: Sequence[tuple[str, Sequence[TrialResults]]]) -> dict[str, TrialResults]:
    return {
        f"{label}, seed {trial.seed}": trial for label, trials in rows for trial in trials if trial.state == "finished"
    }


def _groups(done: Mapping[str, TrialResults]) -> dict[str, dict[str, list[str]]]:
    """By aspect, the trials that have each value."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for where, trial in done.items():
        for aspect, values in aspects(trial).items():
            found[aspect][" and ".join(values)].append(where)
    return found


def _described(groups: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Each value with the number of its trials; those of all but the most frequent value are named."""
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    for index, (value, members) in enumerate(ordered):
        named = f": {_named(members)}" if index else ""
        yield f"{value} ({counted(len(members), 'trial')}{named})"


def _named(members: Sequence[str]) -> str:
    return " / ".join(members[:_MOST_NAMED]) + (" / …" if len(members) > _MOST_NAMED else "")
