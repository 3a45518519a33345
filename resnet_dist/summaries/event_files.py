"""How a trial's TensorBoard events are divided into files.

A trial has at most `FILES` event files, whatever its length: TensorBoard's fast loader keeps every one of them open.
Each is for the same number of epochs and named after the last of these. An epoch's events are added to the newest
file, which is written again as a whole: an object store cannot append. So at every moment each point is there once,
nothing has to be deleted, and a run only ever grows at its end, which is what TensorBoard can follow.
"""

import io
import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Any

from resnet_dist.storage.interface import Storage, TrialKeys

FILES = 8
"""More files mean fewer bytes (an event is sent epochs / FILES / 2 times) and more files open in TensorBoard."""

TIMINGS = ("train/images_per_second",)
"""Curves that differ from one attempt to the next although the run is the same."""


class EventFiles:
    """The event files of one trial that is to run `epochs` epochs."""

    def __init__(self, storage: Storage, keys: TrialKeys, trial_name: str, epochs: int) -> None:
        self.storage = storage
        self.keys = keys
        self.trial_name = trial_name
        self.epochs = epochs
        self.width = -(-epochs // FILES)
        """Epochs for which a file has room."""
        self._records: dict[int, bytes] = {}  # by epoch, from the newest file's first epoch on

    def take_up(self, last_steps: Iterable[int]) -> None:
        """Read what an earlier attempt wrote. `last_steps` are the last steps of the recorded epochs, from epoch 1 on.

        Files that are divided in another way (by an earlier version) are replaced.
        """
        steps = sorted(last_steps)
        found = [item.key for item in self.storage.list(self.keys.event_file(self.trial_name, ""))]
        expected = {self._key(epoch) for epoch in range(1, self.epochs + 1)}
        others = [key for key in found if key not in expected]
        for key in sorted(found, key=lambda key: key in others):
            epochs: dict[int, bytes] = {}
            for event, record in _records(self.storage.get(key) or b""):
                # The epoch after the last recorded one may have reached its events before it was interrupted.
                epoch = bisect_left(steps, event.step) + 1
                epochs[epoch] = epochs.get(epoch, b"") + record
            self._records = epochs | self._records
        if others:
            for epoch in self._records:
                if epoch % self.width == 0 or epoch + 1 not in self._records:
                    self._put(epoch)
            for key in others:
                self.storage.delete(key)

    def write(self, epoch: int, records: bytes) -> None:
        """Write an epoch's events, given as records (`curves.Segment`).

        Where an earlier attempt wrote the same points, they are left as they are; where it wrote others, these and
        all that follow them go.
        """
        earlier = self._records.get(epoch)
        if earlier is None or _points(earlier) != _points(records):
            self._records[epoch] = records
            later = [other for other in self._records if other > epoch]
            for other in later:
                del self._records[other]
            self._put(epoch)
            for key in sorted({self._key(other) for other in later} - {self._key(epoch)}):
                self.storage.delete(key)
        if epoch % self.width == 0:
            self._records = {other: data for other, data in self._records.items() if other > epoch}

    def _put(self, epoch: int) -> None:
        """Write the file that holds an epoch, up to that epoch."""
        first = (epoch - 1) // self.width * self.width + 1
        records = b"".join(self._records.get(other, b"") for other in range(first, epoch + 1))
        self.storage.grow(self._key(epoch), _header(records) + records)

    def _key(self, epoch: int) -> str:
        last = min(-(-epoch // self.width) * self.width, self.epochs)
        return self.keys.event_file(self.trial_name, f"{last:06d}.resnet_dist")


def _header(records: bytes) -> bytes:
    """The record with which an event file begins: a function of what follows, so that a file that grows is the same."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    first, _ = next(_records(records))
    buffer = io.BytesIO()
    RecordWriter(buffer).write(Event(wall_time=first.wall_time, file_version="brain.Event:2").SerializeToString())
    return buffer.getvalue()


def _records(data: bytes) -> Iterator[tuple[Any, bytes]]:
    """Events with the records that hold them, but for the file's header; ends where a record is torn or damaged."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event

    start = 0
    while start + 16 <= len(data):
        (length,) = struct.unpack_from("<Q", data, start)  # then 4 bytes of checksum, the event, 4 of checksum
        stop = start + 16 + length
        if stop > len(data):
            return
        try:
            event = Event.FromString(data[start + 12 : stop - 4])
        except DecodeError:
            return
        if not event.file_version:
            yield event, data[start:stop]
        start = stop


def _points(records: bytes) -> list[tuple[int, bytes]]:
    """What the records say, but for times."""
    said = []
    for event, _ in _records(records):
        values = [value.SerializeToString() for value in event.summary.value if value.tag not in TIMINGS]
        said += [(event.step, value) for value in values]
    return said
