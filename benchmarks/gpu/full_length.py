"""Training at full length: seeds of one configuration side by side on one GPU, with all their records."""

import logging
import threading
from functools import partial
from pathlib import Path
from typing import Any

from cluster.storage.local import LocalStorage
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.launch import Job, run_in_process
from resnet_dist.side_by_side import beginning
from resnet_dist.training.numerics import settings_of_run

LOGGER = logging.getLogger(__name__)


def train_seeds(config: TrainingConfig, seeds: int, into: Path) -> list[dict[str, Any]]:
    """Train the seeds side by side, a thread and a stream for each. Returns what each came to, or its error."""
    outcomes: list[dict[str, Any]] = [{} for _ in range(seeds)]

    def train(seed: int) -> None:
        of = config.override({"run.seed": seed})
        job = Job(of, "full-length", f"{of.network.depth}-layers/seed-{seed}", partial(LocalStorage, into))

        try:
            with beginning() as on_step:
                outcomes[seed] = {"trial": of.trial_id(), **run_in_process(job, on_step=on_step)}
        except Exception as error:
            LOGGER.exception("seed %d", seed)
            outcomes[seed] = {"trial": of.trial_id(), "error": str(error)}

    threads = []
    with settings_of_run(exact=False):  # of the process: the first of the threads to end must not take them back
        for seed in range(seeds):
            threads.append(threading.Thread(target=train, args=(seed,), name=f"seed-{seed}", daemon=True))
            threads[-1].start()
        for thread in threads:
            thread.join()
    return outcomes
