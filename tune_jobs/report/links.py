"""Where the records behind a number lie: links where the report lies beside them as files, else their names."""

from dataclasses import dataclass

from resnet_dist.storage.interface import TrialKeys
from tune_jobs.results.trials import TrialResults


@dataclass(frozen=True)
class Record:
    """One of a trial's records."""

    title: str
    address: str
    """Relative to the report if it lies beside the records, else a name that no browser opens."""


class RecordLinks:
    """Finds the records of an experiment's trials as seen from its report.

    `elsewhere`: the report does not lie in the storage at `uri`, so the records are named by their place in it.
    """

    def __init__(self, uri: str, experiment: str, elsewhere: bool = False) -> None:
        in_bucket = uri.startswith("s3://")
        self.are_links = not in_bucket and not elsewhere
        """Whether addresses can be followed from the report."""
        self.root = f"{uri.rstrip('/')}/{experiment}/" if in_bucket else f"{experiment}/"
        """Where the experiment lies, as far as readers of the report can make use of it."""
        self.experiment = experiment

    def folder(self, trial: TrialResults) -> str:
        """Where the trial's records lie."""
        place = TrialKeys(self.experiment, trial.trial_id).prefix.removeprefix(f"{self.experiment}/")
        return f"../{place}" if self.are_links else f"{self.root}{place}"

    def records(self, trial: TrialResults) -> list[Record]:
        """What is there of a trial: its configuration, log and weights, and where it came from."""
        names = {"config": "config.json", "provenance": "provenance.json"} if trial.provenance else {}
        if trial.provenance.get("patch_sha256"):
            names["patch"] = "source.patch"
        if trial.metrics:
            names["log"] = "metrics.jsonl"
        if trial.state in ("failed", "early-stopped"):
            names["failure"] = "failure.json"
        if trial.state == "finished":
            names |= {"model": "model.pt", "result": "result.json"}
        return [Record(title, self.folder(trial) + name) for title, name in names.items()]
