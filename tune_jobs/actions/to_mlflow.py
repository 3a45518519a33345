"""Finished trials given to an MLflow tracking server, each as a run with parameters, metrics by epoch and artifacts."""

import logging
import os
import re
from typing import Any

from cluster.storage.keys import BrowsableStorage
from resnet_dist.errors import UserError
from tune_jobs.actions.callbacks import Say
from tune_jobs.actions.hand_over import Given, HandedOver, hand_over, missing

TRIAL = "resnet_dist.trial"
"""The tag by which a run is known to be a trial's."""
NOBODY = re.compile("NewConnectionError|NameResolutionError|ConnectTimeoutError")
"""Of an error that the address is wrong or the server away."""
AT_A_TIME = 900
"""Metrics of a request; MLflow takes at most 1,000."""


def to_mlflow(storage: BrowsableStorage, name: str, uri: str, say: Say) -> HandedOver:
    """Give the finished trials of an experiment to the MLflow experiment of its name at a tracking URI.

    Raises a `UserError` if MLflow is not installed, or its server cannot be reached or refuses.
    """
    try:
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ImportError:
        raise missing("mlflow-skinny", "mlflow") from None
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # which is the command's own, perhaps JSON
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # by its own 7 it waits for minutes
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # each try is a warning
    client: Any = MlflowClient(tracking_uri=uri)

    def there(trial_id: str) -> bool:
        """Whether the trial has a run; one that an interrupted hand-over left is deleted."""
        complete = False
        for run in client.search_runs([experiment], f"tags.`{TRIAL}` = '{trial_id}'"):
            if run.info.status == "FINISHED":
                complete = True
            else:
                client.delete_run(run.info.run_id)
        return complete

    def give(given: Given) -> None:
        trial, began = given.trial, int(1000 * given.started)
        tags = {TRIAL: trial.trial_id, "resnet_dist.cells": given.cells, **given.origin}
        run = client.create_run(experiment, start_time=began, run_name=trial.name).info.run_id
        parameters = [Param(key, str(value)) for key, value in given.parameters.items()]
        client.log_batch(run, params=parameters, tags=[RunTag(key, value) for key, value in tags.items()])
        metrics, ended = [], began
        for epoch, seconds, numbers in given.epochs:
            ended = began + int(1000 * seconds)
            metrics += [Metric(key, value, ended, epoch) for key, value in numbers.items()]
        for start in range(0, len(metrics), AT_A_TIME):
            client.log_batch(run, metrics=metrics[start : start + AT_A_TIME])
        client.log_artifacts(run, str(given.files))
        client.set_terminated(run, "FINISHED", ended)  # last: the run is complete

    try:
        found = client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else client.create_experiment(name)
        return hand_over(storage, name, f"{uri}, experiment {name}", there, give, say)
    except MlflowException as error:
        if NOBODY.search(str(error)):
            raise UserError(f"--to mlflow {uri}: no server answers there; start one with: mlflow server") from error
        raise UserError(f"--to mlflow {uri}: {' '.join(str(error).split())[:300]}") from error
