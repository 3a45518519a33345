"""What of a configuration concerns images, their order and their augmentation."""

import os
from dataclasses import dataclass
from typing import Literal

from resnet_dist.configuration.code import choose, is_custom
from resnet_dist.configuration.sections import Section
from resnet_dist.errors import ConfigurationError
from resnet_dist.paths import recordable

SOURCES = {
    "synthetic": "resnet_dist.data.synthetic",
    "cifar10": "resnet_dist.data.downloads",
    "cifar100": "resnet_dist.data.downloads",
    "folder": "resnet_dist.data.image_folder",
}
"""Module of each kind of source; its `cache_entry(data, cache)` gives a name in the cache and what decodes."""


def _names_a_place(source: str) -> bool:
    return "/" in source or "\\" in source or os.path.exists(source)  # noqa: PTH110 - of any text


@dataclass(frozen=True)
class DataConfig(Section):
    """Images, their order and their augmentation."""

    source: str = "synthetic"
    """`synthetic` (built in), `cifar10`, `cifar100` (downloaded), or `folder:PATH`, a directory or a .tar,
    .tar.gz, .tar.xz or .zip archive with train/<class>/ and test/<class>/ images; or a source of your own, as
    `module:callable`."""
    size: int = 32
    """Rows and columns of the images. `synthetic` is drawn in any size; of a folder or a source of your own it says
    what they have, or, with `resize`, what a folder's get; downloads have images of 32x32 pixels."""
    resize: Literal["none", "crop"] = "none"
    """What becomes of a folder's images of other sizes: `none` refuses them; `crop` scales the shorter side of each
    to `size`, and takes the middle."""
    split: float = 0.0
    """Of a folder of class folders alone, without train/ and test/: about this part of the images is trained on, and
    the rest is for the test. A hash of its pixels decides for each image. 0 means that the folder is split."""
    fingerprint: str = ""
    """Hash of the decoded images and labels. Filled in when the data is loaded; give it to insist on it."""
    train_limit: int = 0
    """Use only the first so many training images (they are interleaved by class); 0 means all."""
    test_limit: int = 0
    """Use only the first so many test images; 0 means all."""
    holdout: int = 0
    """Training images held out as a validation set, whose error is reported beside the test error (the paper
    held out 5000)."""
    batch_size: int = 128
    """Images per update of the weights, over all workers together."""
    accumulation: int = 1
    """Sub-batches that a batch is split into to save memory; batch norm sees one sub-batch at a time."""
    sampling: Literal["replacement", "permutation"] = "replacement"
    """`replacement`: every batch drawn uniformly from the training set, as the study did. `permutation`: each
    image once an epoch, in a new order each time."""
    shift: int = 4
    """Training images are shifted by up to so many pixels each way, the gap filled with zeros."""
    flip: bool = True
    """Whether training images are flipped horizontally with probability one half."""

    def check(self) -> None:
        """Refuse unknown sources and impossible sizes."""
        kind, _, path = self.source.partition(":")
        if kind == "folder":
            if not path:
                raise ConfigurationError("data.source: 'folder:' needs a path, as in folder:/data/cifar10.tar.xz")
            if "://" in path:
                raise ConfigurationError(f"data.source: {self.source!r}: give the path of a directory or archive here")
            # Workers have another working directory than whoever wrote the path.
            object.__setattr__(self, "source", f"folder:{recordable(path, 'data.source')}")
        elif not is_custom(self.source) and kind not in SOURCES and _names_a_place(self.source):
            raise ConfigurationError(
                f"data.source: {self.source!r} is a path or an address; give folder:PATH, of what is here"
            )
        else:
            choose("data.source", self.source, tuple("folder:PATH" if kind == "folder" else kind for kind in SOURCES))
        for name in ("train_limit", "test_limit", "holdout"):
            self.require(name, getattr(self, name) >= 0, "at least 0")
        self.require("batch_size", self.batch_size >= 2, "at least 2 (batch norm needs two images)")
        self.require(
            "accumulation",
            1 <= self.accumulation <= self.batch_size // 2,
            f"from 1 to {self.batch_size // 2} (batch norm needs two images in each sub-batch)",
        )
        self.require("size", 8 <= self.size <= 4096, "from 8 to 4,096")
        if self.size != 32 and kind in ("cifar10", "cifar100"):
            raise ConfigurationError(f"data.size: {self.size} is not allowed: images of {self.source} are 32x32 pixels")
        self.require("split", 0 <= self.split < 1, "at least 0 and below 1, such as 0.8")
        for name, is_given in (("resize", self.resize != "none"), ("split", self.split > 0)):
            if is_given and kind != "folder":
                raise ConfigurationError(f"data.{name}: is for images in a folder (folder:PATH), not for {self.source}")
        self.require("shift", 0 <= self.shift < self.size, f"from 0 to {self.size - 1}")

    def images_alone(self) -> "DataConfig":
        """What decides which images the source gives, before limits and holdout; the rest as it is by default."""
        kept = ("source", "size", "resize", "split", "fingerprint")
        return DataConfig(**{name: getattr(self, name) for name in kept})

    @property
    def identified_by_content(self) -> bool:
        """Whether a hash of the images, and not the source's name, says what they are."""
        return self.source.startswith("folder:") or is_custom(self.source)

    @property
    def caveat(self) -> str | None:
        """A sentence to stand beside every number from this data that readers may take for one on CIFAR-10."""
        if is_custom(self.source):
            return "These images come from a source of the user's own: errors on them compare with no published ones."
        if not self.source.startswith("folder:"):
            return None
        return (
            "These images were read from a folder or archive: errors on them are not comparable with published ones. "
            "CIFAR-10 re-encoded as JPEG, for one, is a harder task than CIFAR-10 itself."
        )
