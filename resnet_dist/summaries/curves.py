"""TensorBoard's view of a run: the events of each epoch, made in memory as a segment.

`event_files` puts segments together to files.
"""

import io
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from resnet_dist.summaries.event_files import EventFiles


class Observation(NamedTuple):
    """A summary for TensorBoard, and the step at which it stands."""

    summary: Any
    step: int


class Segment:
    """Events of a stretch of steps."""

    def __init__(self) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._buffer = io.BytesIO()
        self._writer = RecordWriter(self._buffer)
        self._event = Event

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Add one point of a curve; `step` counts updates of the weights."""
        from torch.utils.tensorboard.summary import scalar

        self.add(scalar(tag, value), step)

    def add(self, summary: Any, step: int) -> None:
        """Add a summary of any kind."""
        event = self._event(wall_time=time.time(), step=step, summary=summary)
        self._writer.write(event.SerializeToString())

    def data(self) -> bytes:
        """The events as records of an event file, of which the file's own first one is none."""
        return self._buffer.getvalue()


def write_epoch(
    files: EventFiles,
    line: dict[str, Any],
    losses: list[float],
    rates: list[float],
    every: int,
    observations: Sequence[Observation] = (),
) -> None:
    """Write one epoch's events.

    `losses` and `rates` are the training loss and learning rate of each of its steps; a point stands for the mean
    loss of the `every` steps up to it. `line` is the epoch's line of metrics.jsonl.
    """
    segment = Segment()
    last = line["step"]
    first = last - len(losses)
    for observation in observations:
        segment.add(*observation)
    for stop in range(every, len(losses) + every, every):
        stop = min(stop, len(losses))
        start = (stop - 1) // every * every
        segment.scalar("train/loss", sum(losses[start:stop]) / (stop - start), first + stop)
        segment.scalar("train/learning_rate", rates[stop - 1], first + stop)
    for tag, name in (
        ("test/top1_error", "top1_error"),
        ("test/top5_error", "top5_error"),
        ("test/loss", "test_loss"),
        ("validation/top1_error", "validation_error"),
        ("train/epoch_loss", "train_loss"),
        ("train/images_per_second", "images_per_second"),
    ):
        if line.get(name) is not None:
            segment.scalar(tag, line[name], last)
    files.write(line["epoch"], segment.data())
