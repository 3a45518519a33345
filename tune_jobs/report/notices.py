"""What a report says in words: before any number, and below each table."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from resnet_dist.configuration.schedule import ScheduleConfig
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.plurals import counted
from tune_jobs.report.statistics import LEVEL, POWER, Summary, pooled_sd, seeds_needed, smallest_visible
from tune_jobs.results.trials import ExperimentResults

# Deviations that leave a number comparable with the reference's: they are named, and no more.
COMPARABLE_SETTINGS = ("run.precision",)


def comparable_with_references(record: Mapping[str, Any]) -> bool:
    """Whether an experiment's numbers can be held against those of the document and the paper."""
    return all(deviation["setting"] in COMPARABLE_SETTINGS for deviation in record.get("deviations", []))


def experiment_notices(results: ExperimentResults) -> list[str]:
    """What must be said before any number: a shortened recipe, other data, other settings."""
    record = results.record
    cells = [cell for table in record["tables"] for cell in table["cells"]]
    referenced = any(cell["reference"] is not None or cell["paper"] is not None for cell in cells)
    notices = []
    if waiting := results.count("unfinished") + results.count("missing"):
        notices.append(
            f"Not finished: {waiting} of {len(results.trials)} trials have no result yet; numbers will change."
        )
    notices += [
        f"{trial.trial_id}: {trial.reason}; its numbers are those of result.json, which has all of them."
        for trial in results.trials.values()
        if trial.state == "finished" and trial.reason
    ]
    if (stopped := results.count("early-stopped")) or results.searching:
        rows = "No row has a number" if results.searching else "Rows with such trials have no number"
        notices.append(
            f"A search, not a table: a scheduler stopped {stopped} of {len(results.trials)} trials early. {rows}, for "
            "the trials that went on were chosen by their test error. A launch with --scheduler fifo brings every "
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
            "The numbers are therefore not comparable with the document's and the paper's, "
            "which stand beside them for orientation only; no verdict is given."
        )
    elif referenced:
        notices += _other_milestones(record)
    return notices


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
        yield (
            f"The learning rate drops at epochs {milestones} in {counted(rows, 'row')} with a number of the document. "
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
    samples: Sequence[Summary], tests: int, referenced: bool, comparable: bool, smallest_difference: float
) -> Iterator[str]:
    """Why there is no verdict, and how many seeds it takes to tell the smallest difference that matters.

    `samples` are those of the cells that have any, `tests` how many of them are tested against the baseline.
    """
    if referenced and not comparable:
        yield (
            "No difference from the document's and the paper's numbers and no verdict on them: these runs are not of "
            "their recipe or data, as said at the top. They stand here for orientation only."
        )
    if any(sample.n == 1 for sample in samples):
        lacking = "no interval and no verdict" if referenced and comparable else "no interval and no test"
        yield f"A row with one seed has {lacking}: one run does not show how much runs differ. Use --seeds 2 or more."
    spread = pooled_sd(samples)
    if spread is None:
        return
    alone = _seeds(seeds_needed(spread, smallest_difference))
    corrected = ""
    if tests > 1:
        strictest = _seeds(seeds_needed(spread, smallest_difference, tests=tests))
        corrected = f", and {strictest} at the strictest of the levels that Holm's correction sets ({LEVEL:g}/{tests})"
    yield (
        f"To tell two rows {100 * smallest_difference:g} % points apart with {100 * POWER:g} % power takes {alone} "
        f"seeds a row for one comparison{corrected} (pooled standard deviation {100 * spread:.2f} %)."
    )
    if referenced and comparable:
        yield (
            f"The document's number is one run, which varies like ours: however many seeds, it cannot be told from "
            f"our mean unless it lies more than {100 * smallest_visible(spread):.2f} % points away."
        )


def _seeds(needed: int | None) -> str:
    return str(needed) if needed else "more than 1000"
