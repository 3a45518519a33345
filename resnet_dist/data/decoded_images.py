"""What every data source is decoded to: two splits of labelled images and the names of the classes."""

import hashlib
import json
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

ARRAY_TYPES = {
    "train_images": "uint8",
    "train_labels": "int64",
    "test_images": "uint8",
    "test_labels": "int64",
}
"""Type of each array of a `DecodedImages`, in the order in which they are hashed."""


@dataclass(frozen=True)
class DecodedImages:
    """A whole data source, before limits and holdout."""

    train_images: NDArray[np.uint8]
    """uint8 [N, 3, S, S]; S is 32 unless `data.size` says otherwise."""
    train_labels: NDArray[np.int64]
    """int64 [N], indices into `classes`."""
    test_images: NDArray[np.uint8]
    """uint8 [M, 3, S, S]."""
    test_labels: NDArray[np.int64]
    """int64 [M], indices into `classes`."""
    classes: tuple[str, ...]
    """Name of each class."""

    def interleaved(self) -> "DecodedImages":
        """The same images in the order of `interleaved_order`, in which any prefix is balanced by class."""
        train = interleaved_order(self.train_labels)
        test = interleaved_order(self.test_labels)
        return replace(
            self,
            train_images=self.train_images[train],
            train_labels=self.train_labels[train],
            test_images=self.test_images[test],
            test_labels=self.test_labels[test],
        )

    def fingerprint(self) -> str:
        """Hash of images, labels, their order and the class names: 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for name, dtype in ARRAY_TYPES.items():
            array = getattr(self, name)
            digest.update(f"{name} {dtype} {list(array.shape)}\n".encode())
            little_endian = np.dtype(dtype).newbyteorder("<")
            digest.update(np.ascontiguousarray(array, little_endian).view(np.uint8).data)
        digest.update(json.dumps(self.classes).encode())
        return digest.hexdigest()[:16]


def interleaved_order(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices that take the classes in turn, each class in its given order: int64 [N].

    Of classes of unequal size every prefix holds their share, to within one image of each.
    """
    by_class = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    starts = np.cumsum(counts) - counts
    position = np.empty(len(labels), np.int64)
    position[by_class] = np.arange(len(labels)) - starts[labels[by_class]]
    # The k-th of n images of a class stands at (k + 1/2) / n of the way; equal fractions go by class. Division is
    # rounded alike on every machine, so the order is too.
    fraction = (2 * position + 1) / counts[labels]
    return np.lexsort((labels, fraction)).astype(np.int64)
