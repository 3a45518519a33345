"""What a report says in words: before any number, and below each table."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from resnet_dist.configuration.schedule import ScheduleConfig
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.plurals import counted
from tune_jobs.report.comparisons import Comparisons
from tune_jobs.report.statistics import LEAST_SEEDS, LEVEL, POWER, seeds_needed, variance_ratio
from tune_jobs.results.trials import ExperimentResults

# Deviations that leave a number comparable with the reference's: they are named, and no more.
COMPARABLE_SETTINGS = ("run.precision",)
SOURCES = ("initialisation", "order", "augmentation")
"""Of randomness, each of which may have a seed of its own."""


def comparable_with_references(record: Mapping[str, Any]) -> bool:
    """Whether an experiment's numbers can be held against those of the document and the paper."""
    return all(deviation["setting"] in COMPARABLE_SETTINGS for deviation in record.get("deviations", []))


def experiment_notices(results: ExperimentResults, tests: Comparisons) -> list[str]:
    """What must be said before any number: a shortened recipe, other data, other settings."""
    record = results.record
    cells = [cell for table in record["tables"] for cell in table["cells"]]
    referenced = any(cell["reference"] is not None or cell["paper"] is not None for cell in cells)
    notices = []
    if waiting := results.count("unfinished") + results.count("missing"):
        have = "has" if waiting == 1 else "have"
        notices.append(
            f"Not finished: {waiting} of {counted(len(results.trials), 'trial')} {have} no result yet; numbers will "
            "change."
        )
    notices += [*_interim(results, tests), *_diverged(tests)]
    notices += [
        f"{trial.trial_id}: {trial.reason}; its numbers are those of result.json, which has all of them."
        for trial in results.trials.values()
        if trial.state == "finished" and trial.reason
    ]
    if (stopped := results.count("early-stopped")) or results.searching:
        rows = "No row has a number" if results.searching else "Rows with such trials have no number"
        notices.append(
            f"A search, not a table: a scheduler stopped {stopped} of {len(results.trials)} trials early. {rows}, for "
            "the trials that went on were chosen by their test error. A launch with the scheduler fifo brings every "
            "trial to its end."
        )
    changed = {deviation["setting"]: deviation for deviation in record.get("deviations", [])}
    if epochs := changed.pop("run.epochs", None):
        changed.pop("schedule.milestones", None)
        kind = "Shortened" if max(epochs["actual"]) < min(epochs["recipe"]) else "Another length"
        notices.append(f"{kind}: {_words(epochs['actual'])} epochs instead of {_words(epochs['recipe'])}.")
    sources = {trial.config["data"]["source"] for trial in results.trials.values()}
    if source := changed.pop("data.source", None):
        notices.append(
            f"Other data: {_words([shown_source(one) for one in source['actual']])} instead of "
            f"{_words([shown_source(one) for one in source['recipe']])}."
        )
    folders = [shown_source(source).lower() for source in sources if source.startswith("folder:")]
    if any(word in folder for folder in folders for word in ("jpeg", "jpg")):
        notices.append("The images are re-encoded as JPEG, which makes them harder than CIFAR-10 itself.")
    for setting, deviation in changed.items():
        actual, recipe = (_words([_shown(setting, one) for one in deviation[key]]) for key in ("actual", "recipe"))
        notices.append(f"Changed: {setting} is {actual} instead of {recipe}.")
    if referenced and not comparable_with_references(record):
        notices.append(
            "The numbers are therefore not comparable with the document's and the paper's, which stand beside them for "
            "orientation only and have no verdict."
        )
    elif referenced:
        notices += _other_milestones(record)
    return notices


def _interim(results: ExperimentResults, tests: Comparisons) -> Iterator[str]:
    """That tests are read before all of the planned seeds are there."""
    planned = planned_seeds(results.record)
    tested = bool(tests.document or tests.baseline or tests.study) and not results.count("early-stopped")
    ended = sum(trial.state == "finished" or trial.failure == "diverged" for trial in results.trials.values())
    if tested and (ended < len(results.trials) or results.record["seeds"] < planned):
        yield (
            f"Interim: {counted(planned, 'seed')} a row {'is' if planned == 1 else 'are'} planned, and not all have "
            "ended. Whoever looks after every seed and stops when a test pleases errs more often than the tests say."
        )
    if plans := results.record.get("earlier_plans"):
        how = "added" if min(plans) < planned else "taken away"
        yield (
            f"Seeds were {how}: {_words(plans)} a row had been planned before {planned}. If the results of those "
            "decided that, the tests err more often than they say."
        )


def planned_seeds(record: Mapping[str, Any]) -> int:
    """Seeds a row that were planned; earlier versions planned what they launched."""
    return int(record.get("planned_seeds", record["seeds"]))


def _diverged(tests: Comparisons) -> Iterator[str]:
    rows = {row.key: (label, row) for (_, label), row in tests.rows.items() if row.diverged}
    if rows:
        said = "; ".join(
            f"{label}: {row.diverged} of {counted(len(row.trials), 'seed')}" for label, row in rows.values()
        )
        yield (
            f"Diverged: {said}. The means of these rows leave these seeds out, which flatters the rows: no test and no "
            "verdict uses them."
        )


def study_sentence(tests: Comparisons, margin: float) -> str:
    """What all configurations together say of the recipe; empty if too few can be compared."""
    if tests.study is None:
        return ""
    low, high = tests.study.interval
    p = "< 0.001" if tests.study.p < 0.001 else f"= {tests.study.p:.2g}"
    independent = round(tests.study.degrees) + 1
    within = tests.study.equivalence_p(margin) < LEVEL
    if tests.study.p < LEVEL:
        told = "The recipe as a whole differs from the document's"
        told += f", by less than {100 * margin:g} % points." if within else "."
    else:
        told = "No difference of the recipe shows"
        told += f", and one of {100 * margin:g} % points {'is' if within else 'is not'} ruled out."
    return (
        f"The whole study, {tests.configurations} configurations: ours less the document's is "
        f"{100 * tests.study.difference:+.2f} % points on average (95 % interval {100 * low:+.2f} to "
        f"{100 * high:+.2f}; p {p} of no difference, by {independent} independent differences). {told}"
    ).replace("-", "\N{MINUS SIGN}")


def _other_milestones(record: Mapping[str, Any]) -> Iterator[str]:
    """Where referenced rows drop the learning rate, if not where the document's runs did."""
    found: dict[str, int] = {}
    for cell in (cell for table in record["tables"] for cell in table["cells"] if cell["reference"] is not None):
        config = record["trials"][cell["trials"][0]]["config"]
        milestones = config["schedule"]["milestones"]
        as_run = TrainingConfig().shortened(config["run"]["epochs"]).schedule.milestones
        if config["schedule"]["kind"] == "step" and tuple(milestones) != as_run:
            found[_words(milestones)] = found.get(_words(milestones), 0) + 1
    for milestones, rows in found.items():
        at = "epochs" if "," in milestones else "epoch"
        yield (
            f"The learning rate drops at {at} {milestones} in {counted(rows, 'row')} with a number of the document. "
            f"Its text says 80, 160, but its script and its curves say {_words(ScheduleConfig().milestones)}."
        )


def shown_source(source: str) -> str:
    """A data source without the folders in which it happens to lie: `folder:…/cifar10.tar.xz`."""
    kind, _, path = source.partition(":")
    return f"{kind}:…/{path.rstrip('/').rpartition('/')[2]}" if "/" in path else source


def _shown(setting: str, value: Any) -> Any:
    """A value as readers of a report understand it: no limit is written as 0."""
    return "all" if setting.endswith("_limit") and value == 0 else value


def _words(values: Sequence[Any]) -> str:
    return ", ".join(str(value) for value in values)


def table_notes(
    table: Mapping[str, Any], record: Mapping[str, Any], tests: Comparisons, smallest_difference: float
) -> Iterator[str]:
    """Why there is no verdict, and how many seeds it takes to tell the smallest difference that matters."""
    cells = table["cells"]
    comparable = comparable_with_references(record)
    if any(cell["reference"] is not None for cell in cells) and not comparable:
        yield (
            "The document's and the paper's numbers stand here for orientation only, without difference or verdict: "
            "these runs are not of their recipe or data, as said at the top."
        )
    rows = [tests.rows[table["name"], cell["label"]] for cell in cells]
    if any((sample := row.sample()) and sample.n < LEAST_SEEDS and not row.diverged for row in rows):
        advice = f" Run {LEAST_SEEDS} seeds or more." if record["seeds"] < LEAST_SEEDS else ""
        yield (
            f"A row with fewer than {LEAST_SEEDS} finished seeds has no test and no verdict: so few runs do not show "
            f"how much runs differ.{advice}"
        )
    yield from _variance_shares(table, tests)
    if comparable:
        yield from _seeds_note(table, tests, smallest_difference)


def _variance_shares(table: Mapping[str, Any], tests: Comparisons) -> Iterator[str]:
    """Where rows hold a source of randomness fixed, what is left of the baseline's variance."""
    whole = tests.rows[table["name"], table["baseline"]].testable
    shares = []
    for cell in table["cells"]:
        row = tests.rows[table["name"], cell["label"]]
        fixed = any(row.trials[0].config["run"].get(f"seed_{source}") is not None for source in SOURCES)
        if fixed and whole and (part := row.testable):
            share, low, high = variance_ratio(part, whole)
            shares.append(f"{cell['label']} {share:.0%} ({low:.0%} to {high:.0%})")
    if shares:
        yield f"Variance as a share of that of {table['baseline']}, with its 95 % interval: {'; '.join(shares)}."


def _seeds_note(table: Mapping[str, Any], tests: Comparisons, difference: float) -> Iterator[str]:
    """Of each comparison with the baseline by its own spread: one row of large errors says nothing of the others."""
    spreads: dict[str, float] = {}  # of one run, if both rows vary alike, or of a difference by seed
    paired = bool(table.get("paired", False))
    for cell in table["cells"]:
        if test := tests.baseline.get((table["name"], cell["label"])):
            pair = (tests.rows[table["name"], label].by_seed() for label in (cell["label"], table["baseline"]))
            runs = test.comparison.degrees + 1 if paired else 1 / sum(1 / len(row) for row in pair)
            spreads[cell["label"]] = test.comparison.error * math.sqrt(runs)
    if not spreads:
        return
    ordered = sorted(spreads, key=lambda label: spreads[label])
    middle, last = (
        _seeds(seeds_needed(spreads[label], difference, tests=len(spreads), paired=paired))
        for label in (ordered[(len(ordered) - 1) // 2], ordered[-1])
    )
    most = f" in the median comparison and {last} for {ordered[-1]}" if middle != last else ""
    level = f"{LEVEL:g}/{len(spreads)}, the strictest of Holm's correction" if len(spreads) > 1 else f"{LEVEL:g}"
    yield (
        f"Seeing a difference of {100 * difference:g} % points from the baseline with {100 * POWER:g} % power takes "
        f"{middle} seeds a row{most} (level {level})."
    )


def _seeds(needed: int | None) -> str:
    return str(needed) if needed else "more than 1000"
