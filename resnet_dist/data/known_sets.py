"""Data sets that references name: how shards are known to have been made of one, whole and as it was published."""

import hashlib
import json
from dataclasses import dataclass

from resnet_dist.configuration.data import IMAGENET
from resnet_dist.data.shard_index import ShardIndex


@dataclass(frozen=True)
class KnownSet:
    """What tells a data set from its parts, and from copies of other sizes."""

    classes: str
    """SHA-256 of the sorted names of its classes, as JSON has them."""
    images: tuple[int, int]
    """For training and for the test."""
    archive_bytes: tuple[int, int]
    """Of the archives of both as they were published: what lies in them is 0.6 % less, their headers."""

    def is_in(self, index: ShardIndex) -> bool:
        """Whether shards hold this set."""
        splits = index.train, index.test
        return (
            hashlib.sha256(json.dumps(sorted(index.classes)).encode()).hexdigest() == self.classes
            and tuple(map(len, splits)) == self.images
            and all(
                0.99 * archive < int(split.length.sum()) <= archive
                for split, archive in zip(splits, self.archive_bytes, strict=True)
            )
        )


KNOWN_SETS = {
    IMAGENET: KnownSet(
        "624954f06d059ddd477ab500dc059cf2628ac01e441d8a648d1dc6fbfe504c5a",
        (1_281_167, 50_000),
        (147_897_477_120, 6_744_924_160),
    )
}
"""By the name that references give them as `data.source`."""


def known_name(index: ShardIndex) -> str:
    """The name by which references know what is in shards; empty if they know it not."""
    return next((name for name, known in KNOWN_SETS.items() if known.is_in(index)), "")
