"""Encoded images of one split out of shards, any one at any time, read from storage in blocks that are kept a while."""

import threading
import zlib
from collections import OrderedDict
from concurrent.futures import Future

import numpy as np

from resnet_dist.data.shard_index import INDEX, ShardIndex, SplitIndex
from resnet_dist.errors import DataError
from resnet_dist.storage.interface import RangedStorage

Block = dict[int, tuple[int, bytes]]
"""Bytes of each shard in a block, and where in the shard they begin."""


class ShardReader:
    """Reads images of a split. Threads share it: whoever wants a block first reads it, and others wait for it."""

    def __init__(self, storage: RangedStorage, index: ShardIndex, split: SplitIndex, block: int, held: int) -> None:
        self.storage = storage
        self.index = index
        self.split = split
        self.block = block
        """Images that are read at once."""
        self.held = held
        """Blocks that are kept, those that were asked for last."""
        self._blocks: OrderedDict[int, Future[Block]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, image: int) -> bytes:
        """The encoded image of this number. A `DataError` if its shard is missing or damaged."""
        shard, start, length = (int(getattr(self.split, name)[image]) for name in ("shard", "offset", "length"))
        first, content = self._block(image // self.block)[shard]
        data = content[start - first : start - first + length]
        if len(data) != length or zlib.crc32(data) != self.split.crc32[image]:
            place = f"{self.storage.uri}/{self.index.shards[shard]['name']}"
            raise DataError(
                f"data.source: {place} is damaged at byte {start}; remove it, its record in parts/ and {INDEX}, and "
                "shard the data set again"
            )
        return data

    def name(self, image: int) -> str:
        """What the file of an image is called, in its shard."""
        shard, start = int(self.split.shard[image]), int(self.split.offset[image])
        header = self.storage.get_range(self.index.shards[shard]["name"], start - 512, 100) or b""
        member = header.rstrip(b"\0").decode(errors="replace")
        return f"{member} in {self.storage.uri}/{self.index.shards[shard]['name']}"

    def _block(self, number: int) -> Block:
        with self._lock:
            future = self._blocks.get(number)
            mine = future is None
            if future is None:
                future = self._blocks[number] = Future()
                while len(self._blocks) > self.held:
                    self._blocks.popitem(last=False)
            self._blocks.move_to_end(number)
        if mine:
            try:
                future.set_result(self._read(number))
            except BaseException as error:
                with self._lock:
                    self._blocks.pop(number, None)  # whoever asks again reads again
                future.set_exception(error)
        return future.result()

    def _read(self, number: int) -> Block:
        images = np.arange(number * self.block, min((number + 1) * self.block, len(self.split)))
        shards = self.split.shard[images]
        block = {}
        for shard in np.unique(shards).tolist():
            part = images[shards == shard]
            start = int(self.split.offset[part].min())
            stop = int((self.split.offset[part] + self.split.length[part]).max())
            name = self.index.shards[shard]["name"]
            content = self.storage.get_range(name, start, stop - start)
            if content is None:
                raise DataError(f"data.source: {self.storage.uri} lacks {name}; shard the data set again")
            block[shard] = (start, content)
        return block
