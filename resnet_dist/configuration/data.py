"""What of a configuration concerns images, their order and their augmentation."""

import os
import shlex
from dataclasses import dataclass
from typing import Literal

from resnet_dist.configuration.code import choose, is_custom
from resnet_dist.configuration.sections import Section
from resnet_dist.errors import ConfigurationError
from resnet_dist.paths import recordable

SOURCES = {
    "synthetic": "resnet_dist.data.synthetic",
    "cifar10": "resnet_dist.data.cifar",
    "cifar100": "resnet_dist.data.cifar",
    "folder": "resnet_dist.data.image_folder",
}
"""Module of each kind of source; its `cache_entry(data, cache)` gives a name in the cache and what decodes."""


_PLACES = {"folder": "folder:PATH", "shards": "shards:DEST"}


IMAGENET = "imagenet:ILSVRC2012"
"""What a recipe or a reference calls ImageNet itself, which no run reads but from shards."""


def _names_a_place(source: str) -> bool:
    return "/" in source or "\\" in source or os.path.exists(source)  # noqa: PTH110 - of any text


@dataclass(frozen=True)
class DataConfig(Section):
    """Images, their order and their augmentation."""

    source: str = "synthetic"
    """`synthetic` (built in), `cifar10`, `cifar100` (downloaded), or `folder:PATH`, a directory or a .tar,
    .tar.gz, .tar.xz or .zip archive with train/<class>/ and test/<class>/ images; `shards:DEST`, what
    `resnet-dist data shard` wrote to a directory or s3://bucket/prefix; or a source of your own, as
    `module:callable`."""
    size: int = 32
    """Rows and columns of the images. `synthetic` is drawn in any size; of a folder or a source of your own it says
    what they have, or, with `resize`, what a folder's get, as those in shards always do; downloads have images of 32x32
    pixels."""
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
    augmentation: Literal["shift", "paper", "today"] = "shift"
    """What is cut out of a training image. `shift`: its middle, which is then shifted. Of images in shards alone, at
    their own size and without a shift: `paper`, a square whose side the image has 8/7 to 15/7 of (256 to 480 for 224
    pixels), with the colours of Krizhevsky 2012; `today`, 8 to 100 % of its area at 3/4 to 4/3. Both are tested on 7/8
    of the middle."""
    test_crops: Literal["one", "ten", "scales"] = "one"
    """How a network is tested on images of shards. `one`: on the middle; `ten`: on the mean of its probabilities for
    middle and corners, also mirrored; `scales`: for the whole image at five scales (1 to 20/7 of `size`), likewise, as
    He et al. 2015 have them. The others cost 10 and 36 times as much."""
    colour: float = 0.0
    """Brightness, contrast and saturation of each training image are multiplied, in this order, by factors drawn from 1
    less this to 1 plus this. 0 leaves them alone."""
    cutout: int = 0
    """Side of a square, in pixels, about a place anywhere in each training image, that is zero (arXiv:1708.04552:
    16)."""
    mixup: float = 0.0
    """Join training images by twos, and their losses, in parts drawn from Beta(mixup, mixup), once a batch
    (arXiv:1710.09412: 0.2). 0 means none."""
    transform: str = ""
    """An augmentation of your own for training images, as `module:callable`."""
    shuffle_block: int = 32
    """Images of shards that are read at once, and stay together in the order of an epoch but for `shuffle_window`. With
    `sampling` by replacement each is read by itself."""
    shuffle_window: int = 4
    """Blocks over which the images of each are spread in an epoch's order. More shuffle better and take more memory."""
    decoding_threads: int = 4
    """Threads of each worker that read and decode images of shards, ahead of the step that needs them."""

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
        elif kind == "shards":
            if not path:
                raise ConfigurationError("data.source: 'shards:' needs a place, as in shards:s3://bucket/imagenet")
            if not path.startswith("s3://"):
                object.__setattr__(self, "source", f"shards:{recordable(path, 'data.source')}")
        elif kind == "imagenet" and self.source != IMAGENET:
            raise ConfigurationError(
                f"data.source: {self.source!r}: make shards of it first "
                f"(resnet-dist data shard {shlex.quote(self.source)} DEST), and give shards:DEST"
            )
        elif not is_custom(self.source) and kind not in SOURCES and _names_a_place(self.source):
            raise ConfigurationError(
                f"data.source: {self.source!r} is a path or an address; give folder:PATH, of what is here"
            )
        elif self.source != IMAGENET:
            choose("data.source", self.source, tuple(_PLACES.get(kind, kind) for kind in (*SOURCES, "shards")))
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
        for name, plain in (("augmentation", "shift"), ("test_crops", "one")):
            if (value := getattr(self, name)) != plain and not self.is_streamed:
                raise ConfigurationError(
                    f"data.{name}: {value!r} cuts from images of their own size, which shards have: resnet-dist data "
                    "shard SOURCE DEST, and data.source shards:DEST"
                )
        if self.transform:
            choose("data.transform", self.transform, ())
        self.require("colour", 0 <= self.colour <= 1, "from 0 to 1")
        self.require("cutout", 0 <= self.cutout <= self.size, f"from 0 to {self.size}")
        self.require("mixup", 0 <= self.mixup <= 100, "from 0 to 100")
        self.require("shuffle_block", 1 <= self.shuffle_block <= 4096, "from 1 to 4,096")
        self.require("shuffle_window", 1 <= self.shuffle_window <= 1024, "from 1 to 1,024")
        self.require("decoding_threads", 1 <= self.decoding_threads <= 256, "from 1 to 256")
        self.require("shift", 0 <= self.shift < self.size, f"from 0 to {self.size - 1}")

    def images_alone(self) -> "DataConfig":
        """What decides which images the source gives, before limits and holdout; the rest as it is by default."""
        kept = ("source", "size", "resize", "split", "fingerprint", "augmentation", "test_crops", "decoding_threads")
        return DataConfig(**{name: getattr(self, name) for name in kept})

    @property
    def is_streamed(self) -> bool:
        """Whether images are read and decoded as steps need them, from shards in storage."""
        return self.source.startswith("shards:") or self.source == IMAGENET

    @property
    def identified_by_content(self) -> bool:
        """Whether a hash of the images, and not the source's name, says what they are."""
        return self.source.startswith(("folder:", "shards:")) or is_custom(self.source)

    @property
    def caveat(self) -> str | None:
        """A sentence to stand beside every number from this data that readers may take for one on CIFAR-10."""
        if is_custom(self.source):
            return "These images come from a source of the user's own: errors on them compare with no published ones."
        if self.is_streamed:
            return (
                "These images were read from shards: errors on them compare with published ones only if the images do."
            )
        if not self.source.startswith("folder:"):
            return None
        return (
            "These images were read from a folder or archive: errors on them are not comparable with published ones. "
            "CIFAR-10 re-encoded as JPEG, for one, is a harder task than CIFAR-10 itself."
        )
