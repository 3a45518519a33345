"""Where the records behind a number lie: links where results are files, keys where they are in a bucket."""

from dataclasses import dataclass

from resnet_dist.storage import TrialKeys
from tune_jobs.results import TrialResults


@dataclass(frozen=True)
class Record:
    """One of a trial's records."""

    title: str
    address: str
    """Relative to the report if results are files, else the object's URI, which no browser opens."""


class RecordLinks:
    """Finds the records of an experiment's trials as seen from its report."""

    def __init__(self, uri: str, experiment: str) -> None:
        self.uri = uri.rstrip("/")
        self.experiment = experiment
        self.are_links = not uri.startswith("s3://")
        """Whether addresses can be followed from the report."""

    def folder(self, trial: TrialResults) -> str:
        """Where the trial's records lie."""
        prefix = TrialKeys(self.experiment, trial.trial_id).prefix
        return f"../{prefix.removeprefix(f'{self.experiment}/')}" if self.are_links else f"{self.uri}/{prefix}"

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
