"""What a trial will ask of storage: requests, and bytes that are sent."""

import math

from resnet_dist.configuration.run import LONGEST, RunConfig
from resnet_dist.configuration.training import TrainingConfig

REQUESTS_OF_A_TRIAL = 14
"""At its start and at its end."""
REQUESTS_OF_AN_EPOCH = 2
"""Events and metrics line."""
REQUESTS_OF_A_CHECKPOINT = 4
"""State and manifest, and the deletion of older ones."""
BYTES_OF_A_TRIAL = 200_000
"""Pictures and settings in its first events, each sent several times; its other records; what frames the weights."""
BYTES_OF_A_POINT = 54
"""Of a curve of TensorBoard, in its event file."""
BYTES_OF_A_LINE = 260
"""Of metrics.jsonl."""
EVENT_FILES = 8
"""Each epoch sends the newest one again (`resnet_dist/summaries/event_files.py`), and all of metrics.jsonl."""


def expected(
    config: TrainingConfig, seconds: float, steps: int, weights: int, state_copies: int
) -> tuple[float, float]:
    """Requests and bytes of a trial that trains so long, for so many updates.

    `weights`: bytes; `state_copies`: as many bytes as weights that a checkpoint has, times so many.
    """
    run = config.run
    written = checkpoints(run, seconds, steps)
    requests = REQUESTS_OF_A_TRIAL + REQUESTS_OF_AN_EPOCH * run.epochs + REQUESTS_OF_A_CHECKPOINT * written
    of_an_epoch = BYTES_OF_A_POINT * 2 * (steps / run.epochs / run.summary_steps + 3)
    events = of_an_epoch * run.epochs * (1 + run.epochs / EVENT_FILES) / 2
    lines = BYTES_OF_A_LINE * (run.epochs**2 + written * run.epochs) / 2
    return requests, BYTES_OF_A_TRIAL + events + lines + weights * (1 + state_copies * written)


def checkpoints(run: RunConfig, seconds: float, steps: int) -> int:
    """How many a run writes, the last one included."""
    by_time = seconds / run.checkpoint_seconds if run.checkpoint_seconds else 0.0
    if run.checkpoints:
        by_time = min(by_time, max(run.checkpoints, seconds / LONGEST))
    by_epochs = run.epochs / run.checkpoint_epochs if run.checkpoint_epochs else 0.0
    by_steps = steps / run.checkpoint_steps if run.checkpoint_steps else 0.0
    return max(1, math.ceil(max(by_time, by_epochs, by_steps)))
