"""The index of a data set in shards: where each encoded image lies, what it is, and what all of them are.

DEST/train-00000.tar, …, test-00000.tar, …    <key>.<extension> and <key>.cls of each image, as WebDataset reads them
DEST/parts/<shard>.json                       what is known of each shard while others are being made
DEST/index.npz                                written last: the data set is whole
"""

import hashlib
import io
import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_dist.errors import DataError
from resnet_dist.file_kinds import ZIP_ERRORS
from resnet_dist.storage.interface import Storage

INDEX = "index.npz"

VERSION = 1

_ARRAYS = {"shard": "<i4", "offset": "<i8", "length": "<i8", "label": "<i4", "crc32": "<u4"}


@dataclass(frozen=True)
class SplitIndex:
    """The images of one split, in their order in the shards. All arrays are [N]."""

    shard: NDArray[np.int32]
    """Position among the index's shards."""
    offset: NDArray[np.int64]
    """Where the file begins in its shard, in bytes."""
    length: NDArray[np.int64]
    """Bytes of the file."""
    label: NDArray[np.int32]
    crc32: NDArray[np.uint32]
    """Checksum of the file."""

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True)
class ShardIndex:
    """A whole data set in shards."""

    classes: tuple[str, ...]
    """Name of each class."""
    shards: tuple[dict[str, Any], ...]
    """`name`, `bytes` and `sha256` of each."""
    train: SplitIndex
    test: SplitIndex
    mean: tuple[float, ...]
    """Mean of the training images by channel, from 0 to 255; each image weighs the same, whatever its size."""
    products: tuple[tuple[float, ...], ...]
    """Mean of the products of each two channels, [3][3]."""
    listing: str
    """Hash of the names, labels and sizes of what was sharded, and of how."""
    left_out: tuple[str, ...]
    """Images that could not be decoded, and are in no shard."""
    fingerprint: str = ""
    """Hash of all the above: 16 hexadecimal digits."""

    @property
    def standard_deviation(self) -> float:
        """Of all values about their one overall mean."""
        overall = sum(self.mean) / 3
        return float(np.sqrt(sum(self.products[c][c] for c in range(3)) / 3 - overall**2))

    def covariance(self) -> NDArray[np.float64]:
        """Covariance of the channels, [3, 3], in squares of values from 0 to 255."""
        mean = np.array(self.mean)
        return np.array(self.products) - np.outer(mean, mean)

    def fingerprinted(self) -> "ShardIndex":
        """The same with its fingerprint."""
        digest = hashlib.sha256(json.dumps(self._meta(), sort_keys=True).encode())
        for array in self._arrays().values():
            digest.update(array.tobytes())
        return replace(self, fingerprint=digest.hexdigest()[:16])

    def encode(self) -> bytes:
        """The content of `index.npz`."""
        buffer = io.BytesIO()
        meta = json.dumps(self._meta() | {"fingerprint": self.fingerprint}, indent=1).encode()
        np.savez_compressed(buffer, meta=np.frombuffer(meta, np.uint8), **self._arrays())  # type: ignore[arg-type]
        return buffer.getvalue()

    def _meta(self) -> dict[str, Any]:
        kept = ("classes", "shards", "mean", "products", "listing", "left_out")
        return {"version": VERSION, "train_images": len(self.train)} | {name: getattr(self, name) for name in kept}

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {
            name: np.concatenate([getattr(split, name) for split in (self.train, self.test)]).astype(dtype)
            for name, dtype in _ARRAYS.items()
        }


def read_index(storage: Storage) -> ShardIndex | None:
    """The index of the data set in a storage; None if there is none. A `DataError` if it is damaged."""
    data = storage.get(INDEX)
    if data is None:
        return None
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as held:
            meta = json.loads(held["meta"].tobytes())
            arrays = {name: held[name].astype(dtype) for name, dtype in _ARRAYS.items()}
        if meta["version"] != VERSION:
            raise DataError(f"data.source: {storage.uri}/{INDEX} was made by another version; shard the data set again")
        count = meta["train_images"]
        train, test = ({name: array[part] for name, array in arrays.items()} for part in (np.s_[:count], np.s_[count:]))
        index = ShardIndex(
            classes=tuple(meta["classes"]),
            shards=tuple(meta["shards"]),
            train=SplitIndex(**train),
            test=SplitIndex(**test),
            mean=tuple(meta["mean"]),
            products=tuple(map(tuple, meta["products"])),
            listing=meta["listing"],
            left_out=tuple(meta["left_out"]),
        ).fingerprinted()
        whole = index.fingerprint == meta["fingerprint"]
    except (ValueError, KeyError, TypeError, OSError, *ZIP_ERRORS):
        whole = False
    if not whole:
        raise DataError(f"data.source: {storage.uri}/{INDEX} is damaged; remove it, and shard the data set again")
    return index
